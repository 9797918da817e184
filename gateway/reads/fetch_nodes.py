"""Fetch nodes: the parts of a plan that run statements. Each loads the rows of all its parents at once.

A fetch node does not change once it is compiled, except for its cache of statement templates. Everything that a
request brings arrives in `Context`, so one plan serves concurrent requests. `compiler` describes plans as a whole.
"""

from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from gateway.bounded_cache import CacheSection
from gateway.models import MachineKind
from gateway.reads.conditions import Frame
from gateway.reads.context import KEY, TEMPLATES, TENANT, BindVariable, Bound, Context, StatementTemplate
from gateway.reads.entities import Entity
from gateway.reads.rendering import SLICE_ROWS, Renderer


class Relation(Protocol):
    """Leads from the rows of one fetch node to another fetch node."""

    async def load(self, context: Context, rows: Sequence[Any]) -> Mapping[Any, Any]:
        """Loads what belongs to all of `rows`: rendered values by the key that the renderer looks up."""
        ...

    def join(self, bound: Bound) -> "RelationJoin | None":
        """How one statement can load a single row and this relation's rows; None if it cannot."""
        ...


@dataclass(frozen=True, slots=True)
class RelationJoin:
    """A relation's rows as part of the statement that loads the row they belong to.

    `select` gives a SELECT and the order of its rows. The first column of that SELECT is never null, so a null there
    marks the row that a LEFT JOIN adds when the SELECT is empty.
    """

    shape: Hashable  # everything that the text depends on; None if statements with this page are not to be cached
    bindings: Mapping[BindVariable, Any]
    metadata: Sequence[Callable[[Frame], str]]  # expressions; their values are columns of the single row
    select: Callable[[Frame], tuple[str, str]]
    # Makes the result of `Relation.load` from the single row, the metadata values, and the relation's rows.
    finish: Callable[[Context, Any, Sequence[Any], Sequence[Any]], Awaitable[Mapping[Any, Any]]]


class RowLayout:
    """The columns of an entity that one statement selects, and the relations of its rows.

    Grows while a plan is compiled.
    """

    def __init__(self, entity: Entity) -> None:
        self.entity = entity
        self.columns: list[str] = []
        self.relations: list[Relation] = []
        self._relation_numbers: dict[Hashable, int] = {}

    def column(self, name: str) -> int:
        """The position of a column in a row. A column is selected once, however many fields use it."""
        if name not in self.columns:
            self.columns.append(name)
        return self.columns.index(name)

    def relation(self, key: Hashable, make: Callable[[], Relation]) -> int:
        """The number of the relation made for `key`. The same selection on two types shares one relation."""
        if key not in self._relation_numbers:
            self._relation_numbers[key] = len(self.relations)
            self.relations.append(make())
        return self._relation_numbers[key]

    async def load_relations(self, context: Context, rows: Sequence[Any]) -> list[Mapping[Any, Any]]:
        """The result of each relation for all rows, in the order of `relations`. Empty without rows."""
        return [await relation.load(context, rows) for relation in self.relations] if rows else []


@dataclass(slots=True, eq=False)
class SingleRowNode:
    """Loads at most one row of an entity for each key, by the unique column `match`."""

    layout: RowLayout
    render: Renderer
    match: str = "id"
    where: str = "TRUE"
    _templates: CacheSection[Hashable, StatementTemplate] = field(default_factory=lambda: CacheSection(TEMPLATES))

    async def load(self, context: Context, keys: Sequence[Any], kind: MachineKind | None = None) -> dict[Any, Any]:
        """The rendered rows by key. Rows that do not exist or that the caller may not see are left out."""
        if not keys or (self.layout.entity.admin_only and not context.caller.administers):
            return {}
        single = len(keys) == 1
        if single and (join := self._join(context.bound)) is not None:
            return await self._load_joined(context, keys[0], kind, join)
        shape = (single, kind, context.caller.readable_kinds)
        template = self._templates.get(shape)
        if template is None:
            template = self._compile(context, single, kind)
            self._templates.put(shape, template)
        rows = await context.fetch(template, {KEY: keys[0] if single else context.dialect.number_list(keys)})
        related = await self.layout.load_relations(context, rows)
        if len(rows) <= SLICE_ROWS:
            return {row[-1]: self.render(row, related, context) for row in rows}
        found: dict[Any, Any] = {}
        for start in range(0, len(rows), SLICE_ROWS):
            await context.transaction.pause()
            found |= {row[-1]: self.render(row, related, context) for row in rows[start : start + SLICE_ROWS]}
        return found

    def is_single_statement(self, bound: Bound) -> bool:
        """Whether one statement loads a single row with all of its relations."""
        return not self.layout.relations or self._join(bound) is not None

    def _join(self, bound: Bound) -> RelationJoin | None:
        """The join of the only relation. A joined page belongs to KEY, so the row must be found by its id."""
        if len(self.layout.relations) != 1 or self.match != "id":
            return None
        return self.layout.relations[0].join(bound)

    async def _load_joined(
        self, context: Context, key: Any, kind: MachineKind | None, join: RelationJoin
    ) -> dict[Any, Any]:
        """One row and the page of its only relation, by one statement."""
        shape = None if join.shape is None else (kind, context.caller.readable_kinds, join.shape)
        template = None if shape is None else self._templates.get(shape)
        if template is None:
            template = self._compile(context, True, kind, join)
            if shape is not None:
                self._templates.put(shape, template)
        rows = await context.fetch(template, {KEY: key, **join.bindings})
        if not rows:
            return {}
        width = len(self.layout.columns) + 1
        page = width + len(join.metadata)
        row, metadata = rows[0][:width], rows[0][width:page]
        page_rows = [found[page + 1 :] for found in rows if found[page] is not None]
        related = [await join.finish(context, row, metadata, page_rows)]
        return {row[-1]: self.render(row, related, context)}

    def select(self, frame: Frame, key: str) -> str:
        """The statement that finds the row with the key `key` (a placeholder), as part of another statement."""
        columns = [
            f"{frame.expression(column)} AS c{number}"
            for number, column in enumerate((*self.layout.columns, self.match))
        ]
        where = f"{frame.expression(self.match)} = {key} AND {self.layout.entity.visible(frame, TENANT)}"
        source = f"{self.layout.entity.noun} t{frame.joins()}"
        return f"SELECT {', '.join(columns)} FROM {source} WHERE {where} AND {self.where.format(t='t')}"

    def _compile(
        self, context: Context, single: bool, kind: MachineKind | None, join: RelationJoin | None = None
    ) -> StatementTemplate:
        frame = context.frame()
        columns = [frame.expression(column) for column in (*self.layout.columns, self.match)]
        match = frame.expression(self.match)
        key = frame.parameters(KEY)
        found = f"{match} = {key}" if single else context.dialect.in_numbers(match, key)
        kind_sql = f" AND t.kind = '{kind}'" if kind else ""
        where = f"{found} AND {self.layout.entity.visible(frame, TENANT)}{kind_sql} AND {self.where.format(t='t')}"
        source = f"{self.layout.entity.noun} t{frame.joins()}"
        if join is None:
            return StatementTemplate(
                f"SELECT {', '.join(columns)} FROM {source} WHERE {where}", frame.parameters.values
            )
        columns += [metadata(frame.sibling()) for metadata in join.metadata]
        select, order = join.select(frame.sibling())
        sql = (
            f"SELECT {', '.join(columns)}, page.* FROM {source} LEFT JOIN ({select}) page ON TRUE"
            f" WHERE {where} ORDER BY {order}"
        )
        return StatementTemplate(sql, frame.parameters.values)
