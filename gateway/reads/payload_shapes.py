"""Objects that a resolver gives as dicts (payloads, changes, errors), with rows of the database hanging from them.

All rows that the dicts of one shape refer to are loaded together, one statement for each noun; those of one dict,
where nothing hangs from them, in one statement for all.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import inf
from typing import Any

from gateway.errors import Reference
from gateway.models import MachineKind
from gateway.reads.context import Context, Pages
from gateway.reads.fetch_nodes import OneLevel
from gateway.reads.ids import Id
from gateway.reads.rendering import Renderer
from gateway.reads.single_row_batch import MOST, SingleRowBatch


@dataclass(slots=True)
class NodeLevels:
    """Rows of several nouns by their numbers."""

    levels: dict[str, OneLevel]

    def is_alone(self, pages: Pages) -> bool:
        """Whether one row, whatever its noun, takes one statement."""
        return all(level.is_alone(pages) for level in self.levels.values())

    def statements(self) -> float:
        """How many statements any number of rows take at most."""
        return inf if any(level.rows.links for level in self.levels.values()) else len(self.levels)

    async def load(self, context: Context, wanted: Sequence[Id]) -> dict[Id, Any]:
        """The rendered rows; an id of a kind that the row is not finds nothing."""
        groups: dict[tuple[str, MachineKind | None], list[int]] = {}
        for id_ in dict.fromkeys(wanted):
            groups.setdefault((id_.noun, id_.kind), []).append(id_.number)
        found: dict[Id, Any] = {}
        for (noun, kind), numbers in groups.items():
            if noun in self.levels:
                rows = await self.levels[noun].load(context, numbers, kind)
                found |= {Id(noun, number, kind): value for number, value in rows.items()}
        return found


class PayloadShape:
    """The selection of a given dict. Renders many of them at once."""

    def __init__(self) -> None:
        self.render: Renderer | None = None
        self._slots: list[_Nested | _Reference] = []

    def nested(self, name: str, shape: "PayloadShape") -> str:
        """The expression of a nested object or list of objects."""
        return self._slot(_Nested(name, shape))

    def reference(self, name: str, noun: str | None, levels: NodeLevels) -> str:
        """The expression of a row that the dict refers to by number or, without `noun`, by Reference."""
        return self._slot(_Reference(name, noun, levels))

    @cached_property
    def _joined(self) -> dict[int, OneLevel]:
        """The slots whose rows come in one statement when there is one dict; none for less than two."""
        found = {number: slot.joinable() for number, slot in enumerate(self._slots)}
        joined = {number: level for number, level in found.items() if level is not None}
        return dict(list(joined.items())[:MOST]) if len(joined) > 1 else {}

    @cached_property
    def _together(self) -> SingleRowBatch:
        return SingleRowBatch(list(self._joined.values()))

    def is_alone(self, _pages: Pages) -> bool:
        """Whether one dict takes one statement at most."""
        rest = sum(slot.statements() for number, slot in enumerate(self._slots) if number not in self._joined)
        return rest + bool(self._joined) <= 1

    def statements(self) -> float:
        """How many statements any number of dicts take at most."""
        return sum(slot.statements() for slot in self._slots)

    async def _load_joined(self, context: Context, value: dict[str, Any]) -> dict[int, Any]:
        keys = [value[self._slots[number].name] for number in self._joined]
        if keys.count(None) == len(keys):
            return dict.fromkeys(self._joined)
        return dict(zip(self._joined, await self._together.load(context, keys), strict=True))

    def _slot(self, slot: "_Nested | _Reference") -> str:
        self._slots.append(slot)
        return f"S[{len(self._slots) - 1}]"

    async def load(self, context: Context, values: Sequence[dict[str, Any]]) -> list[Any]:
        """The rendered values, in order."""
        assert self.render is not None
        joined = await self._load_joined(context, values[0]) if len(values) == 1 and self._joined else {}
        columns = [
            [joined[number]] if number in joined else await slot.load(context, values)
            for number, slot in enumerate(self._slots)
        ]
        return [
            self.render(value, [column[number] for column in columns], context) for number, value in enumerate(values)
        ]


@dataclass(slots=True)
class _Nested:
    name: str
    shape: PayloadShape

    def joinable(self) -> None:
        return None

    def statements(self) -> float:
        return self.shape.statements()

    async def load(self, context: Context, values: Sequence[dict[str, Any]]) -> list[Any]:
        flat: list[dict[str, Any]] = []
        for value in values:
            inner = value[self.name]
            flat += inner if isinstance(inner, list) else [] if inner is None else [inner]
        rendered = iter(await self.shape.load(context, flat) if flat else [])
        results: list[Any] = []
        for value in values:
            inner = value[self.name]
            if isinstance(inner, list):
                results.append([next(rendered) for _ in inner])
            else:
                results.append(None if inner is None else next(rendered))
        return results


@dataclass(slots=True)
class _Reference:
    name: str
    noun: str | None
    levels: NodeLevels = field(default_factory=lambda: NodeLevels({}))

    def joinable(self) -> OneLevel | None:
        """The level of its rows, when these are of one noun and nothing hangs from them."""
        level = self.levels.levels.get(self.noun or "")
        return None if level is None or level.rows.links else level

    def statements(self) -> float:
        return self.levels.statements()

    async def load(self, context: Context, values: Sequence[dict[str, Any]]) -> list[Any]:
        ids = [self._id(value[self.name]) for value in values]
        found = await self.levels.load(context, [id_ for id_ in ids if id_ is not None])
        return [None if id_ is None else found.get(id_) for id_ in ids]

    def _id(self, value: Any) -> Id | None:
        if value is None:
            return None
        if isinstance(value, Reference):
            return Id(value.noun, value.id)
        return Id(self.noun or "", value)
