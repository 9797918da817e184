"""The root fields of an operation: compiled to plans, and bound to the variables of one request."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from graphql import GraphQLError, GraphQLObjectType, is_non_null_type
from graphql.execution.values import VariableValues

from gateway.graphql.execution.cost_limit import mutation_cost
from gateway.graphql.schema.mutations import HANDLERS
from gateway.reads.compiler import Compiler, InvalidArguments, Plan
from gateway.reads.context import Pages
from gateway.reads.cost import CostFunction
from gateway.reads.selection import Field


@dataclass(frozen=True, slots=True)
class RootField:
    """One root field of a query or mutation. `plan` loads its value, or a mutation's payload; None for `__typename`."""

    field: Field
    plan: Plan | None
    cost: CostFunction
    required: bool  # its type is non-null, so if it fails the whole `data` is null
    parent: str  # name of the root type


class BoundRootFields(NamedTuple):
    """The root fields of one request: what to load, the values known so far, and the cost. Keys are response keys."""

    roots: Sequence[RootField]
    variables: VariableValues
    loads: Mapping[str, tuple[Plan, Pages]]  # the plan, and the pages of the connections in it
    values: dict[str, Any]  # a GraphQLError for invalid arguments, None for a value yet to be loaded
    cost: int


def compile_root_field(compiler: Compiler, root: GraphQLObjectType, field: Field) -> RootField:
    if field.name == "__typename":
        return RootField(field, None, _free, False, root.name)
    required = is_non_null_type(root.fields[field.name].type)
    if field.name not in HANDLERS:
        plan = compiler.root(root.name, field)
        return RootField(field, plan, plan.cost, required, root.name)
    payload = compiler.payload(field.selection)

    def cost(pages: Any, variables: VariableValues) -> int:
        return mutation_cost(payload.cost(pages, variables), field.arguments(variables))

    return RootField(field, payload, cost, required, root.name)


def bind(roots: Sequence[RootField], variables: VariableValues) -> BoundRootFields:
    """Checks all arguments and computes the cost, before anything is loaded or changed."""
    loads: dict[str, tuple[Plan, Pages]] = {}
    values: dict[str, Any] = {}
    cost = 0
    for root in roots:
        key, plan = root.field.key, root.plan
        if plan is None:
            values[key] = root.parent
            continue
        values[key] = None
        try:
            pages = plan.bind(variables)
            cost += root.cost(pages, variables)
        except InvalidArguments as error:
            values[key] = located(error)
        except GraphQLError as error:  # a non-null argument whose value is null
            values[key] = error
        else:
            loads[key] = plan, pages
    return BoundRootFields(roots, variables, loads, values, cost)


def located(error: InvalidArguments) -> GraphQLError:
    """The error with the location of the field that has the argument, which may be below the root field."""
    return GraphQLError(error.error.message, nodes=[error.field.ast_node], original_error=error)


def _free(_pages: Any, _variables: VariableValues) -> int:
    return 0
