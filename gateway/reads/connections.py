"""The fetch node of connections: pages of rows with their totals and flags, for all parents at once.

A page's *metadata* is what its rows do not show: the total (`totalCount`), in some cases whether rows precede or follow
the page, and the aggregates of all rows that match. The rest follows from the rows, because a page with `hasNextPage`
fetches one row more than its size.

A bounded list (`sources.BoundedRows`) is a page, too. Its size is the bound, and a row that follows the page makes the
field fail. So is a list of groups (`sources.GroupedRows`), whose rows are groups.

Statements per page node:

* One parent, or the list of all rows: one statement for the rows and one for all metadata; or one for both where the
  dialect prefers joins.
* Several parents: one statement for the rows of all their pages, one for each kind of metadata, and one for all
  aggregates. If the total is selected with aggregates, their statement counts it.

What the query does not select is not fetched: without `nodes`, `edges` or `pageInfo` there is no statement for rows,
and a total that the parent's row already counts (`counter`) needs none either.

Modules, in the order in which a request uses them: `page_binding` checks its arguments, `page_layout` decides what to
fetch, `page_sql` and `page_statements` write and cache the statements, and this module runs them and makes the pages.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.errors import Forbidden
from gateway.reads import cursors
from gateway.reads.context import PARENT, Context
from gateway.reads.dialects import Dialect
from gateway.reads.page_binding import Binder
from gateway.reads.page_layout import PageLayout
from gateway.reads.page_statements import PageStatements, cursor_bindings
from gateway.reads.pages import BoundPage, Page
from gateway.reads.rendering import SLICE_ROWS, ListRenderers
from gateway.reads.sorts import SortOrder


@dataclass(slots=True)
class LoadedPage:
    """One page, as its renderer receives it."""

    rows: list[Any]
    total: int = 0
    has_next: bool = False
    has_previous: bool = False
    aggregates: Sequence[Any] = ()
    lists: Sequence[list[Any]] = ()  # of a large page: its lists, which are rendered already

    def trim(self, page: Page) -> None:
        """Sets the flag that the row beyond the page's size decides, removes that row, and restores the sort order.

        The rows of a page from the end of the list are fetched in reverse order.
        """
        more = len(self.rows) > page.size
        del self.rows[page.size :]
        if page.from_end:
            self.rows.reverse()
            self.has_previous = more
        else:
            self.has_next = more

    def set_metadata(self, name: str, value: Any) -> None:
        """Sets the total, or a flag if `value` holds: the rows may have set the flag already."""
        if name == "total":
            self.total = value
        elif value:
            setattr(self, name, True)

    def set_aggregates(self, values: Sequence[Any], layout: PageLayout) -> None:
        """Sets the aggregates and, if it is the value after them, the total."""
        self.aggregates = values
        if len(values) > len(layout.aggregates):
            self.total = values[-1]


_FIRST_SLICE = 16  # rows
_SLICE_SECONDS = 0.001

PageRenderer = Callable[[LoadedPage, Sequence[Any], Context, Callable[[Any], str]], Any]


class PageNode:
    """Loads pages of an entity's rows: one page for each parent, or one page of all rows."""

    def __init__(
        self, layout: PageLayout, dialect: Dialect, render: PageRenderer, lists: ListRenderers, binder: Binder
    ) -> None:
        self.layout = layout
        self.entity = layout.entity
        self.dialect = dialect
        self.render = render
        self._lists = lists
        self.binder = binder
        self.statements = PageStatements(layout)
        self._last_encoder: tuple[SortOrder, Callable[[Any], str]] | None = None

    async def load(
        self, context: Context, parents: Sequence[int] | None, counts: Mapping[Any, int] | None = None
    ) -> dict[int | None, Any]:
        """The rendered connection or list of each parent. With `parents` None: that of all rows, under the key None.

        `counts` holds the number of rows of each parent, as the parent's own row counts them. Raises Forbidden if only
        administrators may read the entity.
        """
        if self.entity.admin_only and not context.caller.administers:
            raise Forbidden("Only administrators may read the audit log.")
        bound = context.bound[self]
        pages: dict[int | None, LoadedPage]
        if parents is None or len(parents) == 1:
            parent = parents[0] if parents else None
            count = 0 if counts is None else counts[parent]
            pages = {parent: await self._load_single(context, bound, parent, count)}
        else:
            pages = {parent: LoadedPage([], 0 if counts is None else counts[parent]) for parent in parents}
            if parents:
                await self._load_per_parent(context, bound, parents, pages)
        rows = [row for page in pages.values() for row in page.rows]
        related = await self.layout.row_layout.load_relations(context, rows)
        cursor = self.cursor_encoder(bound.order)
        rendered, left = {}, SLICE_ROWS
        for parent, page in pages.items():
            if left < 0:
                await context.transaction.pause()
                left = SLICE_ROWS
            if len(page.rows) > SLICE_ROWS:
                await self.render_lists(page, related, context, cursor)
            rendered[parent] = self.render(page, related, context, cursor)
            left -= len(page.rows) + 1
        return rendered

    async def render_lists(
        self, page: LoadedPage, related: Sequence[Any], context: Context, cursor: Callable[[Any], str]
    ) -> None:
        """Renders the lists of a large page in slices, with a pause after each. `render` then uses the result.

        The first slice is small, because it is unknown how long a row takes.
        """
        functions = self._lists.functions
        lists: list[list[Any]] = [[] for _ in functions]
        start, count = 0, _FIRST_SLICE
        while start < len(page.rows):
            rows, began = page.rows[start : start + count], time.monotonic()
            for number, render in enumerate(functions):
                lists[number] += render(rows, related, context, cursor)
            start += count
            count = count * 2 if time.monotonic() - began < _SLICE_SECONDS else max(1, count // 2)
            await context.transaction.pause()
        page.lists = lists

    def is_single_statement(self, bound: BoundPage) -> bool:
        """Whether one statement loads the page of all rows with all of its relations."""
        separate = self.layout.limit(bound) > 0 and self.layout.has_metadata(bound)
        return not (self.layout.row_layout.relations or (separate and not self.dialect.prefers_joins))

    def cursor_encoder(self, order: SortOrder) -> Callable[[Any], str]:
        """The function that makes the cursor of a row."""
        if self._last_encoder is not None and self._last_encoder[0] is order:
            return self._last_encoder[1]
        order_fingerprint, columns = cursors.fingerprint(order), self.layout.columns(order)
        positions = [columns.index(key.field.column) for key in order] if self.layout.cursors else []

        def cursor(row: Sequence[Any]) -> str:
            return cursors.encode(order_fingerprint, [row[position] for position in positions])

        self._last_encoder = (order, cursor)
        return cursor

    async def _load_single(self, context: Context, bound: BoundPage, parent: int | None, count: int) -> LoadedPage:
        rows, metadata, names, width = self.statements.single(context, bound)
        bindings = cursor_bindings(bound)
        if parent is not None:
            bindings[PARENT] = parent
        found: Sequence[Any] = () if rows is None else await context.fetch(rows, bindings)
        values: Sequence[Any] = ()
        if metadata is not None:
            (values,) = await context.fetch(metadata, bindings)
        elif width:
            marker, *values = found[0][-width - 1 :]
            found = () if marker is None else found
        page = LoadedPage(list(found), count)
        page.trim(bound.page)
        for name, value in zip(names, values, strict=False):
            page.set_metadata(name, value)
        if self.layout.aggregates:
            page.set_aggregates(values[len(names) :], self.layout)
        return page

    async def _load_per_parent(
        self, context: Context, bound: BoundPage, parents: Sequence[int], pages: Mapping[int | None, LoadedPage]
    ) -> None:
        """Completes the empty pages of several parents."""
        rows, metadata, aggregates = self.statements.per_parent(context, bound)
        bindings = cursor_bindings(bound)
        bindings[PARENT] = self.dialect.number_list(parents)
        if rows is not None:
            for row in await context.fetch(rows, bindings):
                pages[row[-1]].rows.append(row)
            for page in pages.values():
                page.trim(bound.page)
        for name, template in metadata:
            for parent, value in await context.fetch(template, bindings):
                pages[parent].set_metadata(name, value)
        if aggregates is not None:
            nothing = [0] * len(self.layout.aggregate_columns(bound))
            for page in pages.values():
                page.set_aggregates(nothing, self.layout)
            for parent, *values in await context.fetch(aggregates, bindings):
                pages[parent].set_aggregates(values, self.layout)
