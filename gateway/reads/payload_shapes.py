"""Payloads: dicts from resolvers (mutation payloads, events, errors) and computed roots, and the rows they refer to.

All rows that the payloads of one shape refer to are loaded together, by one statement for each entity. For a single
payload, rows without relations are loaded by one statement for all entities (`single_row_batch`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import inf
from typing import Any

from gateway.errors import Reference
from gateway.models import MachineKind
from gateway.reads.context import Bound, Context
from gateway.reads.fetch_nodes import SingleRowNode
from gateway.reads.ids import Id
from gateway.reads.rendering import Renderer
from gateway.reads.single_row_batch import MAX_ROWS, SingleRowBatch


@dataclass(slots=True)
class MultiEntityNode:
    """Loads rows of several entities by id, with one fetch node for each entity."""

    nodes: dict[str, SingleRowNode]  # by noun

    def is_single_statement(self, bound: Bound) -> bool:
        """Whether one statement loads one row, whatever its entity."""
        return all(node.is_single_statement(bound) for node in self.nodes.values())

    def max_statements(self) -> float:
        """The largest number of statements for any number of rows. Infinity if rows have relations."""
        return inf if any(node.layout.relations for node in self.nodes.values()) else len(self.nodes)

    async def load(self, context: Context, ids: Sequence[Id]) -> dict[Id, Any]:
        """The rendered rows by id. An id with a kind finds nothing if the row has another kind."""
        groups: dict[tuple[str, MachineKind | None], list[int]] = {}
        for id_ in dict.fromkeys(ids):
            groups.setdefault((id_.noun, id_.kind), []).append(id_.number)
        found: dict[Id, Any] = {}
        for (noun, kind), numbers in groups.items():
            if noun in self.nodes:
                rows = await self.nodes[noun].load(context, numbers, kind)
                found |= {Id(noun, number, kind): value for number, value in rows.items()}
        return found


class PayloadShape:
    """The selection of a payload. Renders several payloads at once.

    Its parts are the nested payloads and the referenced rows, numbered in the order in which they are added.
    """

    def __init__(self) -> None:
        self.render: Renderer | None = None
        self._parts: list[_NestedPayload | _RowReference] = []

    def nested(self, name: str, shape: "PayloadShape") -> str:
        """Adds a nested payload or list of payloads. Returns its expression for the renderer."""
        return self._add(_NestedPayload(name, shape))

    def reference(self, name: str, noun: str | None, node: MultiEntityNode) -> str:
        """Adds a row that the payload holds the number of or, without `noun`, a Reference to.

        Returns its expression for the renderer.
        """
        return self._add(_RowReference(name, noun, node))

    @cached_property
    def _batched(self) -> dict[int, SingleRowNode]:
        """The parts whose rows one statement loads for a single payload. Empty if there are fewer than two."""
        found = {number: part.batchable() for number, part in enumerate(self._parts)}
        batched = {number: node for number, node in found.items() if node is not None}
        return dict(list(batched.items())[:MAX_ROWS]) if len(batched) > 1 else {}

    @cached_property
    def _batch(self) -> SingleRowBatch:
        return SingleRowBatch(list(self._batched.values()))

    def is_single_statement(self, _bound: Bound) -> bool:
        """Whether a single payload takes one statement at most."""
        rest = sum(part.max_statements() for number, part in enumerate(self._parts) if number not in self._batched)
        return rest + bool(self._batched) <= 1

    def max_statements(self) -> float:
        """The largest number of statements for any number of payloads."""
        return sum(part.max_statements() for part in self._parts)

    async def _load_batch(self, context: Context, payload: dict[str, Any]) -> dict[int, Any]:
        keys = [payload[self._parts[number].name] for number in self._batched]
        if keys.count(None) == len(keys):
            return dict.fromkeys(self._batched)
        return dict(zip(self._batched, await self._batch.load(context, keys), strict=True))

    def _add(self, part: "_NestedPayload | _RowReference") -> str:
        self._parts.append(part)
        return f"parts[{len(self._parts) - 1}]"

    async def load(self, context: Context, payloads: Sequence[dict[str, Any]]) -> list[Any]:
        """The rendered payloads, in order."""
        assert self.render is not None
        batch = await self._load_batch(context, payloads[0]) if len(payloads) == 1 and self._batched else {}
        columns = [
            [batch[number]] if number in batch else await part.load(context, payloads)
            for number, part in enumerate(self._parts)
        ]
        return [
            self.render(payload, [column[number] for column in columns], context)
            for number, payload in enumerate(payloads)
        ]


@dataclass(slots=True)
class _NestedPayload:
    name: str
    shape: PayloadShape

    def batchable(self) -> None:
        return None

    def max_statements(self) -> float:
        return self.shape.max_statements()

    async def load(self, context: Context, payloads: Sequence[dict[str, Any]]) -> list[Any]:
        flat: list[dict[str, Any]] = []
        for payload in payloads:
            inner = payload[self.name]
            flat += inner if isinstance(inner, list) else [] if inner is None else [inner]
        rendered = iter(await self.shape.load(context, flat) if flat else [])
        results: list[Any] = []
        for payload in payloads:
            inner = payload[self.name]
            if isinstance(inner, list):
                results.append([next(rendered) for _ in inner])
            else:
                results.append(None if inner is None else next(rendered))
        return results


@dataclass(slots=True)
class _RowReference:
    name: str
    noun: str | None
    node: MultiEntityNode = field(default_factory=lambda: MultiEntityNode({}))

    def batchable(self) -> SingleRowNode | None:
        """The fetch node of its rows if these are of one entity and have no relations."""
        node = self.node.nodes.get(self.noun or "")
        return None if node is None or node.layout.relations else node

    def max_statements(self) -> float:
        return self.node.max_statements()

    async def load(self, context: Context, payloads: Sequence[dict[str, Any]]) -> list[Any]:
        ids = [self._id(payload[self.name]) for payload in payloads]
        found = await self.node.load(context, [id_ for id_ in ids if id_ is not None])
        return [None if id_ is None else found.get(id_) for id_ in ids]

    def _id(self, value: Any) -> Id | None:
        if value is None:
            return None
        if isinstance(value, Reference):
            return Id(value.noun, value.id)
        return Id(self.noun or "", value)
