"""Connections at run time: pages of rows, their totals and their flags, for all parents at once.

At most one statement each for the rows, the total, and what lies before and after; only for what is selected.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.models import MachineKind
from gateway.reads import cursors
from gateway.reads.conditions import Condition, Frame
from gateway.reads.context import AFTER, BEFORE, KEY, MOST_KEPT, PARENT, TENANT, Built, Context, Slot
from gateway.reads.dialects import Dialect, PageSql
from gateway.reads.entities import ENTITIES, Entity
from gateway.reads.filters import filter_condition
from gateway.reads.levels import Rows
from gateway.reads.pages import BoundPage, parse_page
from gateway.reads.selection import Arguments
from gateway.reads.sorts import Order, backwards, beyond, parse_order

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

    def set(self, flag: str, found: bool) -> None:
        """What else is known to be there; the rows may have set the flag already."""
        if found:
            setattr(self, flag, True)


Where = Callable[[Frame], str]


def _nulls(place: Sequence[Any] | None) -> tuple[bool, ...] | None:
    """Which values of a cursor are null: these are compared in another way."""
    return None if place is None else tuple(value is None for value in place)


def _slotted(place: Sequence[Any], slots: Sequence[Slot]) -> Sequence[Any]:
    return [None if value is None else slot for value, slot in zip(place, slots, strict=False)]


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
    _last_built: tuple[BoundPage, bool, Sequence[MachineKind], Built] | None = None
    _last_cursor: tuple[Order, Callable[[Any], str]] | None = None
    _kept: dict[Hashable, Built] = field(default_factory=dict)

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
        cursor = self.cursor(bound.order)
        return {parent: self.render(page, links, context, cursor) for parent, page in pages.items()}

    def is_alone(self, bound: BoundPage, *, counted: bool) -> bool:
        """Whether one statement can tell all that is wanted. `counted`: the parent's row has the number of its rows."""
        total = self.wanted.total and not (counted and bound.condition is None)
        return self._limit(bound) > 0 and not (self.rows.links or total)

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

    # ---- what the statements have in common

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

    async def _scalars(
        self,
        context: Context,
        bound: BoundPage,
        parents: Sequence[int] | None,
        name: str,
        scalar: str,
        extra: Where | None = None,
    ) -> dict[int | None, Any]:
        """One value per parent: `scalar`, in which `{}` stands for `FROM … WHERE …`. `name` tells it from others."""
        parented, one = parents is not None, parents is None or len(parents) == 1
        shape = (name, parented, one, context.caller.kinds, self.shape(bound))
        built = self._keep(shape, lambda: self._build_scalar(context, bound, parented, one, scalar, extra))
        slots = self.slots(bound)
        if parents is not None:
            slots[PARENT] = parents[0] if one else context.dialect.numbers(parents)
        rows = await context.run(built, slots)
        if one:
            return {parents[0] if parents else None: rows[0][0]}
        return {row[0]: row[1] for row in rows}

    def _build_scalar(
        self, context: Context, bound: BoundPage, parented: bool, one: bool, scalar: str, extra: Where | None
    ) -> Built:
        frame = context.frame()
        parent = None
        if parented:
            parent = frame.parameters(PARENT) if one else context.dialect.parent
        where = self._where(bound, parent, extra)(frame)
        expression = scalar.format(f"FROM {self.entity.noun} t{frame.joins()} WHERE {where}")
        if one:
            return Built(f"SELECT {expression}", frame.parameters.values)
        sql = context.dialect.value_per_parent(expression, frame.parameters(PARENT))
        return Built(sql, frame.parameters.values)

    def _keep(self, shape: Hashable, build: Callable[[], Built]) -> Built:
        """The statement of this shape; kept for requests that differ only in what slots stand for."""
        kept = self._kept.get(shape)
        if kept is None:
            if len(self._kept) >= MOST_KEPT:
                self._kept.clear()
            kept = self._kept[shape] = build()
        return kept

    # ---- rows

    async def _load_rows(
        self, context: Context, bound: BoundPage, parents: Sequence[int] | None, pages: dict[int | None, Loaded]
    ) -> None:
        limit = self._limit(bound)
        if limit == 0 or not pages:
            return
        one = parents is None or len(parents) == 1
        slots = self.slots(bound)
        if parents is not None:
            slots[PARENT] = parents[0] if one else context.dialect.numbers(parents)
        found = await context.run(self._statement(context, bound, parents is not None, one), slots)
        if parents is None or len(parents) == 1:
            pages[None if parents is None else parents[0]].rows = list(found)
        else:
            for row in found:
                pages[row[-1]].rows.append(row)
        for loaded in pages.values():
            self.cut(loaded, bound)

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

    def _statement(self, context: Context, bound: BoundPage, parented: bool, one: bool) -> Built:
        last, kinds = self._last_built, context.caller.kinds
        if last is not None and last[0] is bound and last[1] is one and last[2] == kinds:
            return last[3]
        shape = (parented, one, kinds, self.shape(bound))
        kept = self._keep(shape, lambda: self._build(context, bound, parented, one))
        self._last_built = (bound, one, kinds, kept)
        return kept

    def _build(self, context: Context, bound: BoundPage, parented: bool, one: bool) -> Built:
        frame = context.frame()
        parent = None
        if parented:
            parent = frame.parameters(PARENT) if one else context.dialect.parent
        sql = self._page_sql(bound, parent, frame)
        if one:
            return Built(sql.select(sql.columns), frame.parameters.values)
        return Built(context.dialect.per_parent(sql, frame.parameters(PARENT)), frame.parameters.values)

    def select(self, bound: BoundPage, frame: Frame) -> tuple[str, str]:
        """The page of the parent that KEY stands for, as a part of another statement, and the order of its rows."""
        sql = self._page_sql(bound, frame.parameters(KEY), frame)
        columns = [f"{column} AS c{number}" for number, column in enumerate(("t.id", *sql.columns))]
        keys = [f"{expression} AS o{number}" for number, (expression, _) in enumerate(sql.order)]
        order = ", ".join(f"page.o{number} {how}" for number, (_, how) in enumerate(sql.order))
        return sql.select([*columns, *keys]), order

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
            expression, noun = self.entity.total
            frame = context.frame()
            sql = f"SELECT {expression} FROM {noun} t WHERE {ENTITIES[noun].visible(frame, TENANT)}"
            totals = {None: (await context.run(Built(sql, frame.parameters.values)))[0][0]}
        else:
            totals = await self._scalars(context, bound, parents, "total", "(SELECT count(*) {})")
        for parent, loaded in pages.items():
            loaded.total = totals[parent]

    def flags(self, bound: BoundPage) -> Sequence[tuple[str, Where | None]]:
        """The flags that the rows do not tell, each with what bounds the rows that would set it."""
        flags: list[tuple[str, Where | None]] = []
        if self.wanted.previous and (bound.page.offset or bound.after is not None):
            flags.append(("has_previous", self._at_or_beyond(backwards(bound.order), bound.after, AFTER)))
        if self.wanted.next and bound.before is not None:
            flags.append(("has_next", self._at_or_beyond(bound.order, bound.before, BEFORE)))
        return flags

    def exists(self, bound: BoundPage, extra: Where | None, frame: Frame) -> str:
        """Whether the parent that KEY stands for has such a row, as a part of another statement."""
        where = self._where(bound, frame.parameters(KEY), extra)(frame)
        return f"EXISTS (SELECT 1 FROM {self.entity.noun} t{frame.joins()} WHERE {where})"

    async def _load_flags(
        self, context: Context, bound: BoundPage, parents: Sequence[int] | None, pages: dict[int | None, Loaded]
    ) -> None:
        for flag, extra in self.flags(bound):
            found = await self._scalars(context, bound, parents, flag, "EXISTS (SELECT 1 {})", extra)
            for parent, exists in found.items():
                pages[parent].set(flag, bool(exists))

    @staticmethod
    def _at_or_beyond(order: Order, place: Sequence[Any] | None, slots: Sequence[Slot]) -> Where | None:
        if place is None:
            return None
        return lambda frame: beyond(order, _slotted(place, slots), frame, inclusive=True)
