"""A plan at run time: levels, each of them one statement for all of its parents, and the links between them.

What a request brings (arguments, caller) comes in by `Context`; a level itself never changes once it is compiled.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from gateway.access.caller import Caller
from gateway.access.capabilities import Matrices
from gateway.models import MachineKind
from gateway.reads import cursors
from gateway.reads.conditions import Condition, Frame
from gateway.reads.dialects import Dialect, PageSql
from gateway.reads.entities import Entity
from gateway.reads.filters import filter_condition
from gateway.reads.pages import Page, parse_page
from gateway.reads.rendering import Renderer
from gateway.reads.selection import Arguments
from gateway.reads.sorts import Order, backwards, beyond, parse_order
from gateway.store.database import Transaction


@dataclass(slots=True)
class Context:
    """One request: its transaction, who asks, and the pages its connections want."""

    transaction: Transaction
    dialect: Dialect
    caller: Caller
    matrices: Matrices
    pages: Mapping["ManyLevel", "BoundPage"] = field(default_factory=dict)

    def frame(self) -> Frame:
        return Frame(self.dialect, self.dialect.parameters(), self.caller.tenant)


class Link(Protocol):
    """A way from the rows of one level to another level."""

    async def load(self, context: Context, rows: Sequence[Any]) -> Mapping[Any, Any]:
        """What the renderer looks up, by key."""
        ...


class Rows:
    """The columns that one statement selects, and the links that its rows need. Grows while a plan is compiled."""

    def __init__(self) -> None:
        self.columns: list[str] = []
        self.links: list[Link] = []
        self._link_numbers: dict[Hashable, int] = {}

    def column(self, name: str) -> int:
        """The position of a column, selected once however often it is wanted."""
        if name not in self.columns:
            self.columns.append(name)
        return self.columns.index(name)

    def link(self, key: Hashable, make: Callable[[], Link]) -> int:
        """The number of the link made for `key`; the same selection under two types is one link."""
        if key not in self._link_numbers:
            self._link_numbers[key] = len(self.links)
            self.links.append(make())
        return self._link_numbers[key]

    async def follow(self, context: Context, rows: Sequence[Any]) -> list[Mapping[Any, Any]]:
        """The results of every link, for all rows at once."""
        return [await link.load(context, rows) for link in self.links] if rows else []


@dataclass(slots=True, eq=False)
class OneLevel:
    """Rows of an entity by a unique column."""

    entity: Entity
    rows: Rows
    match: str = "id"
    where: str = "TRUE"
    render: Renderer | None = None  # set when its selection is compiled

    async def load(self, context: Context, keys: Sequence[Any], kind: MachineKind | None = None) -> dict[Any, Any]:
        """The rendered rows by their key; what is not there, or not for this caller, is left out."""
        if not keys or self.render is None:
            return {}
        frame = context.frame()
        columns = ", ".join(frame.expression(column) for column in (*self.rows.columns, self.match))
        match = frame.expression(self.match)
        found = (
            f"{match} = {frame.parameters(keys[0])}"
            if len(keys) == 1
            else context.dialect.among(match, keys, "bigint", frame.parameters)
        )
        kind_sql = f" AND t.kind = '{kind}'" if kind else ""
        rows = await context.transaction.rows(
            f"SELECT {columns} FROM {self.entity.noun} t{frame.joins()}"
            f" WHERE {found} AND t.tenant = {frame.parameters(context.caller.tenant)}{kind_sql}"
            f" AND {self.where.format(t='t')}",
            frame.parameters.values,
        )
        links = await self.rows.follow(context, rows)
        return {row[-1]: self.render(row, links, context) for row in rows}


@dataclass(slots=True)
class OneLink:
    """To the one row that a column names."""

    level: OneLevel
    column: int

    async def load(self, context: Context, rows: Sequence[Any]) -> Mapping[Any, Any]:
        column = self.column
        keys = list(dict.fromkeys(row[column] for row in rows if row[column] is not None))
        return await self.level.load(context, keys)


@dataclass(slots=True)
class ManyLink:
    """To the page of rows that belong to this one."""

    level: "ManyLevel"
    column: int
    counter: int | None  # position of the column that counts them

    async def load(self, context: Context, rows: Sequence[Any]) -> Mapping[Any, Any]:
        parents = list(dict.fromkeys(row[self.column] for row in rows))
        counts = None if self.counter is None else {row[self.column]: row[self.counter] for row in rows}
        return await self.level.load(context, parents, counts)


@dataclass(frozen=True, slots=True)
class BoundPage:
    """The arguments of a connection in one request."""

    page: Page
    order: Order
    condition: Condition | None
    after: Sequence[Any] | None
    before: Sequence[Any] | None


@dataclass(slots=True)
class Wanted:
    """What of a connection was selected."""

    rows: bool = False
    total: bool = False
    next: bool = False
    previous: bool = False
    cursors: bool = False


@dataclass(slots=True)
class Loaded:
    """One page, as its renderer gets it. Every row ends with its sort values from `cursor_at` on, when wanted."""

    rows: list[Any] = field(default_factory=list)
    total: int = 0
    has_next: bool = False
    has_previous: bool = False


Where = Callable[[Frame], str]


@dataclass(slots=True, eq=False)
class ManyLevel:
    """Pages of an entity's rows: one for each parent, or one for all there are when `match` is None."""

    entity: Entity
    rows: Rows
    wanted: Wanted
    match: str | None
    kind: MachineKind | None = None  # only machines of this kind
    render: Callable[[Loaded, Sequence[Any], Context, Callable[[Any], str]], Any] | None = None
    _last: tuple[Any, Any, Order, Condition | None] | None = None

    def bind(self, arguments: Arguments, dialect: Dialect) -> BoundPage:
        """Checks the arguments. Raises InvalidInput."""
        page = parse_page(arguments)
        order, condition = self._order_and_condition(arguments.get("sort"), arguments.get("filter"))
        after = None if page.after is None else cursors.decode(page.after, order, dialect, "after")
        before = None if page.before is None else cursors.decode(page.before, order, dialect, "before")
        return BoundPage(page, order, condition, after, before)

    def _order_and_condition(self, sort: Any, value: Any) -> tuple[Order, Condition | None]:
        """What is written out in the document is the same object in every request, and is understood once."""
        if self._last is not None and self._last[0] is sort and self._last[1] is value:
            return self._last[2:]
        order = parse_order(self.entity.sorts, self.entity.default, sort)
        condition = filter_condition(self.entity.filters, value) if value else None
        self._last = (sort, value, order, condition)
        return order, condition

    async def load(
        self, context: Context, parents: Sequence[int] | None, counts: Mapping[Any, int] | None = None
    ) -> dict[int | None, Any]:
        """The rendered connection of each parent; of all rows, under None, when there are no parents."""
        assert self.render is not None
        bound = context.pages[self]
        pages: dict[int | None, Loaded] = {parent: Loaded() for parent in (parents if parents is not None else [None])}
        if self.wanted.rows:
            await self._load_rows(context, bound, parents, pages)
        if self.wanted.total:
            await self._load_totals(context, bound, parents, pages, counts)
        await self._load_flags(context, bound, parents, pages)
        links = await self.rows.follow(context, [row for page in pages.values() for row in page.rows])
        cursor = self._cursor(bound.order)
        return {parent: self.render(page, links, context, cursor) for parent, page in pages.items()}

    def _cursor(self, order: Order) -> Callable[[Any], str]:
        order_fingerprint, start = cursors.fingerprint(order), len(self.rows.columns)
        end = start + len(order)
        return lambda row: cursors.encode(order_fingerprint, row[start:end])

    # ---- what the statements have in common

    def _where(self, bound: BoundPage, parent: str | None, extra: Where | None) -> Where:
        """Everything that bounds the list, the caller's tenant first."""

        def sql(frame: Frame) -> str:
            parts = [f"t.tenant = {frame.parameters(frame.tenant)}"]
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

    async def _scalars(
        self,
        context: Context,
        bound: BoundPage,
        parents: Sequence[int] | None,
        scalar: Callable[[str], str],
        extra: Where | None = None,
    ) -> dict[int | None, Any]:
        """One value per parent: `scalar` makes it from `FROM … WHERE …`."""
        frame = context.frame()
        if parents is None or len(parents) == 1:
            parent = None if parents is None else frame.parameters(parents[0])
            where = self._where(bound, parent, extra)(frame)
            sql = f"SELECT {scalar(f'FROM {self.entity.noun} t{frame.joins()} WHERE {where}')}"
            rows = await context.transaction.rows(sql, frame.parameters.values)
            return {None if parents is None else parents[0]: rows[0][0]}
        where = self._where(bound, context.dialect.parent, extra)(frame)
        expression = scalar(f"FROM {self.entity.noun} t{frame.joins()} WHERE {where}")
        sql = context.dialect.value_per_parent(expression, parents, frame.parameters)
        return {row[0]: row[1] for row in await context.transaction.rows(sql, frame.parameters.values)}

    # ---- rows

    async def _load_rows(
        self, context: Context, bound: BoundPage, parents: Sequence[int] | None, pages: dict[int | None, Loaded]
    ) -> None:
        page = bound.page
        more_wanted = self.wanted.previous if page.from_end else self.wanted.next
        limit = page.size + (1 if more_wanted else 0)
        if limit == 0 or not pages:
            return
        order = backwards(bound.order) if page.from_end else bound.order
        frame = context.frame()
        sql = self._rows_sql(context, bound, parents, order, limit, frame)
        found = await context.transaction.rows(sql, frame.parameters.values)
        if parents is None or len(parents) == 1:
            pages[None if parents is None else parents[0]].rows = list(found)
        else:
            for row in found:
                pages[row[-1]].rows.append(row)
        for loaded in pages.values():
            more = len(loaded.rows) > page.size
            del loaded.rows[page.size :]
            if page.from_end:
                loaded.rows.reverse()
                loaded.has_previous = more
            else:
                loaded.has_next = more

    def _rows_sql(
        self,
        context: Context,
        bound: BoundPage,
        parents: Sequence[int] | None,
        order: Order,
        limit: int,
        frame: Frame,
    ) -> str:
        columns = [frame.expression(column) for column in self.rows.columns]
        keys = [frame.expression(key.field.column) for key in bound.order]
        if self.wanted.cursors:
            columns += keys

        def between(inner: Frame) -> str:
            parts = []
            if bound.after is not None:
                parts.append(beyond(bound.order, bound.after, inner))
            if bound.before is not None:
                parts.append(beyond(backwards(bound.order), bound.before, inner))
            return " AND ".join(parts) or "TRUE"

        extra = between if bound.after is not None or bound.before is not None else None
        one = parents is None or len(parents) == 1
        parent = (None if parents is None else frame.parameters(parents[0])) if one else context.dialect.parent
        where = self._where(bound, parent, extra)(frame)
        sql = PageSql(
            table=self.entity.noun,
            joins=frame.joins(),
            columns=columns or ["1"],
            where=where,
            order=[(expression, key.how) for expression, key in zip(keys, order, strict=True)],
            limit=limit,
            offset=bound.page.offset,
        )
        if one:
            return sql.select(sql.columns)
        return context.dialect.per_parent(sql, parents or (), frame.parameters)

    # ---- totals and flags, when they are selected and the rows do not tell

    async def _load_totals(
        self,
        context: Context,
        bound: BoundPage,
        parents: Sequence[int] | None,
        pages: dict[int | None, Loaded],
        counts: Mapping[Any, int] | None,
    ) -> None:
        totals: Mapping[Any, int]
        if bound.condition is None and counts is not None:
            totals = counts
        elif bound.condition is None and parents is None and self.entity.total is not None:
            expression, table = self.entity.total
            frame = context.frame()
            sql = f"SELECT {expression} FROM {table} t WHERE t.tenant = {frame.parameters(frame.tenant)}"
            totals = {None: (await context.transaction.rows(sql, frame.parameters.values))[0][0]}
        else:
            totals = await self._scalars(context, bound, parents, lambda rest: f"(SELECT count(*) {rest})")
        for parent, loaded in pages.items():
            loaded.total = totals[parent]

    async def _load_flags(
        self, context: Context, bound: BoundPage, parents: Sequence[int] | None, pages: dict[int | None, Loaded]
    ) -> None:
        page = bound.page
        if self.wanted.previous and (page.offset or bound.after is not None):
            before_it = self._at_or_beyond(backwards(bound.order), bound.after)
            for parent, found in (await self._exist(context, bound, parents, before_it)).items():
                pages[parent].has_previous |= found
        if self.wanted.next and bound.before is not None:
            after_it = self._at_or_beyond(bound.order, bound.before)
            for parent, found in (await self._exist(context, bound, parents, after_it)).items():
                pages[parent].has_next |= found

    @staticmethod
    def _at_or_beyond(order: Order, place: Sequence[Any] | None) -> Where | None:
        return None if place is None else lambda frame: beyond(order, place, frame, inclusive=True)

    async def _exist(
        self, context: Context, bound: BoundPage, parents: Sequence[int] | None, extra: Where | None
    ) -> dict[int | None, bool]:
        found = await self._scalars(context, bound, parents, lambda rest: f"EXISTS (SELECT 1 {rest})", extra)
        return {parent: bool(value) for parent, value in found.items()}


@dataclass(slots=True, eq=False)
class EveryLevel:
    """All rows of a small table, in its default order."""

    entity: Entity
    rows: Rows
    render: Renderer | None = None

    async def load(self, context: Context) -> list[Any]:
        assert self.render is not None
        render = self.render
        frame = context.frame()
        columns = ", ".join(frame.expression(column) for column in self.rows.columns) or "1"
        order = ", ".join(f"t.{key.field.column} {key.how}" for key in self.entity.default)
        rows = await context.transaction.rows(
            f"SELECT {columns} FROM {self.entity.noun} t{frame.joins()}"
            f" WHERE t.tenant = {frame.parameters(frame.tenant)} ORDER BY {order}",
            frame.parameters.values,
        )
        links = await self.rows.follow(context, rows)
        return [render(row, links, context) for row in rows]
