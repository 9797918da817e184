"""The cost of a selection: 1 for each object that it may load and 1 for each list, as if every page were full.

The aggregates of a connection, and a list of groups, cost 10 more, because the database reads all rows that match.

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

CostFunction = Callable[[Bound, Variables], int]


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
    """Compiles the cost functions of one plan. `nodes` has the page nodes of its connections by their fields."""

    def __init__(self, catalog: sources.Catalog, nodes: Mapping[Field, Any]) -> None:
        self._catalog = catalog
        self._nodes = nodes

    def field(self, type_name: str, field: Field) -> CostFunction:
        """The cost of one field of `type_name`."""
        return self._field(type_name, field).function()

    def selection(self, selection: Selection) -> CostFunction:
        """The cost of one object with this selection."""
        return self._selection(selection).function()

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
        if field.name == "__typename":
            return _CostSum()
        source = self._catalog[type_name][field.name].source
        match source:
            case sources.ToMany():
                return self._page(field)
            case sources.RowsByIds():
                return self._rows_by_ids(field)
            case sources.ToOne() | sources.RowById() | sources.PayloadRow():
                return _CostSum(1) + self._selection(field.selection)
            case sources.PayloadEdge():
                return _CostSum(1) + self._edge_nodes(field.selection)
            case sources.BoundedRows(bound=bound, cost_rows=cost_rows):
                row = _CostSum(1) + self._selection(field.selection)
                return _CostSum(1) + row.times(bound if cost_rows is None else cost_rows)
            case sources.GroupedRows(bound=bound):
                return _CostSum(1 + AGGREGATE_COST + bound)
            case sources.ComputedRoot(cost=cost):
                return _CostSum(cost) + self._selection(field.selection)
            case sources.PayloadValue():
                return self._selection(field.selection)
            case _:
                return _CostSum()  # part of a row that is already counted

    def _page(self, field: Field) -> _CostSum:
        ((type_name, fields),) = field.selection.items()
        sourced = self._catalog.get(type_name, {})
        aggregates = [item for item in fields if item.name in sourced]
        list_ = _CostSum(1 + (AGGREGATE_COST if aggregates else 0))
        if all(item.name in {"totalCount", "__typename"} for item in fields if item not in aggregates):
            return list_
        row = _CostSum(1)
        for item in fields:
            if item.name == "nodes":
                row += self._selection(item.selection)
            elif item.name == "edges":
                row += self._edge_nodes(item.selection)
        node, constant, function = self._nodes[field], row.constant, row.function()
        if row.terms:
            return list_ + _CostSum(0, (lambda bound, variables: bound[node].page.size * function(bound, variables),))
        return list_ + _CostSum(0, (lambda bound, _variables: bound[node].page.size * constant,))

    def _edge_nodes(self, selection: Selection) -> _CostSum:
        """The cost of what the field `node` of an edge selects."""
        ((_, fields),) = selection.items()
        total = _CostSum()
        for field in fields:
            if field.name == "node":
                total += self._selection(field.selection)
        return total

    def _rows_by_ids(self, field: Field) -> _CostSum:
        row = (_CostSum(1) + self._selection(field.selection)).function()
        return _CostSum(1, (lambda bound, variables: len(field.arguments(variables)["ids"]) * row(bound, variables),))
