"""Connections at run time: pages of rows, their totals and their flags, for all parents at once.

One page takes one statement for its rows and one for all else that is to be told of it, or one for both where the
database likes that. Pages of many parents take at most one each for the rows, the total, and what lies before and
after. Only what is selected is asked for.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, TypeVar

from gateway.models import MachineKind
from gateway.reads import cursors
from gateway.reads.conditions import Condition, Frame
from gateway.reads.context import AFTER, BEFORE, KEY, MOST_KEPT, PARENT, TENANT, Built, Context, Slot
from gateway.reads.dialects import Dialect, PageSql
from gateway.reads.entities import ENTITIES, Entity
from gateway.reads.fetch_nodes import Rows
from gateway.reads.filters import filter_condition
from gateway.reads.pages import BoundPage, parse_page
from gateway.reads.selection import Arguments
from gateway.reads.sorts import Order, backwards, beyond, parse_order

T = TypeVar("T")

_LONGEST_KEPT = 1_000  # characters of a filter and a sort


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
    """One page, as its renderer gets it."""

    rows: list[Any] = field(default_factory=list)
    total: int = 0
    has_next: bool = False
    has_previous: bool = False

    def tell(self, name: str, value: Any) -> None:
        """What the rows do not tell: the total, or a flag, which they may have set already."""
        if name == "total":
            self.total = value
        elif value:
            setattr(self, name, True)


class Single(NamedTuple):
    """The statements of one page. Without `facts` its rows end with what is told, after a mark that they are rows."""

    rows: Built | None
    facts: Built | None
    told: Sequence[str]


Where = Callable[[Frame], str]


def _nulls(place: Sequence[Any] | None) -> tuple[bool, ...] | None:
    """Which values of a cursor are null: these are compared in another way."""
    return None if place is None else tuple(value is None for value in place)


def _slotted(place: Sequence[Any], slots: Sequence[Slot]) -> Sequence[Any]:
    return [None if value is None else slot for value, slot in zip(place, slots, strict=False)]


def _from(order: Order, place: Sequence[Any], slots: Sequence[Slot]) -> Where:
    """The row at the place, and what comes after it."""
    return lambda frame: beyond(order, _slotted(place, slots), frame, inclusive=True)


def _between(bound: BoundPage) -> Where | None:
    """What comes after the one cursor and before the other."""
    if bound.after is None and bound.before is None:
        return None

    def sql(frame: Frame) -> str:
        parts = []
        if bound.after is not None:
            parts.append(beyond(bound.order, _slotted(bound.after, AFTER), frame))
        if bound.before is not None:
            parts.append(beyond(backwards(bound.order), _slotted(bound.before, BEFORE), frame))
        return " AND ".join(parts)

    return sql


@dataclass(slots=True, eq=False)
class ManyLevel:
    """Pages of an entity's rows: one for each parent, or one for all there are when `match` is None."""

    entity: Entity
    rows: Rows
    wanted: Wanted
    match: str | None
    kind: MachineKind | None = None  # only machines of this kind
    render: Callable[[Loaded, Sequence[Any], Context, Callable[[Any], str]], Any] | None = None
    _understood: dict[str, tuple[Order, Condition | None]] = field(default_factory=dict)
    _last_bound: tuple[Arguments, BoundPage] | None = None
    _last_single: tuple[BoundPage, Sequence[MachineKind], Single] | None = None
    _last_cursor: tuple[Order, Callable[[Any], str]] | None = None
    _kept: dict[Hashable, Any] = field(default_factory=dict)

    def bind(self, arguments: Arguments, dialect: Dialect) -> BoundPage:
        """Checks the arguments, once if they do not vary. Raises InvalidInput."""
        if self._last_bound is not None and self._last_bound[0] is arguments:
            return self._last_bound[1]
        page = parse_page(arguments)
        order, condition = self._order_and_condition(arguments.get("sort"), arguments.get("filter"))
        after = None if page.after is None else cursors.decode(page.after, order, dialect, "after")
        before = None if page.before is None else cursors.decode(page.before, order, dialect, "before")
        bound = BoundPage(page, order, condition, after, before)
        self._last_bound = (arguments, bound)
        return bound

    def _order_and_condition(self, sort: Any, value: Any) -> tuple[Order, Condition | None]:
        """Understood once, as the next page and the next user often want the same."""
        asked = repr((sort, value))
        understood = self._understood.get(asked)
        if understood is None:
            order = parse_order(self.entity.sorts, self.entity.default, sort)
            condition = filter_condition(self.entity.filters, value) if value else None
            understood = (order, condition)
            if len(asked) <= _LONGEST_KEPT:
                if len(self._understood) >= MOST_KEPT:
                    self._understood.clear()
                self._understood[asked] = understood
        return understood

    async def load(
        self, context: Context, parents: Sequence[int] | None, counts: Mapping[Any, int] | None = None
    ) -> dict[int | None, Any]:
        """The rendered connection of each parent; of all rows, under None, when there are no parents.

        `counts`: how many rows each parent's own row says that it has.
        """
        assert self.render is not None
        bound = context.pages[self]
        pages: dict[int | None, Loaded]
        if parents is None or len(parents) == 1:
            parent = parents[0] if parents else None
            count = None if counts is None else counts[parent]
            pages = {parent: await self._load_single(context, bound, parent, count)}
        else:
            pages = {parent: Loaded() for parent in parents}
            await self._load_each(context, bound, parents, pages, counts)
        links = await self.rows.follow(context, [row for page in pages.values() for row in page.rows])
        cursor = self.cursor(bound.order)
        return {parent: self.render(page, links, context, cursor) for parent, page in pages.items()}

    def told(self, bound: BoundPage, *, counted: bool) -> list[str]:
        """What is wanted and the rows do not tell. `counted`: the parent's row has the number of its rows."""
        told = []
        if self.wanted.total and not (counted and bound.condition is None):
            told.append("total")
        if self.wanted.previous and (bound.page.offset or bound.after is not None):
            told.append("has_previous")
        if self.wanted.next and bound.before is not None:
            told.append("has_next")
        return told

    def is_alone(self, bound: BoundPage, dialect: Dialect) -> bool:
        """Whether the page of all rows takes one statement, with everything that hangs from it."""
        apart = self.has_rows(bound) and bool(self.told(bound, counted=False)) and not dialect.joins
        return not (self.rows.links or apart)

    def has_rows(self, bound: BoundPage) -> bool:
        """Whether there are rows to ask for."""
        return self._limit(bound) > 0

    def _limit(self, bound: BoundPage) -> int:
        """How many rows to ask for: one more than the page has, if that tells what is wanted."""
        more_wanted = self.wanted.previous if bound.page.from_end else self.wanted.next
        return bound.page.size + (1 if more_wanted else 0) if self.wanted.rows else 0

    def cursor(self, order: Order) -> Callable[[Any], str]:
        """Makes the cursor of a row."""
        if self._last_cursor is not None and self._last_cursor[0] is order:
            return self._last_cursor[1]
        order_fingerprint, columns = cursors.fingerprint(order), self._columns(order)
        places = [columns.index(key.field.column) for key in order] if self.wanted.cursors else []

        def cursor(row: Sequence[Any]) -> str:
            return cursors.encode(order_fingerprint, [row[place] for place in places])

        self._last_cursor = (order, cursor)
        return cursor

    def _columns(self, order: Order) -> list[str]:
        """What is selected of each row: the fields, and what its cursor is made of."""
        if not self.wanted.cursors:
            return self.rows.columns
        return [*self.rows.columns, *(c for key in order if (c := key.field.column) not in self.rows.columns)]

    # ---- one page

    async def _load_single(self, context: Context, bound: BoundPage, parent: int | None, count: int | None) -> Loaded:
        rows, facts, told = self._single(context, bound, parented=parent is not None, counted=count is not None)
        slots = self.slots(bound)
        if parent is not None:
            slots[PARENT] = parent
        found: Sequence[Any] = () if rows is None else await context.run(rows, slots)
        values: Sequence[Any] = ()
        if facts is not None:
            (values,) = await context.run(facts, slots)
        elif told:
            mark, *values = found[0][-len(told) - 1 :]
            found = () if mark is None else found
        page = Loaded(list(found), count or 0)
        self.cut(page, bound)
        for name, value in zip(told, values, strict=True):
            page.tell(name, value)
        return page

    def _single(self, context: Context, bound: BoundPage, *, parented: bool, counted: bool) -> Single:
        last, kinds = self._last_single, context.caller.kinds
        if last is not None and last[0] is bound and last[1] == kinds:
            return last[2]
        shape = ("single", kinds, self.shape(bound))
        single = self._keep(shape, lambda: self._build_single(context, bound, parented, counted))
        self._last_single = (bound, kinds, single)
        return single

    def _build_single(self, context: Context, bound: BoundPage, parented: bool, counted: bool) -> Single:
        told = self.told(bound, counted=counted)
        frame = context.frame()
        parent = frame.parameters(PARENT) if parented else None
        facts = [f"{self._fact(name, bound, frame.beside(), parent)} AS f{place}" for place, name in enumerate(told)]
        apart = Built(f"SELECT {', '.join(facts)}", frame.parameters.values) if facts else None
        if not self.has_rows(bound):
            return Single(None, apart, told)
        if apart is not None and context.dialect.joins:
            page = self._page_sql(bound, parent, frame)
            select, columns, order = page.named([*page.columns, "1"])
            sql = f"SELECT {columns}, told.* FROM ({apart.sql}) told LEFT JOIN ({select}) page ON TRUE ORDER BY {order}"
            return Single(Built(sql, frame.parameters.values), None, told)
        frame = context.frame()
        page = self._page_sql(bound, frame.parameters(PARENT) if parented else None, frame)
        return Single(Built(page.select(page.columns), frame.parameters.values), apart, told)

    # ---- a page of each of many parents

    async def _load_each(
        self,
        context: Context,
        bound: BoundPage,
        parents: Sequence[int],
        pages: Mapping[int | None, Loaded],
        counts: Mapping[Any, int] | None,
    ) -> None:
        if not parents:
            return
        slots = self.slots(bound)
        slots[PARENT] = context.dialect.numbers(parents)
        shape = (context.caller.kinds, self.shape(bound))
        if self.has_rows(bound):
            built = self._keep(("each", *shape), lambda: self._build_each(context, bound))
            for row in await context.run(built, slots):
                pages[row[-1]].rows.append(row)
            for page in pages.values():
                self.cut(page, bound)
        if counts is not None:
            for parent, page in pages.items():
                page.total = counts[parent]
        for name in self.told(bound, counted=counts is not None):
            built = self._keep((name, *shape), partial(self._build_told, context, bound, name))
            for parent, value in await context.run(built, slots):
                pages[parent].tell(name, value)

    def _build_each(self, context: Context, bound: BoundPage) -> Built:
        frame = context.frame()
        page = self._page_sql(bound, context.dialect.parent, frame)
        return Built(context.dialect.per_parent(page, frame.parameters(PARENT)), frame.parameters.values)

    def _build_told(self, context: Context, bound: BoundPage, name: str) -> Built:
        frame = context.frame()
        fact = self._fact(name, bound, frame, context.dialect.parent)
        return Built(context.dialect.value_per_parent(fact, frame.parameters(PARENT)), frame.parameters.values)

    # ---- what the statements have in common

    def _keep(self, shape: Hashable, build: Callable[[], T]) -> T:
        """What `build` makes for this shape; kept for requests that differ only in what slots stand for."""
        kept: T | None = self._kept.get(shape)
        if kept is None:
            if len(self._kept) >= MOST_KEPT:
                self._kept.clear()
            kept = self._kept[shape] = build()
        return kept

    @staticmethod
    def cut(loaded: Loaded, bound: BoundPage) -> None:
        """Takes the row too many off, which says that there are more, and puts the others in order."""
        more = len(loaded.rows) > bound.page.size
        del loaded.rows[bound.page.size :]
        if bound.page.from_end:
            loaded.rows.reverse()
            loaded.has_previous = more
        else:
            loaded.has_next = more

    @staticmethod
    def slots(bound: BoundPage) -> dict[Slot, Any]:
        """What only this request brings."""
        slots: dict[Slot, Any] = dict(zip(AFTER, bound.after or (), strict=False))
        slots.update(zip(BEFORE, bound.before or (), strict=False))
        return slots

    def shape(self, bound: BoundPage) -> Hashable:
        """What the text of the statement depends on. A condition stands for itself: it must be the same object."""
        page = bound.page
        return (
            (self._limit(bound), page.from_end, page.offset, bound.order, bound.condition),
            _nulls(bound.after),
            _nulls(bound.before),
        )

    def _fact(self, name: str, bound: BoundPage, frame: Frame, parent: str | None) -> str:
        """The expression of something that is told of the page of a parent, or of that of all rows."""
        if name == "total" and bound.condition is None and parent is None and self.entity.total is not None:
            expression, noun = self.entity.total
            return f"(SELECT {expression} FROM {noun} t WHERE {ENTITIES[noun].visible(frame, TENANT)})"
        extra: Where | None = None
        if name == "has_previous" and bound.after is not None:
            extra = _from(backwards(bound.order), bound.after, AFTER)
        elif name == "has_next" and bound.before is not None:
            extra = _from(bound.order, bound.before, BEFORE)
        where = self._where(bound, parent, extra)(frame)
        rows = f"FROM {self.entity.noun} t{frame.joins()} WHERE {where}"
        return f"(SELECT count(*) {rows})" if name == "total" else f"EXISTS (SELECT 1 {rows})"

    def fact(self, name: str, bound: BoundPage, frame: Frame) -> str:
        """The same of the parent that KEY stands for, as a part of another statement."""
        return self._fact(name, bound, frame, frame.parameters(KEY))

    def select(self, bound: BoundPage, frame: Frame) -> tuple[str, str]:
        """The page of the parent that KEY stands for, as a part of another statement, and the order of its rows."""
        page = self._page_sql(bound, frame.parameters(KEY), frame)
        select, _, order = page.named(["t.id", *page.columns])
        return select, order

    def _page_sql(self, bound: BoundPage, parent: str | None, frame: Frame) -> PageSql:
        order = backwards(bound.order) if bound.page.from_end else bound.order
        columns = [frame.expression(column) for column in self._columns(bound.order)]
        keys = [frame.expression(key.field.column) for key in bound.order]
        where = self._where(bound, parent, _between(bound))(frame)
        return PageSql(
            table=self.entity.noun,
            joins=frame.joins(),
            columns=columns or ["1"],
            where=where,
            order=[(expression, key.how) for expression, key in zip(keys, order, strict=True)],
            limit=self._limit(bound),
            offset=bound.page.offset,
        )

    def _where(self, bound: BoundPage, parent: str | None, extra: Where | None) -> Where:
        """Everything that bounds the list, what the caller may see first."""

        def sql(frame: Frame) -> str:
            # Below a parent the tenant must not be taken for a way to find the rows: the parent's own are far fewer.
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
