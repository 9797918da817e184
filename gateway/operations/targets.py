"""From what a request names to the rows it means, locked, or to the refusal that says there is none."""

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.access.caller import Caller
from gateway.access.capabilities import MachineFacts
from gateway.errors import Conflict, NotFound, Reference, Refusal
from gateway.operations.commands.base import MachineId, MachineTarget, Target
from gateway.operations.statements import (
    LOCK_MACHINES,
    LOCK_MACHINES_OF_SNAPSHOTS,
    SNAPSHOTS,
    UNFINISHED_OF_SNAPSHOTS,
    machine_name,
)
from gateway.store.database import Transaction


def facts(machine: Any) -> MachineFacts:
    """What a machine's capabilities depend on."""
    return MachineFacts(machine.kind, machine.provider, machine.power_state, machine.gone_at, machine.obstacle)


async def lock_machines(tx: Transaction, caller: Caller, targets: Sequence[MachineTarget]) -> dict[int, Any]:
    """The machines that `targets` name and that the caller may see, by number."""
    numbers = {_number(target) for target in targets if not isinstance(target, Refusal)}
    rows = await tx.all(LOCK_MACHINES, tenant=caller.tenant, kinds=caller.kinds, ids=sorted(numbers))
    return {row.id: row for row in rows}


def machine_of(target: MachineTarget, machines: Mapping[int, Any]) -> Any:
    """The machine that `target` names. Raises the refusal that it is, or NotFound."""
    if isinstance(target, Refusal):
        raise target
    machine = machines.get(_number(target))
    if isinstance(target, MachineId):
        if machine is None or machine.kind is not target.kind:
            raise NotFound(f"there is no machine {machine_name(target.kind, target.number)}")
    elif machine is None:
        raise NotFound(f"there is no machine with the number {target}")
    return machine


async def lock_snapshots(
    tx: Transaction, caller: Caller, numbers: Sequence[int]
) -> tuple[dict[int, Any], dict[int, Any]]:
    """The snapshots with these numbers that the caller may see, and their machines, locked; both by number."""
    seen = {"tenant": caller.tenant, "kinds": caller.kinds, "ids": numbers}
    machines = await tx.all(LOCK_MACHINES_OF_SNAPSHOTS, **seen)
    # Looked at under the lock: until then other requests can change them.
    rows = await tx.all(SNAPSHOTS, **seen) if machines else []
    return {row.id: row for row in rows}, {row.id: row for row in machines}


def snapshot_of(target: Target, snapshots: Mapping[int, Any]) -> Any:
    """The snapshot that `target` names. Raises the refusal that it is, or NotFound."""
    if isinstance(target, Refusal):
        raise target
    snapshot = snapshots.get(target)
    if snapshot is None:
        raise NotFound(f"there is no snapshot snapshot-{target}")
    return snapshot


async def name_conflicts(tx: Transaction, refusals: Mapping[int, Refusal]) -> dict[int, Refusal]:
    """The refusals, by snapshot; a conflict names the operation that stands in the way."""
    conflicts = [number for number, refusal in refusals.items() if isinstance(refusal, Conflict)]
    rows = await tx.all(UNFINISHED_OF_SNAPSHOTS, ids=conflicts) if conflicts else []
    named = {
        row.snapshot_id: Conflict(
            f"{refusals[row.snapshot_id].message}: operation-{row.first}", conflict=Reference("operation", row.first)
        )
        for row in rows
    }
    return {**refusals, **named}


def _number(target: int | MachineId) -> int:
    return target.number if isinstance(target, MachineId) else target
