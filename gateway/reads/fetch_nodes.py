"""A plan at run time: levels, each of them one statement for all of its parents, and the links between them.

What a request brings comes in by `Context`; a level itself never changes once it is compiled.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from gateway.models import MachineKind
from gateway.reads.conditions import Frame
from gateway.reads.context import KEY, MOST_KEPT, TENANT, Built, Context, Pages, Slot
from gateway.reads.entities import Entity
from gateway.reads.rendering import Renderer


class Link(Protocol):
    """A way from the rows of one level to another level."""

    async def load(self, context: Context, rows: Sequence[Any]) -> Mapping[Any, Any]:
        """What the renderer looks up, by key."""
        ...

    def join(self, pages: Pages) -> "Join | None":
        """How its rows can come in the same statement as the one row they hang from; None when they cannot."""
        ...


@dataclass(frozen=True, slots=True)
class Join:
    """A link's rows as a part of another statement. `select` gives a SELECT and the order of its rows.

    The SELECT's first column is null for nothing but the row that a LEFT JOIN makes up.
    """

    shape: Hashable  # what the text depends on
    slots: Mapping[Slot, Any]
    told: Sequence[Callable[[Frame], str]]  # expressions, whose values come with the one row
    select: Callable[[Frame], tuple[str, str]]
    # From the one row, the values that are told, and the link's rows.
    finish: Callable[[Context, Any, Sequence[Any], Sequence[Any]], Mapping[Any, Any]]


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
    _built: dict[Hashable, Built] = field(default_factory=dict)

    async def load(self, context: Context, keys: Sequence[Any], kind: MachineKind | None = None) -> dict[Any, Any]:
        """The rendered rows by their key; what is not there, or not for this caller, is left out."""
        if not keys or self.render is None or (self.entity.administered and not context.caller.administers):
            return {}
        single = len(keys) == 1
        if single and (join := self._join(context.pages)) is not None:
            return await self._load_joined(context, keys[0], kind, join)
        shape = (single, kind, context.caller.kinds)
        built = self._built.get(shape)
        if built is None:
            built = self._built[shape] = self._build(context, single, kind)
        rows = await context.run(built, {KEY: keys[0] if single else context.dialect.numbers(keys)})
        links = await self.rows.follow(context, rows)
        return {row[-1]: self.render(row, links, context) for row in rows}

    def is_alone(self, pages: Pages) -> bool:
        """Whether one row takes one statement, with everything that hangs from it."""
        return not self.rows.links or self._join(pages) is not None

    def _join(self, pages: Pages) -> Join | None:
        return self.rows.links[0].join(pages) if len(self.rows.links) == 1 else None

    async def _load_joined(self, context: Context, key: Any, kind: MachineKind | None, join: Join) -> dict[Any, Any]:
        """One row and the page that hangs from it, in one statement."""
        assert self.render is not None
        shape = (kind, context.caller.kinds, join.shape)
        built = self._built.get(shape)
        if built is None:
            if len(self._built) >= MOST_KEPT:
                self._built.clear()
            built = self._built[shape] = self._build(context, True, kind, join)
        rows = await context.run(built, {KEY: key, **join.slots})
        if not rows:
            return {}
        width = len(self.rows.columns) + 1
        page = width + len(join.told)
        row, told = rows[0][:width], rows[0][width:page]
        links = [join.finish(context, row, told, [found[page + 1 :] for found in rows if found[page] is not None])]
        return {row[-1]: self.render(row, links, context)}

    def select(self, frame: Frame, key: str) -> str:
        """The statement for the row whose key the placeholder stands for, as a part of another one."""
        columns = [
            f"{frame.expression(column)} AS c{number}" for number, column in enumerate((*self.rows.columns, self.match))
        ]
        where = f"{frame.expression(self.match)} = {key} AND {self.entity.visible(frame, TENANT)}"
        source = f"{self.entity.noun} t{frame.joins()}"
        return f"SELECT {', '.join(columns)} FROM {source} WHERE {where} AND {self.where.format(t='t')}"

    def _build(self, context: Context, single: bool, kind: MachineKind | None, join: Join | None = None) -> Built:
        frame = context.frame()
        columns = [frame.expression(column) for column in (*self.rows.columns, self.match)]
        match = frame.expression(self.match)
        key = frame.parameters(KEY)
        found = f"{match} = {key}" if single else context.dialect.among_numbers(match, key)
        kind_sql = f" AND t.kind = '{kind}'" if kind else ""
        where = f"{found} AND {self.entity.visible(frame, TENANT)}{kind_sql} AND {self.where.format(t='t')}"
        source = f"{self.entity.noun} t{frame.joins()}"
        if join is None:
            return Built(f"SELECT {', '.join(columns)} FROM {source} WHERE {where}", frame.parameters.values)
        columns += [told(frame.beside()) for told in join.told]
        select, order = join.select(frame.beside())
        sql = (
            f"SELECT {', '.join(columns)}, page.* FROM {source} LEFT JOIN ({select}) page ON TRUE"
            f" WHERE {where} ORDER BY {order}"
        )
        return Built(sql, frame.parameters.values)


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
        visible = self.entity.visible(frame, TENANT)
        sql = f"SELECT {columns} FROM {self.entity.noun} t{frame.joins()} WHERE {visible} ORDER BY {order}"
        rows = await context.run(Built(sql, frame.parameters.values))
        links = await self.rows.follow(context, rows)
        return [render(row, links, context) for row in rows]
