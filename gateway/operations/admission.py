"""The queue in front of each machine: whether there is room in it, what is in it, and putting something in."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from secrets import token_hex
from typing import Any

import orjson
import sqlalchemy as sa
from sqlmodel import col, select

from gateway.access.caller import Caller
from gateway.columns import now
from gateway.config import Settings
from gateway.errors import Conflict, LimitExceeded, Reference
from gateway.models import Operation, OperationKind, OperationState
from gateway.operations.statements import machine_name, unfinished
from gateway.store.database import Transaction
from gateway.store.statements import InsertMany, OneOf, Statement

_PER_MACHINE = Statement(
    sa.select(
        col(Operation.machine_id), sa.func.count().label("waiting"), sa.func.min(col(Operation.id)).label("first")
    )
    .where(OneOf(col(Operation.machine_id), "ids"), unfinished())
    .group_by(col(Operation.machine_id))
)

_TOTAL = Statement(select(sa.func.count().label("n")).select_from(Operation).where(unfinished()))

_INSERT = Statement(
    InsertMany(
        Operation,
        once=("tenant", "kind", "state", "requested_by", "created_at"),
        each=("machine_id", "machine_kind", "machine_name", "snapshot_id", "snapshot_name", "token", "wish"),
        returning=("id", "token"),
    )
)

_TOKEN = 32  # letters of an operation's token
_COUNTED_FOR = 1.0  # seconds that a count of all operations is relied on


class Backlog:
    """At most how many operations are unfinished in all: counted now and then, and every one taken since on top.

    So one process refuses exactly at the limit, and several overshoot it by what they take within a second.
    """

    def __init__(self, settings: Settings) -> None:
        self.per_machine = settings.operation_queue_per_machine
        self._limit = settings.operation_queue_total
        self._known = 0
        self._counted = -inf

    async def look(self, tx: Transaction, wanted: int) -> None:
        """Counts, unless there is room for as many as are `wanted` by what is known."""
        if self._known + wanted > self._limit or time.monotonic() - self._counted > _COUNTED_FOR:
            self._known, self._counted = (await tx.first(_TOTAL)).n, time.monotonic()

    def take(self) -> LimitExceeded | None:
        """Takes a place, or says why there is none."""
        if self._known >= self._limit:  # how many there are is nobody's business: they are everybody's
            return LimitExceeded(f"there are {self._limit} unfinished operations, and that is the gateway's limit")
        self._known += 1
        return None


class Queues:
    """The queues of some machines, which are locked, as they are in the present transaction."""

    def __init__(self, backlog: Backlog, waiting: dict[int, int], first: Mapping[int, int]) -> None:
        self._backlog = backlog
        self._waiting = waiting
        self._first = first

    @classmethod
    async def load(cls, tx: Transaction, backlog: Backlog, machine_ids: Sequence[int], wanted: int = 1) -> "Queues":
        """`wanted`: how many places may be taken."""
        rows = await tx.all(_PER_MACHINE, ids=machine_ids)
        await backlog.look(tx, wanted)
        waiting = {row.machine_id: row.waiting for row in rows}
        return cls(backlog, waiting, {row.machine_id: row.first for row in rows})

    def conflict(self, machine: Any) -> Conflict | None:
        """Why nothing may start that cannot wait."""
        first = self._first.get(machine.id)
        if first is None:
            return None
        name = machine_name(machine.kind, machine.id)
        return Conflict(f"{name} has unfinished work: operation-{first}", conflict=Reference("operation", first))

    def take(self, machine: Any) -> LimitExceeded | None:
        """Takes a place for one operation more, or says why there is none."""
        waiting = self._waiting.get(machine.id, 0)
        if waiting >= self._backlog.per_machine:
            name = machine_name(machine.kind, machine.id)
            return LimitExceeded(f"{name} has {waiting} unfinished operations, and that is the limit")
        refusal = self._backlog.take()
        if refusal is None:
            self._waiting[machine.id] = waiting + 1
        return refusal


@dataclass(frozen=True, slots=True)
class Wished:
    """What one operation is to do: with a machine's row, and with a snapshot."""

    machine: Any
    snapshot_id: int | None = None
    snapshot_name: str | None = None
    wish: Mapping[str, Any] | None = None  # what the driver needs beyond the rows


async def enqueue(tx: Transaction, caller: Caller, kind: OperationKind, wishes: Sequence[Wished]) -> list[int]:
    """Records operations at the end of their machines' queues, in this order; their numbers."""
    letters = token_hex(_TOKEN // 2 * len(wishes))  # at once, for each time is a call to the system
    items = [
        {
            "machine_id": wished.machine.id,
            "machine_kind": wished.machine.kind,
            "machine_name": wished.machine.name,
            "snapshot_id": wished.snapshot_id,
            "snapshot_name": wished.snapshot_name,
            "token": letters[place * _TOKEN : (place + 1) * _TOKEN],
            "wish": orjson.dumps(wished.wish or {}).decode(),
        }
        for place, wished in enumerate(wishes)
    ]
    rows = await tx.all(
        _INSERT,
        items=items,
        tenant=caller.tenant,
        kind=kind,
        state=OperationState.QUEUED,
        requested_by=caller.name,
        created_at=now(),
    )
    numbers = {row.token: row.id for row in rows}
    return [numbers[item["token"]] for item in items]
