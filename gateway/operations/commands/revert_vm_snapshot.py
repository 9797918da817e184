"""Decides on `revertVmSnapshot` and records it if accepted."""

from gateway.access.capabilities import snapshot_refusal
from gateway.errors import Refusal
from gateway.models import OperationKind, SnapshotAction, SnapshotState
from gateway.operations.admission import NewOperation, QueueAdmission, enqueue
from gateway.operations.commands.base import CommandContext, Outcome, Target
from gateway.operations.statements import SET_STATE
from gateway.operations.targets import find_snapshot, lock_snapshots, name_conflicts, snapshot_facts
from gateway.store.database import Transaction


async def revert_vm_snapshot(tx: Transaction, context: CommandContext, target: Target, *, dry_run: bool) -> Outcome:
    """Raises the refusal."""
    if isinstance(target, Refusal):
        raise target
    caller = context.caller
    snapshots, machines = await lock_snapshots(tx, caller, [target])
    snapshot = find_snapshot(target, snapshots)
    machine = machines[snapshot.machine_id]
    facts = snapshot_facts(snapshot, machine)
    refusal = snapshot_refusal(SnapshotAction.REVERT, facts, context.matrices, caller)
    if refusal is not None:
        raise (await name_conflicts(tx, {snapshot.id: refusal}))[snapshot.id]
    admission = await QueueAdmission.load(tx, context.limits, [machine.id])
    # Refused, not queued: the caller means the machine as it is now, not as it is after operations of other callers.
    if queue_refusal := admission.conflict(machine) or admission.admit(machine):
        raise queue_refusal
    if dry_run:
        return Outcome(None, snapshot.id, machine.id)
    await tx.run(SET_STATE, snapshot_id=snapshot.id, new_state=SnapshotState.REVERTING)
    operation = NewOperation(machine, snapshot.id, snapshot.name, {"previous": snapshot.state})
    (operation_id,) = await enqueue(tx, caller, OperationKind.REVERT_VM_SNAPSHOT, [operation])
    return Outcome(operation_id, snapshot.id, machine.id)
