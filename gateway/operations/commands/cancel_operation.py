"""Decides on `cancelOperation`: at once while nothing has begun, a wish while it runs."""

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
        col(Operation.wish),
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

# One that waits for its provider is due at once, so that the wish is seen.
_WISH = Statement(
    sa.update(Operation)
    .where(col(Operation.id) == bindparam("operation_id"), col(Operation.state) == OperationState.RUNNING)
    .values(cancel_requested_at=sa.func.coalesce(col(Operation.cancel_requested_at), bindparam("at")), retry_at=None)
)


async def cancel_operation(tx: Transaction, caller: Caller, target: Target) -> Outcome:
    """Raises the refusal. Asking again changes nothing."""
    if isinstance(target, Refusal):
        raise target
    operation = await tx.first(_OPERATION, operation_id=target, tenant=caller.tenant, kinds=caller.kinds)
    if operation is None:
        raise NotFound(f"there is no operation operation-{target}")
    deed = f"cancel operation-{target}"
    if refusal := operation_refusal(operation.kind, operation.machine_kind, caller, deed):
        raise refusal
    await tx.first(LOCK_MACHINE, machine_id=operation.machine_id)
    if await tx.run(_CANCEL_QUEUED, operation_id=target, at=now()):
        await undo(tx, operation)
    # The worker may have begun meanwhile, which needs no lock on the machine: so look again in this order.
    elif not await tx.run(_WISH, operation_id=target, at=now()):
        operation = await tx.first(_OPERATION, operation_id=target, tenant=caller.tenant, kinds=caller.kinds)
        raise Conflict(f"operation-{target} has already ended: {operation.state}")
    return Outcome(target, operation.snapshot_id, operation.machine_id)
