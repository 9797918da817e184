"""The queue in front of each machine: whether there is room in it, what is in it, and putting something in."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

import orjson
import sqlalchemy as sa
from sqlmodel import col, select

from gateway.access.caller import Caller
from gateway.columns import now
from gateway.config import Settings
from gateway.errors import Conflict, LimitExceeded, Reference
from gateway.models import Operation, OperationKind, OperationState
from gateway.operations.statements import INSERT_OPERATION, machine_name, unfinished
from gateway.store.database import Transaction
from gateway.store.statements import OneOf, Statement

_PER_MACHINE = Statement(
    sa.select(
        col(Operation.machine_id), sa.func.count().label("waiting"), sa.func.min(col(Operation.id)).label("first")
    )
    .where(OneOf(col(Operation.machine_id), "ids"), unfinished())
    .group_by(col(Operation.machine_id))
)

_TOTAL = Statement(select(sa.func.count().label("n")).select_from(Operation).where(unfinished()))


class Queues:
    """The queues of some machines, which are locked, as they are in the present transaction.

    The limit of all together is looked at without a lock: on PostgreSQL, requests of one moment may overshoot it.
    """

    def __init__(self, settings: Settings, waiting: dict[int, int], first: Mapping[int, int], total: int) -> None:
        self._settings = settings
        self._waiting = waiting
        self._first = first
        self._total = total

    @classmethod
    async def load(cls, tx: Transaction, settings: Settings, machine_ids: Sequence[int]) -> "Queues":
        rows = await tx.all(_PER_MACHINE, ids=machine_ids)
        total = await tx.first(_TOTAL)
        waiting = {row.machine_id: row.waiting for row in rows}
        return cls(settings, waiting, {row.machine_id: row.first for row in rows}, total.n)

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
        if waiting >= self._settings.operation_queue_per_machine:
            name = machine_name(machine.kind, machine.id)
            return LimitExceeded(f"{name} has {waiting} unfinished operations, and that is the limit")
        limit = self._settings.operation_queue_total
        if self._total >= limit:  # how many there are is nobody's business: they are everybody's
            return LimitExceeded(f"there are {limit} unfinished operations, and that is the gateway's limit")
        self._waiting[machine.id] = waiting + 1
        self._total += 1
        return None


async def enqueue(
    tx: Transaction,
    caller: Caller,
    kind: OperationKind,
    machine: Any,
    snapshot: tuple[int, str] | None = None,
    wish: Mapping[str, Any] | None = None,
) -> int:
    """Records an operation at the end of its machine's queue; its number. `snapshot` is a number and a name."""
    row = await tx.first(
        INSERT_OPERATION,
        tenant=caller.tenant,
        kind=kind,
        state=OperationState.QUEUED,
        machine_id=machine.id,
        machine_kind=machine.kind,
        machine_name=machine.name,
        snapshot_id=snapshot[0] if snapshot else None,
        snapshot_name=snapshot[1] if snapshot else None,
        requested_by=caller.name,
        created_at=now(),
        token=uuid4().hex,
        wish=orjson.dumps(wish or {}).decode(),
    )
    number: int = row.id
    return number
