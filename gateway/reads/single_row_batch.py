"""Loads single rows of several tables, by id, in one statement: the rows that a payload refers to."""

from collections.abc import Sequence
from typing import Any

from gateway.models import MachineKind
from gateway.reads.context import BindVariable, Context, StatementTemplate
from gateway.reads.fetch_nodes import SingleRowNode

MAX_ROWS = 8  # SQLite joins 64 tables at most


class SingleRowBatch:
    """Fetch nodes without relations, each of which loads one row."""

    def __init__(self, nodes: Sequence[SingleRowNode]) -> None:
        self._nodes = nodes
        self._keys = [BindVariable(f"key {number}") for number in range(len(nodes))]
        self._templates: dict[tuple[MachineKind, ...], StatementTemplate] = {}

    async def load(self, context: Context, keys: Sequence[int | None]) -> list[Any]:
        """The rendered row of each node. None for a row that does not exist or that the caller may not see."""
        kinds = context.caller.readable_kinds
        template = self._templates.get(kinds)
        if template is None:
            template = self._templates[kinds] = self._compile(context)
        (row,) = await context.fetch(template, dict(zip(self._keys, keys, strict=True)))
        rendered: list[Any] = []
        start = 0
        for node in self._nodes:
            end = start + len(node.layout.columns) + 1
            rendered.append(None if row[end - 1] is None else node.render(row[start:end], (), context))
            start = end
        return rendered

    def _compile(self, context: Context) -> StatementTemplate:
        frame = context.frame()
        joins = ""
        for number, (node, key) in enumerate(zip(self._nodes, self._keys, strict=True)):
            select = node.select(frame.sibling(), frame.parameters(key))
            joins += f" LEFT JOIN ({select}) row{number} ON TRUE"
        columns = ", ".join(f"row{number}.*" for number in range(len(self._nodes)))
        return StatementTemplate(f"SELECT {columns} FROM (SELECT 1) payload{joins}", frame.parameters.values)
