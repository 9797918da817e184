"""The root fields of an operation: compiled to plans, and bound to the variables of one request."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from graphql import GraphQLError, GraphQLObjectType
from graphql.execution.values import VariableValues

from gateway.graphql.execution.cost_limit import mutation_cost, target_count
from gateway.graphql.schema.mutations import HANDLERS
from gateway.reads.argument_budget import ArgumentBudget
from gateway.reads.compiler import Compiler, Plan
from gateway.reads.context import Bound
from gateway.reads.cost import CostFunction, total_cost
from gateway.reads.selection import Field, FieldError


@dataclass(frozen=True, slots=True)
class RootField:
    """One root field. `plan` loads its value, or the payload of a mutation or message; None for `__typename`."""

    field: Field
    plan: Plan | None
    cost: CostFunction
    size: CostFunction
    parent: str  # name of the root type


class BoundRootFields(NamedTuple):
    """The root fields of one request: what to load, the values known so far, and the cost. Keys are response keys."""

    roots: Sequence[RootField]
    variables: VariableValues
    loads: Mapping[str, tuple[Plan, Bound]]  # the plan, and the arguments that are bound to it
    values: dict[str, Any]  # a GraphQLError for invalid arguments, None for a value yet to be loaded
    cost: int


def compile_root_field(compiler: Compiler, root: GraphQLObjectType, field: Field) -> RootField:
    if field.name == "__typename":
        return RootField(field, None, _free, _free, root.name)
    if root.name == "Subscription":
        message = compiler.payload({root.name: [field]})
        return RootField(field, message, message.cost, message.size, root.name)
    if field.name not in HANDLERS:
        plan = compiler.root(root.name, field)
        return RootField(field, plan, plan.cost, plan.size, root.name)
    payload = compiler.payload(field.selection)

    def cost(bound: Bound, variables: VariableValues) -> int:
        return mutation_cost(payload.cost(bound, variables), field.arguments(variables))

    def size(bound: Bound, variables: VariableValues) -> int:
        return target_count(field.arguments(variables)) * payload.size(bound, variables)

    return RootField(field, payload, cost, size, root.name)


def bind(roots: Sequence[RootField], variables: VariableValues) -> BoundRootFields:
    """Checks all arguments and computes the cost, before anything is loaded or changed. Raises RequestTooLarge."""
    budget = ArgumentBudget()
    loads: dict[str, tuple[Plan, Bound]] = {}
    values: dict[str, Any] = {}
    objects = size = 0
    for root in roots:
        key, plan = root.field.key, root.plan
        if plan is None:
            values[key] = root.parent
            continue
        values[key] = None
        try:
            bound = plan.bind(variables, budget)
            objects += root.cost(bound, variables)
            size += root.size(bound, variables)
        except FieldError as error:
            values[key] = located(error)
        except GraphQLError as error:  # a non-null argument whose value is null
            values[key] = error
        else:
            loads[key] = plan, bound
    return BoundRootFields(roots, variables, loads, values, total_cost(objects, size))


def located(error: FieldError) -> GraphQLError:
    """The error with the location of the field that has the argument, which may be below the root field."""
    return GraphQLError(error.error.message, nodes=error.field.ast_nodes, original_error=error)


def _free(_bound: Bound, _variables: VariableValues) -> int:
    return 0
