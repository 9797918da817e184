"""What a selection costs: one for each object it may load, and one for each list, as if every page were full.

Taken from the compiled fields, in which fragments are merged and conditions decided; a page's size, which may be a
variable, is looked up when the plan is bound.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.reads import sources
from gateway.reads.context import Pages
from gateway.reads.selection import Field, Selection, Variables

SMALL_LIST = 10  # rows of a table that is listed whole

Price = Callable[[Pages, Variables], int]


@dataclass(frozen=True, slots=True)
class _Sum:
    """A price that is being added up: what is known at once, and what depends on the request."""

    known: int = 0
    bound: Sequence[Price] = ()

    def __add__(self, other: "_Sum") -> "_Sum":
        return _Sum(self.known + other.known, (*self.bound, *other.bound))

    def price(self) -> Price:
        known, bound = self.known, self.bound
        if not bound:
            return lambda _pages, _variables: known
        if len(bound) == 1:
            (only,) = bound
            return lambda pages, variables: known + only(pages, variables)
        return lambda pages, variables: known + sum(price(pages, variables) for price in bound)


class Pricing:
    """Prices the fields of one plan. `levels` are its connections by their fields."""

    def __init__(self, catalog: sources.Catalog, levels: Mapping[Field, Any]) -> None:
        self._catalog = catalog
        self._levels = levels

    def field(self, type_name: str, field: Field) -> Price:
        return self._field(type_name, field).price()

    def selection(self, selection: Selection) -> Price:
        return self._selection(selection).price()

    def _selection(self, selection: Selection) -> _Sum:
        """Of several types, what the dearest costs."""
        sums = [self._fields(type_name, fields) for type_name, fields in selection.items()]
        if not any(one.bound for one in sums):
            return _Sum(max((one.known for one in sums), default=0))
        if len(sums) == 1:
            return sums[0]
        prices = [one.price() for one in sums]
        return _Sum(0, (lambda pages, variables: max(price(pages, variables) for price in prices),))

    def _fields(self, type_name: str, fields: Sequence[Field]) -> _Sum:
        total = _Sum()
        for field in fields:
            total += self._field(type_name, field)
        return total

    def _field(self, type_name: str, field: Field) -> _Sum:
        if field.name == "__typename":
            return _Sum()
        match self._catalog[type_name][field.name].source:
            case sources.Many():
                return self._page(field)
            case sources.Lookups():
                return self._each_id(field)
            case sources.One() | sources.Lookup() | sources.GivenOne():
                return _Sum(1) + self._selection(field.selection)
            case sources.GivenEdge():
                return _Sum(1) + self._nodes(field.selection)
            case sources.Every():
                row = (_Sum(1) + self._selection(field.selection)).price()
                return _Sum(1, (lambda pages, variables: SMALL_LIST * row(pages, variables),))
            case sources.Given():
                return self._selection(field.selection)
            case _:
                return _Sum()  # of a row that has been paid for

    def _page(self, field: Field) -> _Sum:
        ((_, fields),) = field.selection.items()
        if all(item.name in {"totalCount", "__typename"} for item in fields):
            return _Sum(1)
        row = _Sum(1)
        for item in fields:
            if item.name == "nodes":
                row += self._selection(item.selection)
            elif item.name == "edges":
                row += self._nodes(item.selection)
        level, known, price = self._levels[field], row.known, row.price()
        if row.bound:
            return _Sum(1, (lambda pages, variables: pages[level].page.size * price(pages, variables),))
        return _Sum(1, (lambda pages, _variables: pages[level].page.size * known,))

    def _nodes(self, selection: Selection) -> _Sum:
        """What hangs from the nodes of edges."""
        ((_, fields),) = selection.items()
        total = _Sum()
        for field in fields:
            if field.name == "node":
                total += self._selection(field.selection)
        return total

    def _each_id(self, field: Field) -> _Sum:
        row = (_Sum(1) + self._selection(field.selection)).price()
        return _Sum(1, (lambda pages, variables: len(field.arguments(variables)["ids"]) * row(pages, variables),))
