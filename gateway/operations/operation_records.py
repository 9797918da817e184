"""Deletes records of operations that have ended, before `GATEWAY_KEEP_OPERATIONS` does.

Only the record goes: what the operation did stays, and so do the entries of the audit log about it, to which the
deletion adds one. An operation that has not ended is work to be done and is never deleted. A replay of the idempotency
key with which the operation was accepted still changes nothing: the key is a row of its own.
"""

from collections.abc import Sequence
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlmodel import col

from gateway.access.caller import Caller
from gateway.access.capabilities import right_refusal
from gateway.access.origin import RequestOrigin
from gateway.errors import Conflict, NotFound, Refusal, Unsupported
from gateway.models import AuditAction, AuditOutcome, MachineKind, Operation, OperationKind
from gateway.operations.audit_log import AuditContext, AuditSubject, entry_values, record_entries
from gateway.operations.audit_refusals import RefusalLog, Refused
from gateway.operations.operation_kinds import OPERATION_TYPES
from gateway.store.database import Database, Transaction
from gateway.store.statements import OneOf, Query, Statement


class _Record(NamedTuple):
    id: int
    kind: OperationKind | None  # None: a kind that this version does not know
    machine_kind: MachineKind
    has_ended: bool


_LOCK = Query(
    sa.select(
        col(Operation.id),
        col(Operation.kind),
        col(Operation.machine_kind),
        col(Operation.finished_at).is_not(None).label("has_ended"),
    )
    .where(
        OneOf(col(Operation.id), "ids"),
        col(Operation.tenant) == bindparam("tenant"),
        OneOf(col(Operation.machine_kind), "kinds"),
    )
    .order_by(col(Operation.id))
    .with_for_update(),
    _Record,
)
_DELETE = Statement(
    sa.delete(Operation).where(OneOf(col(Operation.id), "ids"), col(Operation.finished_at).is_not(None))
)


def deletion_refusal(
    caller: Caller, number: int, kind: OperationKind | None, machine_kind: MachineKind, *, has_ended: bool
) -> Refusal | None:
    """Why the record of an operation cannot be deleted by `caller` now, or None if it can.

    It requires the right that the operation itself requires, as canceling does.
    """
    if kind is None:
        return Unsupported(
            f"Operation 'operation-{number}' is of a kind that this version of the gateway does not know, so it cannot"
            " be deleted here."
        )
    activity = f"Deleting operation-{number}"
    if refusal := right_refusal(OPERATION_TYPES[kind].actions, machine_kind, caller, activity):
        return refusal
    if not has_ended:
        return Conflict(f"Operation 'operation-{number}' has not ended, so it cannot be deleted. Wait until it has.")
    return None


class OperationRecords:
    """Deletes records, and records in the audit log what was deleted and what was refused."""

    def __init__(self, database: Database, refusals: RefusalLog) -> None:
        self._database = database
        self._refusals = refusals

    async def delete(self, caller: Caller, origin: RequestOrigin, numbers: Sequence[int]) -> dict[int, Refusal | None]:
        """Deletes operations in one transaction. Returns by number why one was refused, or None if it is deleted."""
        context = AuditContext(caller, origin, AuditAction.DELETE_OPERATION)

        async def work(tx: Transaction) -> dict[int, Refusal | None]:
            rows = await tx.all(_LOCK, ids=list(numbers), tenant=caller.tenant, kinds=caller.readable_kinds)
            found = {row.id: _refusal_of(caller, row) for row in rows}
            deleted = [number for number, refusal in found.items() if refusal is None]
            if deleted:
                await record_entries(tx, [_entry(context, caller, number) for number in deleted])
                await tx.run(_DELETE, ids=deleted)
            return {number: found.get(number, _not_found(number)) for number in numbers}

        outcomes = await self._database.write(work)
        refused = [
            Refused(AuditSubject(operation_id=number), refusal)
            for number, refusal in outcomes.items()
            if refusal is not None
        ]
        await self._refusals.record(context, refused)
        return outcomes


def _refusal_of(caller: Caller, row: _Record) -> Refusal | None:
    return deletion_refusal(caller, row.id, row.kind, row.machine_kind, has_ended=row.has_ended)


def _entry(context: AuditContext, caller: Caller, number: int) -> dict[str, object]:
    return entry_values(context, caller.tenant, AuditOutcome.SUCCEEDED, AuditSubject(operation_id=number))


def _not_found(number: int) -> NotFound:
    return NotFound(f"Operation 'operation-{number}' was not found.")
