"""One request as the levels of a plan see it, and the statements that they keep for all requests."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from gateway.access.caller import Caller
from gateway.access.capabilities import Matrices
from gateway.reads.conditions import Frame
from gateway.reads.dialects import Dialect
from gateway.reads.pages import BoundPage
from gateway.store.database import Transaction


class Slot:
    """Stands in a statement's parameters for a value that only the request brings."""

    def __init__(self, name: str) -> None:
        self.name = name


Pages = Mapping[Any, BoundPage]  # by connection

MOST_KEPT = 32  # statements of one level, for different shapes of its arguments

TENANT, PARENT, KEY = Slot("tenant"), Slot("parent"), Slot("key")
AFTER = tuple(Slot(f"after {number}") for number in range(16))  # the sort values of a cursor
BEFORE = tuple(Slot(f"before {number}") for number in range(16))


class Built(NamedTuple):
    """A statement's text, and its parameters with slots: made once for all requests that differ only in these."""

    sql: str
    parameters: Sequence[Any]

    def filled(self, slots: Mapping[Slot, Any]) -> list[Any]:
        return [slots[value] if type(value) is Slot else value for value in self.parameters]


@dataclass(slots=True)
class Context:
    """One request: its transaction, who asks, and the pages its connections want."""

    transaction: Transaction
    dialect: Dialect
    caller: Caller
    matrices: Matrices
    pages: Pages = field(default_factory=dict)
    answers: dict[Hashable, Any] = field(default_factory=dict)  # of computed fields, which many rows share

    def frame(self) -> Frame:
        return Frame(self.dialect, self.dialect.parameters(), self.caller.kinds)

    async def run(self, built: Built, slots: Mapping[Slot, Any] | None = None) -> Sequence[Any]:
        """The rows of a statement, for this caller."""
        return await self.transaction.rows(built.sql, built.filled({TENANT: self.caller.tenant, **(slots or {})}))
