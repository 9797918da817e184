"""Finds and locks the rows that a request names, or returns the refusals of those that the caller cannot see."""

from collections.abc import Mapping, Sequence

from gateway.access.caller import Caller
from gateway.access.capabilities import MachineFacts, SnapshotFacts, snapshot_refusal
from gateway.errors import NotFound, Refusal
from gateway.models import SnapshotAction
from gateway.operations.admission import QueueAdmission
from gateway.operations.commands.base import CommandContext, MachineId, MachineTarget, Target
from gateway.operations.statements import (
    LOCK_MACHINES,
    LOCK_MACHINES_OF_SNAPSHOTS,
    SNAPSHOTS,
    LockedMachine,
    TargetSnapshot,
    machine_name,
)
from gateway.store.database import Transaction


def snapshot_facts(snapshot: TargetSnapshot, machine: MachineFacts) -> SnapshotFacts:
    """What a snapshot's capabilities depend on."""
    return SnapshotFacts(snapshot.state, snapshot.provider_ref is not None, snapshot.first_unfinished, machine)


async def lock_machines(tx: Transaction, caller: Caller, targets: Sequence[MachineTarget]) -> dict[int, LockedMachine]:
    """Locks the machines that `targets` name and the caller may see. Returns their rows by number."""
    numbers = {_number(target) for target in targets if not isinstance(target, Refusal)}
    rows = await tx.all(LOCK_MACHINES, tenant=caller.tenant, kinds=caller.readable_kinds, ids=sorted(numbers))
    return {row.id: row for row in rows}


def find_machine(target: MachineTarget, machines: Mapping[int, LockedMachine]) -> LockedMachine:
    """The row of the machine that `target` names. Raises `target` itself if it is a refusal, or NotFound."""
    if isinstance(target, Refusal):
        raise target
    machine = machines.get(_number(target))
    if isinstance(target, MachineId):
        if machine is None or machine.kind is not target.kind:
            raise NotFound(f"Machine '{machine_name(target.kind, target.number)}' was not found.")
    elif machine is None:
        raise NotFound(f"Machine {target} was not found.")
    return machine


async def lock_snapshots(
    tx: Transaction, caller: Caller, targets: Sequence[Target]
) -> tuple[dict[int, TargetSnapshot], dict[int, LockedMachine]]:
    """Locks the machines of those snapshots that the caller may see. Returns snapshots and machines by number."""
    numbers = [target for target in targets if not isinstance(target, Refusal)]
    visible = {"tenant": caller.tenant, "kinds": caller.readable_kinds, "ids": numbers}
    machines = await tx.all(LOCK_MACHINES_OF_SNAPSHOTS, **visible)
    # Read after the machines are locked, because other requests can change the snapshots until then.
    rows = await tx.all(SNAPSHOTS, **visible) if machines else []
    return {row.id: row for row in rows}, {row.id: row for row in machines}


async def lock_snapshot(
    tx: Transaction, context: CommandContext, target: Target, action: SnapshotAction
) -> tuple[TargetSnapshot, LockedMachine, QueueAdmission]:
    """Locks the machine of a snapshot on which the caller can do `action`. Raises the refusal."""
    snapshots, machines = await lock_snapshots(tx, context.caller, [target])
    snapshot = find_snapshot(target, snapshots)
    machine = machines[snapshot.machine_id]
    admission = await QueueAdmission.load(tx, context.limit, [machine.id])
    facts = snapshot_facts(snapshot, admission.facts(machine))
    if refusal := snapshot_refusal(action, facts, context.rules, context.caller):
        raise refusal
    return snapshot, machine, admission


def find_snapshot(target: Target, snapshots: Mapping[int, TargetSnapshot]) -> TargetSnapshot:
    """The row of the snapshot that `target` names. Raises `target` itself if it is a refusal, or NotFound."""
    if isinstance(target, Refusal):
        raise target
    snapshot = snapshots.get(target)
    if snapshot is None:
        raise NotFound(f"Snapshot 'snapshot-{target}' was not found.")
    return snapshot


def _number(target: int | MachineId) -> int:
    return target.number if isinstance(target, MachineId) else target
