"""Decides on `revertVmSnapshot` and records it if accepted."""

from gateway.access.caller import Caller
from gateway.access.capabilities import Matrices, snapshot_refusal
from gateway.errors import Refusal
from gateway.models import OperationKind, SnapshotAction, SnapshotState
from gateway.operations.admission import NewOperation, QueueAdmission, QueueLimits, enqueue
from gateway.operations.commands.base import Outcome, Target
from gateway.operations.statements import SET_STATE
from gateway.operations.targets import find_snapshot, lock_snapshots, machine_facts, name_conflicts
from gateway.store.database import Transaction


async def revert_vm_snapshot(
    tx: Transaction, caller: Caller, target: Target, dry_run: bool, matrices: Matrices, limits: QueueLimits
) -> Outcome:
    """Raises the refusal."""
    if isinstance(target, Refusal):
        raise target
    snapshots, machines = await lock_snapshots(tx, caller, [target])
    snapshot = find_snapshot(target, snapshots)
    machine = machines[snapshot.machine_id]
    refusal = snapshot_refusal(
        SnapshotAction.REVERT,
        snapshot.state,
        snapshot.provider_ref is not None,
        machine_facts(machine),
        matrices,
        caller,
    )
    if refusal is not None:
        raise (await name_conflicts(tx, {snapshot.id: refusal}))[snapshot.id]
    admission = await QueueAdmission.load(tx, limits, [machine.id])
    # Refused, not queued: the caller means the machine as it is now, not as it is after operations of other callers.
    if queue_refusal := admission.conflict(machine) or admission.admit(machine):
        raise queue_refusal
    if dry_run:
        return Outcome(None, snapshot.id, machine.id)
    await tx.run(SET_STATE, snapshot_id=snapshot.id, new_state=SnapshotState.REVERTING)
    operation = NewOperation(machine, snapshot.id, snapshot.name, {"previous": snapshot.state})
    (operation_id,) = await enqueue(tx, caller, OperationKind.REVERT_VM_SNAPSHOT, [operation])
    return Outcome(operation_id, snapshot.id, machine.id)
