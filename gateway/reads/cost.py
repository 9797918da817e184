"""The cost of a selection: what it may load at most, as if every page were full, and how large the response may be.

The cost is 1 for each object that may be loaded and 1 for each list. The aggregates of a connection, and a list of
groups, cost 10 more, because the database reads all rows that match. A large response costs 1 more for each
`BYTES_PER_COST` bytes beyond the first `FREE_BYTES`: its size decides how long it is rendered and how much memory it
takes, and a row of many fields takes many times that of one field. The size is estimated: the response keys as they
are, and a typical width for each value.

GraphQL and REST use the same functions and the same limit. docs/decisions/0008-cost-of-a-request.md has the reasons.

Costs are compiled from fields in which fragments are merged and `@skip` and `@include` are applied. The size of a page
may be a variable, so it is read when the plan is bound.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.reads import sources
from gateway.reads.context import Bound
from gateway.reads.selection import Field, Selection, Variables

AGGREGATE_COST = 10
FREE_BYTES = 1_000_000  # of a response; larger ones cost more
BYTES_PER_COST = 200
SMALL_COST = 2_000  # of a request whose response is serialized at once: 1.4 MB at most, in about 2 ms

CostFunction = Callable[[Bound, Variables], int]


def total_cost(objects: int, size: int) -> int:
    """The cost of an operation whose root fields load this number of objects, and of this size in bytes."""
    return objects + max(0, size - FREE_BYTES) // BYTES_PER_COST


@dataclass(frozen=True, slots=True)
class _CostSum:
    """A sum under construction: a constant, and terms that depend on the request."""

    constant: int = 0
    terms: Sequence[CostFunction] = ()

    def __add__(self, other: "_CostSum") -> "_CostSum":
        return _CostSum(self.constant + other.constant, (*self.terms, *other.terms))

    def function(self) -> CostFunction:
        constant, terms = self.constant, self.terms
        if not terms:
            return lambda _bound, _variables: constant
        if len(terms) == 1:
            (only,) = terms
            return lambda bound, variables: constant + only(bound, variables)
        return lambda bound, variables: constant + sum(term(bound, variables) for term in terms)

    def times(self, count: int) -> "_CostSum":
        """The cost of `count` such objects."""
        if not self.terms:
            return _CostSum(count * self.constant)
        one = self.function()
        return _CostSum(0, (lambda bound, variables: count * one(bound, variables),))


class CostCompiler:
    """Compiles functions of one plan that compute the number of objects. `nodes` has its page nodes by their fields."""

    row = 1  # what a row of a list adds, besides its fields
    edge = 0  # what an edge adds, besides its fields

    def __init__(self, catalog: sources.Catalog, nodes: Mapping[Field, Any]) -> None:
        self._catalog = catalog
        self._nodes = nodes

    def field(self, type_name: str, field: Field) -> CostFunction:
        """The cost of one field of `type_name`."""
        return self._field(type_name, field).function()

    def selection(self, selection: Selection) -> CostFunction:
        """The cost of one object with this selection."""
        return self._selection(selection).function()

    def own(self, field: Field, sourced: sources.SourcedField | None) -> int:
        """What a field adds, besides the fields below it. `sourced` is None for a field of the list itself."""
        match sourced.source if sourced else None:
            case sources.ToMany() if self._has_aggregates(field):
                return 1 + AGGREGATE_COST
            case sources.GroupedRows(bound=bound):
                return 1 + AGGREGATE_COST + bound
            case sources.ComputedRoot(cost=cost):
                return cost
            case (
                sources.ToMany()
                | sources.RowsByIds()
                | sources.ToOne()
                | sources.RowById()
                | sources.PayloadRow()
                | sources.PayloadEdge()
                | sources.BoundedRows()
            ):
                return 1
            case _:
                return 0  # part of a row that is already counted

    def _selection(self, selection: Selection) -> _CostSum:
        """The cost of the most expensive of its types."""
        sums = [self._fields(type_name, fields) for type_name, fields in selection.items()]
        if not any(one.terms for one in sums):
            return _CostSum(max((one.constant for one in sums), default=0))
        if len(sums) == 1:
            return sums[0]
        functions = [one.function() for one in sums]
        return _CostSum(0, (lambda bound, variables: max(cost(bound, variables) for cost in functions),))

    def _fields(self, type_name: str, fields: Sequence[Field]) -> _CostSum:
        total = _CostSum()
        for field in fields:
            total += self._field(type_name, field)
        return total

    def _field(self, type_name: str, field: Field) -> _CostSum:
        sourced = self._catalog[type_name].get(field.name)  # None for `__typename`, and in a computed object
        own = _CostSum(self.own(field, sourced))
        if sourced is None or not field.selection:
            return own
        match sourced.source:
            case sources.ToMany():
                return own + self._page(field)
            case sources.RowsByIds():
                return own + self._rows_by_ids(field)
            case sources.PayloadEdge():
                return own + self._edge(field.selection)
            case sources.BoundedRows(bound=bound, cost_rows=cost_rows):
                row = _CostSum(self.row) + self._selection(field.selection)
                return own + row.times(bound if cost_rows is None else cost_rows)
            case sources.GroupedRows(bound=bound):
                return own + self.groups(bound, field)
            case sources.Computed():
                return own + self.computed(sourced, field)
            case _:
                return own + self._selection(field.selection)

    def groups(self, bound: int, field: Field) -> _CostSum:
        """What the groups of a list add. Here `own` counts them already."""
        return _CostSum()

    def computed(self, sourced: sources.SourcedField, field: Field) -> _CostSum:
        """What the objects that a field computes add."""
        return _CostSum()

    def _has_aggregates(self, field: Field) -> bool:
        ((type_name, fields),) = field.selection.items()
        sourced = self._catalog.get(type_name, {})
        return any(item.name in sourced for item in fields)

    def _page(self, field: Field) -> _CostSum:
        ((type_name, fields),) = field.selection.items()
        sourced = self._catalog.get(type_name, {})
        list_, row = _CostSum(), _CostSum(self.row)
        has_rows = False
        for item in fields:
            list_ += _CostSum(self.own(item, sourced.get(item.name)))
            if item.name == "nodes":
                row += self._selection(item.selection)
            elif item.name == "edges":
                row += self._edge(item.selection)
            has_rows = has_rows or item.name not in {"totalCount", "__typename", *sourced}
        if not has_rows:
            return list_
        node, constant, function = self._nodes[field], row.constant, row.function()
        if row.terms:
            return list_ + _CostSum(0, (lambda bound, variables: bound[node].page.size * function(bound, variables),))
        return list_ + _CostSum(0, (lambda bound, _variables: bound[node].page.size * constant,))

    def _edge(self, selection: Selection) -> _CostSum:
        """The cost of what an edge selects."""
        ((_, fields),) = selection.items()
        total = _CostSum(self.edge)
        for field in fields:
            total += _CostSum(self.own(field, None))
            if field.name == "node":
                total += self._selection(field.selection)
        return total

    def _rows_by_ids(self, field: Field) -> _CostSum:
        row = (_CostSum(self.row) + self._selection(field.selection)).function()
        return _CostSum(0, (lambda bound, variables: len(field.arguments(variables)["ids"]) * row(bound, variables),))


# Bytes of a value in a response: by name for long texts, otherwise by type. Names have at most 255 characters and
# descriptions 4,000, but most are far shorter, and a limit by the maximum would reject responses of a few megabytes.
_WIDTHS_BY_NAME = {"description": 200, "message": 200, "providerMessage": 400, "actions": 300, "context_data": 120}
_WIDTHS_BY_TYPE = {"ID": 20, "Int": 10, "BigInt": 20, "Boolean": 5, "DateTime": 30}
_TEXT_WIDTH = 60
_CONSTANT_WIDTH = 10  # of what is computed without a column: mostly null, or an empty list
_CURSOR_WIDTH = 120  # of a cursor, and of page info
_COMPUTED_ITEMS = 6  # of a list that a field computes: `capabilities`, which has one for each action


class SizeCompiler(CostCompiler):
    """Compiles functions of one plan that estimate the size of the response in bytes."""

    row = 3
    edge = 3

    def own(self, field: Field, sourced: sources.SourcedField | None) -> int:
        """The key of a field, and its value if that is a leaf."""
        key = len(field.key) + 4
        if field.selection:
            return key + (4 * _CURSOR_WIDTH if field.name == "pageInfo" else 2)
        if sourced is None:
            return key + (_CURSOR_WIDTH if field.name == "cursor" else 20)
        if sourced.enum_values is not None:
            return key + 15
        if isinstance(sourced.source, sources.Computed) and not sourced.source.columns:
            return key + _CONSTANT_WIDTH
        width = _WIDTHS_BY_NAME.get(field.name) or _WIDTHS_BY_TYPE.get(sourced.type_name, _TEXT_WIDTH)
        return key + width

    def groups(self, bound: int, field: Field) -> _CostSum:
        row = _CostSum(self.row) + self._selection(field.selection)
        return row.times(bound)

    def computed(self, sourced: sources.SourcedField, field: Field) -> _CostSum:
        return self._selection(field.selection).times(_COMPUTED_ITEMS if sourced.is_list else 1)
