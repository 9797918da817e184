"""The root fields of an operation: compiled, priced, and bound to one request."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from graphql import GraphQLError, GraphQLObjectType, is_non_null_type
from graphql.execution.values import VariableValues

from gateway.graphql.execution.costs import wish_price
from gateway.graphql.schema.mutations import HANDLERS
from gateway.reads.compiler import Compiler, Plan, UnboundArgument
from gateway.reads.connections import ManyLevel
from gateway.reads.cost import Price
from gateway.reads.pages import BoundPage
from gateway.reads.selection import Field

Pages = Mapping[ManyLevel, BoundPage]


@dataclass(frozen=True, slots=True)
class RootField:
    """One root field of a query or a mutation. `plan` is None for `__typename`; a mutation's is of its payload."""

    field: Field
    plan: Plan | None
    price: Price
    required: bool  # its type is non-null, so without it there is no data at all
    parent: str  # the root type's name


class Bound(NamedTuple):
    """The root fields in one request: what each is to be loaded with, what has its value already, and the cost."""

    wanted: Sequence[tuple[str, Plan, Pages]]
    values: dict[str, Any]  # by response key; a GraphQLError for what is wrong with a page, None for what is wanted
    cost: int


def root_field(compiler: Compiler, root: GraphQLObjectType, field: Field) -> RootField:
    if field.name == "__typename":
        return RootField(field, None, _free, False, root.name)
    required = is_non_null_type(root.fields[field.name].type)
    if field.name not in HANDLERS:
        plan = compiler.root(root.name, field)
        return RootField(field, plan, plan.price, required, root.name)
    payload = compiler.given(field.selection)

    def price(pages: Any, variables: VariableValues) -> int:
        return wish_price(payload.price(pages, variables), field.arguments(variables))

    return RootField(field, payload, price, required, root.name)


def bind(roots: Sequence[RootField], variables: VariableValues) -> Bound:
    """Looks at every argument before anything is loaded or done."""
    wanted: list[tuple[str, Plan, Pages]] = []
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
            cost += root.price(pages, variables)
        except UnboundArgument as error:
            values[key] = located(error)
        except GraphQLError as error:  # an argument that is null
            values[key] = error
        else:
            wanted.append((key, plan, pages))
    return Bound(wanted, values, cost)


def located(error: UnboundArgument) -> GraphQLError:
    """The fault at the field whose argument it is, and not at the root field that cannot be loaded for it."""
    return GraphQLError(error.error.message, nodes=[error.field.origin], original_error=error)


def _free(_pages: Any, _variables: VariableValues) -> int:
    return 0
