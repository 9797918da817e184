"""The mutation `cancelOperation`."""

from dataclasses import dataclass, field
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlmodel import col

from gateway.access.caller import Caller
from gateway.access.capabilities import right_refusal
from gateway.columns import UtcDateTime, now
from gateway.errors import Conflict, NotFound, Refusal, Unsupported
from gateway.models import AuditAction, MachineKind, Operation, OperationKind, OperationState
from gateway.operations.audit_log import AuditSubject
from gateway.operations.commands.base import CommandContext, Outcome, SingleCommand, Target, id_of
from gateway.operations.ended_operation import EndedOperation
from gateway.operations.operation_kinds import OPERATION_TYPES
from gateway.operations.statements import LOCK_MACHINE
from gateway.store.database import Transaction
from gateway.store.statements import OneOf, Query, Statement


class _TargetOperation(NamedTuple):
    kind: OperationKind | None  # None: a kind that this version does not know
    state: OperationState | None
    machine_id: int | None
    machine_kind: MachineKind
    snapshot_id: int | None
    requested_by: str | None
    payload: str


_OPERATION = Query(
    sa.select(
        col(Operation.kind),
        col(Operation.state),
        col(Operation.machine_id),
        col(Operation.machine_kind),
        col(Operation.snapshot_id),
        col(Operation.requested_by),
        col(Operation.payload),
    ).where(
        col(Operation.id) == bindparam("operation_id"),
        col(Operation.tenant) == bindparam("tenant"),
        OneOf(col(Operation.machine_kind), "kinds"),
    ),
    _TargetOperation,
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
    .values(
        cancel_requested_at=sa.func.coalesce(col(Operation.cancel_requested_at), bindparam("at", type_=UtcDateTime())),
        retry_at=None,
    )
)


@dataclass(frozen=True, kw_only=True)
class CancelOperation(SingleCommand):
    """Cancels a QUEUED operation at once; requests the cancellation of a RUNNING one.

    Idempotent: a second request changes nothing.
    """

    mutation = "cancelOperation"
    action = AuditAction.CANCEL_OPERATION
    argument = "operationId"

    operation: Target = field(metadata=id_of("operation", "operationId"))

    @property
    def target(self) -> Target:
        return self.operation

    @property
    def subject(self) -> AuditSubject:
        return AuditSubject() if isinstance(self.operation, Refusal) else AuditSubject(operation_id=self.operation)

    async def decide_one(self, tx: Transaction, context: CommandContext) -> Outcome:
        if isinstance(self.operation, Refusal):
            raise self.operation
        caller, target = context.caller, self.operation
        operation = await _find(tx, caller, target)
        if operation.kind is None:  # what it requires, and what it has to undo, is known to newer versions only
            raise Unsupported(
                f"Operation 'operation-{target}' is of a kind that this version of the gateway does not know,"
                " so it cannot be canceled here."
            )
        type_ = OPERATION_TYPES[operation.kind]
        activity = f"Canceling operation-{target}"
        if refusal := right_refusal(type_.actions, operation.machine_kind, caller, activity):
            raise refusal
        await tx.first(LOCK_MACHINE, machine_id=operation.machine_id)
        ended = None
        if await tx.run(_CANCEL_QUEUED, operation_id=target, at=now()):
            await type_.on_cancel(tx, operation.snapshot_id, operation.payload)
            ended = EndedOperation(
                id=target,
                kind=operation.kind,
                state=OperationState.CANCELED,
                machine_kind=operation.machine_kind,
                machine_id=operation.machine_id,
                snapshot_id=operation.snapshot_id,
                requested_by=operation.requested_by,
                started_at=None,
            )
        # A worker may have claimed the operation meanwhile, which needs no lock on the machine. So the RUNNING state
        # is tried second.
        elif not await tx.run(_REQUEST_CANCEL, operation_id=target, at=now()):
            state = (await _find(tx, caller, target)).state
            if state is None:
                raise Conflict(
                    f"Operation 'operation-{target}' is in a state that this version of the gateway does not know."
                )
            raise Conflict(f"Operation 'operation-{target}' has already ended in state {state}.")
        return Outcome(target, operation.snapshot_id, operation.machine_id, ended=ended)


async def _find(tx: Transaction, caller: Caller, number: int) -> _TargetOperation:
    """The operation. Raises NotFound if it does not exist or the caller may not see it."""
    operation = await tx.first(_OPERATION, operation_id=number, tenant=caller.tenant, kinds=caller.readable_kinds)
    if operation is None:
        raise NotFound(f"Operation 'operation-{number}' was not found.")
    return operation
