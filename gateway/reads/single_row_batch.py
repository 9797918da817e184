"""Single rows of several tables, by their ids, in one statement: what the payload of one change refers to."""

from collections.abc import Sequence
from typing import Any

from gateway.models import MachineKind
from gateway.reads.context import Built, Context, Slot
from gateway.reads.fetch_nodes import OneLevel

MOST = 8  # SQLite joins 64 tables at most


class SingleRowBatch:
    """Levels without links, each of which gives one row."""

    def __init__(self, levels: Sequence[OneLevel]) -> None:
        self._levels = levels
        self._keys = [Slot(f"key {number}") for number in range(len(levels))]
        self._built: dict[tuple[MachineKind, ...], Built] = {}

    async def load(self, context: Context, keys: Sequence[int | None]) -> list[Any]:
        """The rendered row of each level, None for what is not there."""
        kinds = context.caller.kinds
        built = self._built.get(kinds)
        if built is None:
            built = self._built[kinds] = self._build(context)
        (row,) = await context.run(built, dict(zip(self._keys, keys, strict=True)))
        rendered: list[Any] = []
        start = 0
        for level in self._levels:
            assert level.render is not None
            end = start + len(level.rows.columns) + 1
            rendered.append(None if row[end - 1] is None else level.render(row[start:end], (), context))
            start = end
        return rendered

    def _build(self, context: Context) -> Built:
        frame = context.frame()
        joins = ""
        for number, (level, key) in enumerate(zip(self._levels, self._keys, strict=True)):
            select = level.select(frame.beside(), frame.parameters(key))
            joins += f" LEFT JOIN ({select}) row{number} ON TRUE"
        columns = ", ".join(f"row{number}.*" for number in range(len(self._levels)))
        return Built(f"SELECT {columns} FROM (SELECT 1) payload{joins}", frame.parameters.values)
