"""The fetch node of connections: pages of rows with their totals and flags, for all parents at once.

A page's *metadata* is what its rows do not show: the total (`totalCount`), and in some cases whether rows precede or
follow the page. The rest follows from the rows, because a page with `hasNextPage` fetches one row more than its size.

Statements per page node:

* One parent, or the list of all rows: one statement for the rows and one for all metadata; or one for both where the
  dialect prefers joins.
* Several parents: one statement for the rows of all their pages, and one for each kind of metadata.

What the query does not select is not fetched: without `nodes`, `edges` or `pageInfo` there is no statement for rows,
and a total that the parent's row already counts (`counter`) needs none either.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, TypeVar

from gateway.models import MachineKind
from gateway.reads import cursors
from gateway.reads.conditions import Condition, Frame
from gateway.reads.context import (
    AFTER,
    BEFORE,
    KEY,
    MAX_TEMPLATES,
    PARENT,
    TENANT,
    BindVariable,
    Context,
    StatementTemplate,
)
from gateway.reads.dialects import Dialect, PageSql
from gateway.reads.entities import ENTITIES, Entity
from gateway.reads.fetch_nodes import RowLayout
from gateway.reads.filters import filter_condition
from gateway.reads.pages import BoundPage, parse_page
from gateway.reads.selection import Arguments
from gateway.reads.sorts import SortOrder, parse_order, reverse_order, rows_after

T = TypeVar("T")

_MAX_CACHED_LENGTH = 1_000  # characters of a filter and a sort


@dataclass(slots=True)
class PageFields:
    """What a query selects of a connection. Set while the connection is compiled."""

    rows: bool = False
    total: bool = False
    has_next: bool = False
    has_previous: bool = False
    cursors: bool = False


@dataclass(slots=True)
class LoadedPage:
    """One page, as its renderer receives it."""

    rows: list[Any] = field(default_factory=list)
    total: int = 0
    has_next: bool = False
    has_previous: bool = False

    def set_metadata(self, name: str, value: Any) -> None:
        """Sets the total, or a flag if `value` holds: the rows may have set the flag already."""
        if name == "total":
            self.total = value
        elif value:
            setattr(self, name, True)


class PageStatements(NamedTuple):
    """The statements of one page. `metadata_names` says what values they select.

    Without `metadata`, the statement for the rows selects them too: each of its rows ends with a marker, which is null
    when the page is empty, and then the metadata values.
    """

    rows: StatementTemplate | None
    metadata: StatementTemplate | None
    metadata_names: Sequence[str]


Where = Callable[[Frame], str]


def _null_positions(position: Sequence[Any] | None) -> tuple[bool, ...] | None:
    """Which sort values of a cursor are null. Nulls are compared by different SQL."""
    return None if position is None else tuple(value is None for value in position)


def _as_variables(position: Sequence[Any], variables: Sequence[BindVariable]) -> Sequence[Any]:
    """The sort values of a cursor as bind variables. Nulls stay, because the SQL depends on them."""
    return [None if value is None else variable for value, variable in zip(position, variables, strict=False)]


def _from_position(order: SortOrder, position: Sequence[Any], variables: Sequence[BindVariable]) -> Where:
    """The row at the position and the rows after it."""
    return lambda frame: rows_after(order, _as_variables(position, variables), frame, inclusive=True)


def _between_cursors(bound: BoundPage) -> Where | None:
    """The rows after the cursor `after` and before the cursor `before`. None without either."""
    if bound.after is None and bound.before is None:
        return None

    def sql(frame: Frame) -> str:
        parts = []
        if bound.after is not None:
            parts.append(rows_after(bound.order, _as_variables(bound.after, AFTER), frame))
        if bound.before is not None:
            parts.append(rows_after(reverse_order(bound.order), _as_variables(bound.before, BEFORE), frame))
        return " AND ".join(parts)

    return sql


@dataclass(slots=True, eq=False)
class PageNode:
    """Loads pages of an entity's rows: one page for each parent, or one page of all rows when `match` is None.

    `match` is the column that holds the parent's id.
    """

    entity: Entity
    layout: RowLayout
    fields: PageFields
    match: str | None
    kind: MachineKind | None = None  # only machines of this kind
    render: Callable[[LoadedPage, Sequence[Any], Context, Callable[[Any], str]], Any] | None = None
    _parsed: dict[str, tuple[SortOrder, Condition | None]] = field(default_factory=dict)
    _last_bound: tuple[Arguments, BoundPage] | None = None
    _last_statements: tuple[BoundPage, Sequence[MachineKind], PageStatements] | None = None
    _last_encoder: tuple[SortOrder, Callable[[Any], str]] | None = None
    _cache: dict[Hashable, Any] = field(default_factory=dict)

    def bind(self, arguments: Arguments, dialect: Dialect) -> BoundPage:
        """Checks the arguments. The same `arguments` object is checked once. Raises InvalidInput."""
        if self._last_bound is not None and self._last_bound[0] is arguments:
            return self._last_bound[1]
        page = parse_page(arguments)
        order, condition = self._order_and_condition(arguments.get("sort"), arguments.get("filter"))
        after = None if page.after is None else cursors.decode(page.after, order, dialect, "after")
        before = None if page.before is None else cursors.decode(page.before, order, dialect, "before")
        bound = BoundPage(page, order, condition, after, before)
        self._last_bound = (arguments, bound)
        return bound

    def _order_and_condition(self, sort: Any, value: Any) -> tuple[SortOrder, Condition | None]:
        """Cached, because the next page and other callers often send the same sort and filter."""
        key = repr((sort, value))
        parsed = self._parsed.get(key)
        if parsed is None:
            order = parse_order(self.entity.sorts, self.entity.default_sort, sort)
            condition = filter_condition(self.entity.filters, value) if value else None
            parsed = (order, condition)
            if len(key) <= _MAX_CACHED_LENGTH:
                if len(self._parsed) >= MAX_TEMPLATES:
                    self._parsed.clear()
                self._parsed[key] = parsed
        return parsed

    async def load(
        self, context: Context, parents: Sequence[int] | None, counts: Mapping[Any, int] | None = None
    ) -> dict[int | None, Any]:
        """The rendered connection of each parent. With `parents` None: that of all rows, under the key None.

        `counts` holds the number of rows of each parent, as the parent's own row counts them.
        """
        assert self.render is not None
        bound = context.pages[self]
        pages: dict[int | None, LoadedPage]
        if parents is None or len(parents) == 1:
            parent = parents[0] if parents else None
            count = None if counts is None else counts[parent]
            pages = {parent: await self._load_single(context, bound, parent, count)}
        else:
            pages = {parent: LoadedPage() for parent in parents}
            await self._load_per_parent(context, bound, parents, pages, counts)
        related = await self.layout.load_relations(context, [row for page in pages.values() for row in page.rows])
        cursor = self.cursor_encoder(bound.order)
        return {parent: self.render(page, related, context, cursor) for parent, page in pages.items()}

    def metadata_names(self, bound: BoundPage, *, counted: bool) -> list[str]:
        """The selected metadata that the rows do not show. `counted`: the parent's row has the number of its rows."""
        names = []
        if self.fields.total and not (counted and bound.condition is None):
            names.append("total")
        if self.fields.has_previous and (bound.page.offset or bound.after is not None):
            names.append("has_previous")
        if self.fields.has_next and bound.before is not None:
            names.append("has_next")
        return names

    def is_single_statement(self, bound: BoundPage, dialect: Dialect) -> bool:
        """Whether one statement loads the page of all rows with all of its relations."""
        separate = self.fetches_rows(bound) and bool(self.metadata_names(bound, counted=False))
        return not (self.layout.relations or (separate and not dialect.prefers_joins))

    def fetches_rows(self, bound: BoundPage) -> bool:
        """Whether the page needs any rows."""
        return self._limit(bound) > 0

    def _limit(self, bound: BoundPage) -> int:
        """The number of rows to fetch: one more than the page's size if that row decides a selected flag."""
        flag = self.fields.has_previous if bound.page.from_end else self.fields.has_next
        return bound.page.size + (1 if flag else 0) if self.fields.rows else 0

    def cursor_encoder(self, order: SortOrder) -> Callable[[Any], str]:
        """The function that makes the cursor of a row."""
        if self._last_encoder is not None and self._last_encoder[0] is order:
            return self._last_encoder[1]
        order_fingerprint, columns = cursors.fingerprint(order), self._columns(order)
        positions = [columns.index(key.field.column) for key in order] if self.fields.cursors else []

        def cursor(row: Sequence[Any]) -> str:
            return cursors.encode(order_fingerprint, [row[position] for position in positions])

        self._last_encoder = (order, cursor)
        return cursor

    def _columns(self, order: SortOrder) -> list[str]:
        """The columns of each row: those of its fields, and the sort columns if cursors are selected."""
        if not self.fields.cursors:
            return self.layout.columns
        return [*self.layout.columns, *(c for key in order if (c := key.field.column) not in self.layout.columns)]

    # ---- one page

    async def _load_single(
        self, context: Context, bound: BoundPage, parent: int | None, count: int | None
    ) -> LoadedPage:
        rows, metadata, names = self._statements(context, bound, parented=parent is not None, counted=count is not None)
        bindings = self.bindings(bound)
        if parent is not None:
            bindings[PARENT] = parent
        found: Sequence[Any] = () if rows is None else await context.fetch(rows, bindings)
        values: Sequence[Any] = ()
        if metadata is not None:
            (values,) = await context.fetch(metadata, bindings)
        elif names:
            marker, *values = found[0][-len(names) - 1 :]
            found = () if marker is None else found
        page = LoadedPage(list(found), count or 0)
        self.trim(page, bound)
        for name, value in zip(names, values, strict=True):
            page.set_metadata(name, value)
        return page

    def _statements(self, context: Context, bound: BoundPage, *, parented: bool, counted: bool) -> PageStatements:
        last, kinds = self._last_statements, context.caller.readable_kinds
        if last is not None and last[0] is bound and last[1] == kinds:
            return last[2]
        shape = ("single", kinds, self.shape(bound))
        statements = self._cached(shape, lambda: self._compile_single(context, bound, parented, counted))
        self._last_statements = (bound, kinds, statements)
        return statements

    def _compile_single(self, context: Context, bound: BoundPage, parented: bool, counted: bool) -> PageStatements:
        names = self.metadata_names(bound, counted=counted)
        frame = context.frame()
        parent = frame.parameters(PARENT) if parented else None
        expressions = [
            f"{self._metadata_sql(name, bound, frame.sibling(), parent)} AS f{number}"
            for number, name in enumerate(names)
        ]
        metadata = (
            StatementTemplate(f"SELECT {', '.join(expressions)}", frame.parameters.values) if expressions else None
        )
        if not self.fetches_rows(bound):
            return PageStatements(None, metadata, names)
        if metadata is not None and context.dialect.prefers_joins:
            page = self._page_sql(bound, parent, frame)
            select, columns, order = page.as_subquery([*page.columns, "1"])
            sql = (
                f"SELECT {columns}, metadata.* FROM ({metadata.sql}) metadata"
                f" LEFT JOIN ({select}) page ON TRUE ORDER BY {order}"
            )
            return PageStatements(StatementTemplate(sql, frame.parameters.values), None, names)
        frame = context.frame()
        page = self._page_sql(bound, frame.parameters(PARENT) if parented else None, frame)
        rows = StatementTemplate(page.select(page.columns), frame.parameters.values)
        return PageStatements(rows, metadata, names)

    # ---- a page for each of several parents

    async def _load_per_parent(
        self,
        context: Context,
        bound: BoundPage,
        parents: Sequence[int],
        pages: Mapping[int | None, LoadedPage],
        counts: Mapping[Any, int] | None,
    ) -> None:
        if not parents:
            return
        bindings = self.bindings(bound)
        bindings[PARENT] = context.dialect.number_list(parents)
        shape = (context.caller.readable_kinds, self.shape(bound))
        if self.fetches_rows(bound):
            template = self._cached(("per parent", *shape), lambda: self._compile_per_parent(context, bound))
            for row in await context.fetch(template, bindings):
                pages[row[-1]].rows.append(row)
            for page in pages.values():
                self.trim(page, bound)
        if counts is not None:
            for parent, page in pages.items():
                page.total = counts[parent]
        for name in self.metadata_names(bound, counted=counts is not None):
            template = self._cached((name, *shape), partial(self._compile_metadata, context, bound, name))
            for parent, value in await context.fetch(template, bindings):
                pages[parent].set_metadata(name, value)

    def _compile_per_parent(self, context: Context, bound: BoundPage) -> StatementTemplate:
        frame = context.frame()
        page = self._page_sql(bound, context.dialect.parent_id, frame)
        return StatementTemplate(
            context.dialect.page_per_parent(page, frame.parameters(PARENT)), frame.parameters.values
        )

    def _compile_metadata(self, context: Context, bound: BoundPage, name: str) -> StatementTemplate:
        frame = context.frame()
        expression = self._metadata_sql(name, bound, frame, context.dialect.parent_id)
        return StatementTemplate(
            context.dialect.value_per_parent(expression, frame.parameters(PARENT)), frame.parameters.values
        )

    # ---- what the statements have in common

    def _cached(self, shape: Hashable, build: Callable[[], T]) -> T:
        """What `build` returns for this shape. Requests that differ only in bind variables share it."""
        cached: T | None = self._cache.get(shape)
        if cached is None:
            if len(self._cache) >= MAX_TEMPLATES:
                self._cache.clear()
            cached = self._cache[shape] = build()
        return cached

    @staticmethod
    def trim(loaded: LoadedPage, bound: BoundPage) -> None:
        """Sets the flag that the row beyond the page's size decides, removes that row, and restores the sort order.

        The rows of a page from the end of the list are fetched in reverse order.
        """
        more = len(loaded.rows) > bound.page.size
        del loaded.rows[bound.page.size :]
        if bound.page.from_end:
            loaded.rows.reverse()
            loaded.has_previous = more
        else:
            loaded.has_next = more

    @staticmethod
    def bindings(bound: BoundPage) -> dict[BindVariable, Any]:
        """The values of the bind variables that stand for the sort values of the cursors."""
        bindings: dict[BindVariable, Any] = dict(zip(AFTER, bound.after or (), strict=False))
        bindings.update(zip(BEFORE, bound.before or (), strict=False))
        return bindings

    def shape(self, bound: BoundPage) -> Hashable:
        """Everything that the text of the statement depends on. Conditions are compared by identity."""
        page = bound.page
        return (
            (self._limit(bound), page.from_end, page.offset, bound.order, bound.condition),
            _null_positions(bound.after),
            _null_positions(bound.before),
        )

    def _metadata_sql(self, name: str, bound: BoundPage, frame: Frame, parent: str | None) -> str:
        """The expression of one metadata value of a parent's page, or of the page of all rows."""
        if name == "total" and bound.condition is None and parent is None and self.entity.total is not None:
            expression, noun = self.entity.total
            return f"(SELECT {expression} FROM {noun} t WHERE {ENTITIES[noun].visible(frame, TENANT)})"
        extra: Where | None = None
        if name == "has_previous" and bound.after is not None:
            extra = _from_position(reverse_order(bound.order), bound.after, AFTER)
        elif name == "has_next" and bound.before is not None:
            extra = _from_position(bound.order, bound.before, BEFORE)
        where = self._where(bound, parent, extra)(frame)
        rows = f"FROM {self.entity.noun} t{frame.joins()} WHERE {where}"
        return f"(SELECT count(*) {rows})" if name == "total" else f"EXISTS (SELECT 1 {rows})"

    def metadata_sql(self, name: str, bound: BoundPage, frame: Frame) -> str:
        """The expression of one metadata value of the parent KEY, as part of another statement."""
        return self._metadata_sql(name, bound, frame, frame.parameters(KEY))

    def select(self, bound: BoundPage, frame: Frame) -> tuple[str, str]:
        """The page of the parent KEY, as part of another statement, and the order of its rows."""
        page = self._page_sql(bound, frame.parameters(KEY), frame)
        select, _, order = page.as_subquery(["t.id", *page.columns])
        return select, order

    def _page_sql(self, bound: BoundPage, parent: str | None, frame: Frame) -> PageSql:
        order = reverse_order(bound.order) if bound.page.from_end else bound.order
        columns = [frame.expression(column) for column in self._columns(bound.order)]
        keys = [frame.expression(key.field.column) for key in bound.order]
        where = self._where(bound, parent, _between_cursors(bound))(frame)
        return PageSql(
            table=self.entity.noun,
            joins=frame.joins(),
            columns=columns or ["1"],
            where=where,
            order=[(expression, key.order_sql) for expression, key in zip(keys, order, strict=True)],
            limit=self._limit(bound),
            offset=bound.page.offset,
        )

    def _where(self, bound: BoundPage, parent: str | None, extra: Where | None) -> Where:
        """All conditions on the rows of the list, the caller's visibility first."""

        def sql(frame: Frame) -> str:
            # A parent has far fewer rows than a tenant, so below a parent no index on the tenant may be used.
            parts = [self.entity.visible(frame, TENANT, indexed=parent is None)]
            if self.kind is not None:
                parts.append(f"t.kind = '{self.kind}'")
            if parent is not None:
                parts.append(f"{frame.expression(self.match or '')} = {parent}")
            if bound.condition is not None:
                parts.append(bound.condition(frame))
            if extra is not None:
                parts.append(extra(frame))
            return " AND ".join(parts)

        return sql
