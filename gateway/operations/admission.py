"""Admission to the queues of operations: limits per machine and in total, conflicts, and the insert of operations."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from secrets import token_hex
from typing import Any, NamedTuple

import orjson
import sqlalchemy as sa
from sqlmodel import col, select

from gateway.access.caller import Caller
from gateway.columns import now
from gateway.config import Settings
from gateway.errors import Conflict, LimitExceeded, Reference
from gateway.models import Operation, OperationKind, OperationState
from gateway.operations.statements import LockedMachine, machine_name, unfinished
from gateway.store.database import Transaction
from gateway.store.statements import InsertMany, OneOf, Query


class _MachineQueue(NamedTuple):
    machine_id: int | None
    unfinished: int
    first: int


class _Count(NamedTuple):
    n: int


class _InsertedOperation(NamedTuple):
    id: int
    token: str


_PER_MACHINE = Query(
    sa.select(
        col(Operation.machine_id), sa.func.count().label("unfinished"), sa.func.min(col(Operation.id)).label("first")
    )
    .where(OneOf(col(Operation.machine_id), "ids"), unfinished())
    .group_by(col(Operation.machine_id)),
    _MachineQueue,
)

_TOTAL = Query(select(sa.func.count().label("n")).select_from(Operation).where(unfinished()), _Count)

_INSERT = Query(
    InsertMany(
        Operation,
        shared=("tenant", "kind", "state", "requested_by", "requested_by_key", "idempotency_key", "created_at"),
        per_item=("machine_id", "machine_kind", "machine_name", "snapshot_id", "snapshot_name", "token", "payload"),
        returning=("id", "token"),
    ),
    _InsertedOperation,
)

_TOKEN_LENGTH = 32  # hexadecimal digits of an operation's token
_COUNT_MAX_AGE = 1.0  # seconds after which all unfinished operations are counted again


class QueueLimits:
    """Limits on unfinished operations: `per_machine`, and in total.

    The total is counted when the last count is over a second old or the limit seems to be reached. Operations that this
    process admits in between are added. So a single process refuses exactly at the limit, and several processes can
    exceed it by what they admit within a second. `clock` returns monotonic seconds.
    """

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.per_machine = settings.operation_queue_per_machine
        self._limit = settings.operation_queue_total
        self._total = 0
        self._counted_at = -inf

    async def refresh(self, tx: Transaction, wanted: int) -> None:
        """Counts all unfinished operations if the count is over a second old or leaves no space for `wanted` more."""
        if self._total + wanted > self._limit or self._clock() - self._counted_at > _COUNT_MAX_AGE:
            (count,) = await tx.all(_TOTAL)
            self._total, self._counted_at = count.n, self._clock()

    def admit(self) -> LimitExceeded | None:
        """Admits one operation, or returns the refusal."""
        if self._total >= self._limit:  # the message leaves out the count, which includes operations of other tenants
            return LimitExceeded(
                f"The gateway has {self._limit} unfinished operations, which is the limit. Retry later."
            )
        self._total += 1
        return None


class QueueAdmission:
    """Admission to the queues of some machines, whose rows the transaction has locked."""

    def __init__(self, limits: QueueLimits, queues: Sequence[_MachineQueue]) -> None:
        self._limits = limits
        self._unfinished = {queue.machine_id: queue.unfinished for queue in queues}
        self._first = {queue.machine_id: queue.first for queue in queues}

    @classmethod
    async def load(
        cls, tx: Transaction, limits: QueueLimits, machine_ids: Sequence[int], wanted: int = 1
    ) -> "QueueAdmission":
        """Reads the queues. `wanted` is the maximum number of operations that will be admitted."""
        queues = await tx.all(_PER_MACHINE, ids=machine_ids)
        await limits.refresh(tx, wanted)
        return cls(limits, queues)

    def conflict(self, machine: LockedMachine) -> Conflict | None:
        """Conflict of a command that cannot be queued; None if the machine has no unfinished operation."""
        first = self._first.get(machine.id)
        if first is None:
            return None
        name = machine_name(machine.kind, machine.id)
        return Conflict(
            f"Machine '{name}' has an unfinished operation: operation-{first}.", conflict=Reference("operation", first)
        )

    def admit(self, machine: LockedMachine) -> LimitExceeded | None:
        """Admits one more operation of the machine, or returns the refusal."""
        count = self._unfinished.get(machine.id, 0)
        if count >= self._limits.per_machine:
            name = machine_name(machine.kind, machine.id)
            return LimitExceeded(
                f"Machine '{name}' has {count} unfinished operations, which is the limit. Retry later."
            )
        refusal = self._limits.admit()
        if refusal is None:
            self._unfinished[machine.id] = count + 1
        return refusal


@dataclass(frozen=True, slots=True)
class NewOperation:
    """An operation to insert. The snapshot is None for a refresh."""

    machine: LockedMachine
    snapshot_id: int | None = None
    snapshot_name: str | None = None
    payload: Mapping[str, Any] | None = None  # stored as JSON in the column `payload`


async def enqueue(
    tx: Transaction,
    caller: Caller,
    kind: OperationKind,
    operations: Sequence[NewOperation],
    *,
    key: str | None,
) -> list[int]:
    """Inserts operations at the end of their machines' queues, in this order. Returns their ids in the same order.

    `key`: the idempotency key of the request, if it has one.
    """
    digits = token_hex(_TOKEN_LENGTH // 2 * len(operations))  # once for all, because every call is a system call
    tokens = [digits[start : start + _TOKEN_LENGTH] for start in range(0, len(digits), _TOKEN_LENGTH)]
    items = [
        {
            "machine_id": operation.machine.id,
            "machine_kind": operation.machine.kind,
            "machine_name": operation.machine.name,
            "snapshot_id": operation.snapshot_id,
            "snapshot_name": operation.snapshot_name,
            "token": token,
            "payload": orjson.dumps(operation.payload or {}).decode(),
        }
        for operation, token in zip(operations, tokens, strict=True)
    ]
    rows = await tx.all(
        _INSERT,
        items=items,
        tenant=caller.tenant,
        kind=kind,
        state=OperationState.QUEUED,
        requested_by=caller.name,
        requested_by_key=caller.key,
        idempotency_key=key,
        created_at=now(),
    )
    ids = {row.token: row.id for row in rows}
    return [ids[token] for token in tokens]
