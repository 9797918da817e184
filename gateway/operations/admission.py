"""Admission to the queues of operations: the limit in total, and the insert of operations.

Whether a machine's queue takes an operation is one of its capabilities (`gateway.access.capabilities`).
"""

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
from gateway.access.capabilities import MachineFacts, MachineQueue
from gateway.columns import now
from gateway.config import Settings
from gateway.errors import LimitExceeded
from gateway.models import Operation, OperationKind, OperationState
from gateway.operations.statements import LockedMachine, unfinished
from gateway.store.database import Transaction
from gateway.store.statements import InsertMany, OneOf, Query


class _Count(NamedTuple):
    n: int


class _InsertedOperation(NamedTuple):
    id: int
    token: str


class _MachineQueueRow(NamedTuple):
    machine_id: int | None
    unfinished: int
    first: int


_PER_MACHINE = Query(
    sa.select(
        col(Operation.machine_id), sa.func.count().label("unfinished"), sa.func.min(col(Operation.id)).label("first")
    )
    .where(OneOf(col(Operation.machine_id), "ids"), unfinished())
    .group_by(col(Operation.machine_id)),
    _MachineQueueRow,
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


class TotalLimit:
    """The limit on unfinished operations of all machines.

    They are counted when the last count is over a second old or the limit seems to be reached. Operations that this
    process admits in between are added. So a single process refuses exactly at the limit, and several processes can
    exceed it by what they admit within a second. `clock` returns monotonic seconds.
    """

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
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
    """The queues of some machines, whose rows the transaction has locked, with what the request adds to them."""

    def __init__(self, limit: TotalLimit, queues: Sequence[_MachineQueueRow]) -> None:
        self._limit = limit
        self._queues = {queue.machine_id: MachineQueue(queue.unfinished, queue.first) for queue in queues}

    @classmethod
    async def load(
        cls, tx: Transaction, limit: TotalLimit, machine_ids: Sequence[int], wanted: int = 1
    ) -> "QueueAdmission":
        """Reads the queues. `wanted` is the maximum number of operations that will be admitted."""
        queues = await tx.all(_PER_MACHINE, ids=machine_ids)
        await limit.refresh(tx, wanted)
        return cls(limit, queues)

    def facts(self, machine: LockedMachine) -> MachineFacts:
        """What the machine's capabilities depend on, with the operations that were admitted so far."""
        return MachineFacts(
            machine.kind,
            machine.provider,
            machine.power_state,
            machine.gone_at,
            machine.snapshot_blocker,
            machine.id,
            self._queues.get(machine.id),
        )

    def admit(self, machine: LockedMachine) -> LimitExceeded | None:
        """Admits one more operation of a machine whose queue takes it, or returns the refusal."""
        refusal = self._limit.admit()
        if refusal is None:
            queue = self._queues.get(machine.id, MachineQueue(0, first=0))  # the number is not known before the insert
            self._queues[machine.id] = queue._replace(unfinished=queue.unfinished + 1)
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
