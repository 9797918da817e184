"""Decides on `revertVmSnapshot` and records it when accepted."""

from gateway.access.caller import Caller
from gateway.access.capabilities import Matrices, snapshot_refusal
from gateway.errors import Refusal
from gateway.models import OperationKind, SnapshotAction, SnapshotState
from gateway.operations.admission import Backlog, Queues, Wished, enqueue
from gateway.operations.commands.base import Outcome, Target
from gateway.operations.statements import SET_STATE
from gateway.operations.targets import facts, lock_snapshots, name_conflicts, snapshot_of
from gateway.store.database import Transaction


async def revert_vm_snapshot(
    tx: Transaction, caller: Caller, target: Target, dry_run: bool, matrices: Matrices, backlog: Backlog
) -> Outcome:
    """Raises the refusal."""
    if isinstance(target, Refusal):
        raise target
    snapshots, machines = await lock_snapshots(tx, caller, [target])
    snapshot = snapshot_of(target, snapshots)
    machine = machines[snapshot.machine_id]
    refusal = snapshot_refusal(
        SnapshotAction.REVERT, snapshot.state, snapshot.provider_ref is not None, facts(machine), matrices, caller
    )
    if refusal is not None:
        raise (await name_conflicts(tx, {snapshot.id: refusal}))[snapshot.id]
    queues = await Queues.load(tx, backlog, [machine.id])
    # Whoever reverts means the machine as it is now, not as it will be after what others have asked for.
    if unready := queues.conflict(machine) or queues.take(machine):
        raise unready
    if dry_run:
        return Outcome(None, snapshot.id, machine.id)
    await tx.run(SET_STATE, snapshot_id=snapshot.id, new_state=SnapshotState.REVERTING)
    wished = Wished(machine, snapshot.id, snapshot.name, {"previous": snapshot.state})
    (operation_id,) = await enqueue(tx, caller, OperationKind.REVERT_VM_SNAPSHOT, [wished])
    return Outcome(operation_id, snapshot.id, machine.id)
