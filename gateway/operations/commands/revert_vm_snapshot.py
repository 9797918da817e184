"""The mutation `revertVmSnapshot`, and the operations of kind REVERT_VM_SNAPSHOT."""

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlmodel import col

from gateway.columns import now
from gateway.drivers.base import RevertCommand
from gateway.errors import ProviderMissing
from gateway.models import AuditAction, OperationKind, Snapshot, SnapshotAction, SnapshotState
from gateway.operations.admission import NewOperation, enqueue
from gateway.operations.attempt import Attempt, Effect, OperationType
from gateway.operations.commands.base import CommandContext, Outcome, SnapshotCommand
from gateway.operations.effects import CLEAR_CURRENT
from gateway.operations.statements import SET_STATE
from gateway.operations.targets import lock_snapshot
from gateway.store.database import Transaction
from gateway.store.statements import Statement

_REVERTED = Statement(
    sa.update(Snapshot)
    .where(col(Snapshot.id) == bindparam("snapshot_id"))
    .values(state=SnapshotState.READY, is_current=bindparam("is_current"), observed_at=bindparam("observed_at"))
)


@dataclass(frozen=True, kw_only=True)
class RevertVmSnapshot(SnapshotCommand):
    """Reverts a Vm to a snapshot."""

    mutation = "revertVmSnapshot"
    action = AuditAction.REVERT_VM_SNAPSHOT

    dry_run: bool = False

    @property
    def is_dry_run(self) -> bool:
        return self.dry_run

    async def decide_one(self, tx: Transaction, context: CommandContext) -> Outcome:
        snapshot, machine, admission = await lock_snapshot(tx, context, self.snapshot, SnapshotAction.REVERT)
        if limit := admission.admit(machine):
            raise limit
        if self.dry_run:
            return Outcome(None, snapshot.id, machine.id)
        await tx.run(SET_STATE, snapshot_id=snapshot.id, new_state=SnapshotState.REVERTING)
        operation = NewOperation(machine, snapshot.id, snapshot.name, {"previous": snapshot.state})
        caller, key = context.caller, context.idempotency_key
        (operation_id,) = await enqueue(tx, caller, OperationKind.REVERT_VM_SNAPSHOT, [operation], key=key)
        return Outcome(operation_id, snapshot.id, machine.id)


class RevertVmSnapshotOperation(OperationType):
    """Reverts the machine at its provider. On success the snapshot is current, if the provider has a tree."""

    actions = (SnapshotAction.REVERT,)
    changes_machine = True  # such as its power state

    async def run(self, attempt: Attempt) -> Effect:
        row, snapshot_id = attempt.row, attempt.snapshot_id
        if row.snapshot_ref is None:
            raise ProviderMissing("The snapshot no longer exists.")
        await attempt.send(RevertCommand(row.machine_ref, row.snapshot_ref))
        tree = attempt.has_tree

        async def effect(tx: Transaction) -> None:
            if tree:  # first, because a unique index allows one current snapshot per machine
                await tx.run(CLEAR_CURRENT, machine_id=row.machine_id)
            await tx.run(_REVERTED, snapshot_id=snapshot_id, is_current=tree, observed_at=now())

        return effect
