"""Links: the ways from the rows of one level to another level."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from gateway.reads.connections import Loaded, ManyLevel
from gateway.reads.context import Context, Pages
from gateway.reads.fetch_nodes import Join, OneLevel


@dataclass(slots=True)
class OneLink:
    """To the one row that a column names."""

    level: OneLevel
    column: int

    async def load(self, context: Context, rows: Sequence[Any]) -> Mapping[Any, Any]:
        column = self.column
        keys = list(dict.fromkeys(row[column] for row in rows if row[column] is not None))
        return await self.level.load(context, keys)

    def join(self, pages: Pages) -> None:
        return None


@dataclass(slots=True)
class ManyLink:
    """To the page of rows that belong to this one."""

    level: ManyLevel
    column: int
    counter: int | None  # position of the column that counts them
    joins: bool  # whether the database likes to be asked for both at once

    async def load(self, context: Context, rows: Sequence[Any]) -> Mapping[Any, Any]:
        parents = list(dict.fromkeys(row[self.column] for row in rows))
        counts = None if self.counter is None else {row[self.column]: row[self.counter] for row in rows}
        return await self.level.load(context, parents, counts)

    def join(self, pages: Pages) -> Join | None:
        level, bound = self.level, pages[self.level]
        if not self.joins or not level.has_rows(bound) or level.rows.links:
            return None
        told = level.told(bound, counted=self.counter is not None)

        def finish(context: Context, row: Any, values: Sequence[Any], rows: Sequence[Any]) -> Mapping[Any, Any]:
            assert level.render is not None
            page = Loaded(list(rows), 0 if self.counter is None else row[self.counter])
            level.cut(page, bound)
            for name, value in zip(told, values, strict=True):
                page.tell(name, value)
            return {row[self.column]: level.render(page, (), context, level.cursor(bound.order))}

        return Join(
            level.shape(bound),
            level.slots(bound),
            [partial(level.fact, name, bound) for name in told],
            lambda frame: level.select(bound, frame),
            finish,
        )
