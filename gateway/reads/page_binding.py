"""Binds lists: checks the arguments of a request and makes the sort order, condition and cursors of the page."""

from dataclasses import replace
from typing import Any, Protocol

from gateway.bounded_cache import BoundedCache, CacheSection
from gateway.reads import cursors
from gateway.reads.conditions import Condition
from gateway.reads.dialects import Dialect
from gateway.reads.entities import Entity
from gateway.reads.filters import filter_condition
from gateway.reads.pages import BoundPage, parse_page
from gateway.reads.selection import Arguments, ConstantArguments
from gateway.reads.sorts import SortOrder, parse_order

_MAX_CACHED_LENGTH = 1_000  # characters of a sort and a filter
# Pairs of a sort and a filter, and pages by their filter, of all lists of all plans.
_PARSED = BoundedCache[tuple[object, str], Any](4_000)


class Binder(Protocol):
    """Binds the arguments of one list."""

    def bind(self, arguments: Arguments) -> BoundPage:
        """Checks the arguments. Raises InvalidInput."""
        ...


class PageBinder:
    """Binds the arguments of one connection of `entity`."""

    def __init__(self, entity: Entity, dialect: Dialect) -> None:
        self._entity = entity
        self._dialect = dialect
        self._parsed = CacheSection[str, tuple[SortOrder, Condition | None]](_PARSED)
        self._last: tuple[Arguments, BoundPage] | None = None

    def bind(self, arguments: Arguments) -> BoundPage:
        """Checks the arguments. Constants are checked once. Raises InvalidInput."""
        if self._last is not None and self._last[0] is arguments:
            return self._last[1]
        page = parse_page(arguments)
        order, condition, cached = self._order_and_condition(arguments.get("sort"), arguments.get("filter"))
        after = None if page.after is None else cursors.decode(page.after, order, self._dialect, "after")
        before = None if page.before is None else cursors.decode(page.before, order, self._dialect, "before")
        constant = isinstance(arguments, ConstantArguments)
        bound = BoundPage(page, order, condition, after, before, reusable=constant or cached)
        if constant:  # is part of a document, so the cache of documents bounds it
            self._last = (arguments, bound)
        return bound

    def _order_and_condition(self, sort: Any, value: Any) -> tuple[SortOrder, Condition | None, bool]:
        """Cached unless they are long, because the next page and other callers often send the same sort and filter."""
        key = repr((sort, value))
        parsed = self._parsed.get(key)
        if parsed is None:
            order = parse_order(self._entity.sorts, self._entity.default_sort, sort)
            condition = filter_condition(self._entity.filters, value) if value else None
            parsed = (order, condition)
            if len(key) <= _MAX_CACHED_LENGTH:
                self._parsed.put(key, parsed)
        return (*parsed, len(key) <= _MAX_CACHED_LENGTH)


class FixedBinder:
    """Binds a bounded list: it has no arguments."""

    def __init__(self, page: BoundPage) -> None:
        self._page = page

    def bind(self, _arguments: Arguments) -> BoundPage:
        """The same page for every request."""
        return self._page


class FilterBinder:
    """Binds a list whose arguments are members of the filter of `entity`, and whose page is otherwise fixed."""

    def __init__(self, entity: Entity, page: BoundPage) -> None:
        self._entity = entity
        self._page = page
        self._filtered = CacheSection[str, BoundPage](_PARSED)

    def bind(self, arguments: Arguments) -> BoundPage:
        """The page with the condition of the arguments that are not null. Raises InvalidInput."""
        given = {name: value for name, value in arguments.items() if value is not None}
        if not given:
            return self._page
        key = repr(given)
        page = self._filtered.get(key)
        if page is None:
            cached = len(key) <= _MAX_CACHED_LENGTH
            page = replace(self._page, condition=filter_condition(self._entity.filters, given, ()), reusable=cached)
            if cached:
                self._filtered.put(key, page)
        return page
