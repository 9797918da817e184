"""Decides on `cancelOperation`: cancels a QUEUED operation at once, requests the cancellation of a RUNNING one."""

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlmodel import col

from gateway.access.caller import Caller
from gateway.access.capabilities import operation_refusal
from gateway.columns import now
from gateway.errors import Conflict, NotFound, Refusal
from gateway.models import Operation, OperationState
from gateway.operations.commands.base import Outcome, Target
from gateway.operations.effects import undo
from gateway.operations.statements import LOCK_MACHINE
from gateway.store.database import Transaction
from gateway.store.statements import OneOf, Statement

_OPERATION = Statement(
    sa.select(
        col(Operation.id),
        col(Operation.kind),
        col(Operation.state),
        col(Operation.machine_id),
        col(Operation.machine_kind),
        col(Operation.snapshot_id),
        col(Operation.payload),
    ).where(
        col(Operation.id) == bindparam("operation_id"),
        col(Operation.tenant) == bindparam("tenant"),
        OneOf(col(Operation.machine_kind), "kinds"),
    )
)

_CANCEL_QUEUED = Statement(
    sa.update(Operation)
    .where(col(Operation.id) == bindparam("operation_id"), col(Operation.state) == OperationState.QUEUED)
    .values(state=OperationState.CANCELED, cancel_requested_at=bindparam("at"), finished_at=bindparam("at"))
)

# An operation that waits for a retry becomes due at once, so that a worker handles the request.
_REQUEST_CANCEL = Statement(
    sa.update(Operation)
    .where(col(Operation.id) == bindparam("operation_id"), col(Operation.state) == OperationState.RUNNING)
    .values(cancel_requested_at=sa.func.coalesce(col(Operation.cancel_requested_at), bindparam("at")), retry_at=None)
)


async def cancel_operation(tx: Transaction, caller: Caller, target: Target) -> Outcome:
    """Raises the refusal. Idempotent: a second request changes nothing."""
    if isinstance(target, Refusal):
        raise target
    operation = await tx.first(_OPERATION, operation_id=target, tenant=caller.tenant, kinds=caller.readable_kinds)
    if operation is None:
        raise NotFound(f"Operation 'operation-{target}' was not found.")
    activity = f"Canceling operation-{target}"
    if refusal := operation_refusal(operation.kind, operation.machine_kind, caller, activity):
        raise refusal
    await tx.first(LOCK_MACHINE, machine_id=operation.machine_id)
    if await tx.run(_CANCEL_QUEUED, operation_id=target, at=now()):
        await undo(tx, operation)
    # A worker may have claimed the operation meanwhile, which needs no lock on the machine. So the RUNNING state is
    # tried second.
    elif not await tx.run(_REQUEST_CANCEL, operation_id=target, at=now()):
        operation = await tx.first(_OPERATION, operation_id=target, tenant=caller.tenant, kinds=caller.readable_kinds)
        raise Conflict(f"Operation 'operation-{target}' has already ended in state {operation.state}.")
    return Outcome(target, operation.snapshot_id, operation.machine_id)
