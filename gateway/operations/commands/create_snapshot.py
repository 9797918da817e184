"""Decides on `createSnapshot` and `createSnapshots`, and records the accepted items."""

from collections.abc import Sequence
from typing import NamedTuple

from gateway.access.caller import Caller
from gateway.access.capabilities import machine_refusal
from gateway.columns import now
from gateway.errors import Refusal
from gateway.models import OperationKind, Snapshot, SnapshotAction, SnapshotState
from gateway.operations.admission import NewOperation, QueueAdmission, enqueue
from gateway.operations.commands.base import CommandContext, MachineTarget, NewSnapshot, Outcome
from gateway.operations.statements import LockedMachine
from gateway.operations.targets import find_machine, lock_machines, machine_facts
from gateway.store.database import Transaction
from gateway.store.statements import InsertMany, Query


class _InsertedSnapshot(NamedTuple):
    id: int
    machine_id: int


_INSERT = Query(
    InsertMany(
        Snapshot,
        shared=("tenant", "name", "description", "state", "memory", "created_at", "created_by"),
        per_item=("machine_id",),
        returning=("id", "machine_id"),
    ),
    _InsertedSnapshot,
)


async def create_snapshots(
    tx: Transaction, context: CommandContext, targets: Sequence[MachineTarget], new: NewSnapshot
) -> list[Outcome]:
    """One outcome per target, in order. A machine that is named twice gets one snapshot."""
    machines = await lock_machines(tx, context.caller, targets)
    admission = await QueueAdmission.load(tx, context.limits, list(machines), len(machines))
    accepted: dict[int, LockedMachine] = {}
    refused: dict[int, Refusal] = {}
    outcomes: list[Outcome | int] = []  # or the id of the machine, whose outcome follows
    for target in targets:
        try:
            machine = find_machine(target, machines)
        except Refusal as refusal:
            outcomes.append(Outcome(refusal=refusal))
            continue
        outcomes.append(machine.id)
        if machine.id in accepted or machine.id in refused:
            continue
        if refusal_ := _refusal(context, machine, new) or admission.admit(machine):
            refused[machine.id] = refusal_
        else:
            accepted[machine.id] = machine
    done = await _record(tx, context.caller, list(accepted.values()), new) if accepted else {}
    done |= {number: Outcome(machine_id=number, refusal=refusal) for number, refusal in refused.items()}
    return [done[outcome] if isinstance(outcome, int) else outcome for outcome in outcomes]


def _refusal(context: CommandContext, machine: LockedMachine, new: NewSnapshot) -> Refusal | None:
    # Either action, not both: some providers can snapshot a running machine only with its memory.
    action = SnapshotAction.CREATE_WITH_MEMORY if new.memory else SnapshotAction.CREATE
    return machine_refusal(action, machine_facts(machine), context.matrices, context.caller)


async def _record(
    tx: Transaction, caller: Caller, machines: Sequence[LockedMachine], new: NewSnapshot
) -> dict[int, Outcome]:
    """Inserts snapshots and operations. Returns the outcomes by machine."""
    # Neither parent nor current: both are set when the provider has created the snapshot.
    rows = await tx.all(
        _INSERT,
        items=[{"machine_id": machine.id} for machine in machines],
        tenant=caller.tenant,
        name=new.name,
        description=new.description,
        state=SnapshotState.CREATING,
        memory=new.memory,
        created_at=now(),
        created_by=caller.name,
    )
    snapshots = {row.machine_id: row.id for row in rows}
    payload = {"name": new.name, "description": new.description, "memory": new.memory}
    operations = [NewOperation(machine, snapshots[machine.id], new.name, payload) for machine in machines]
    numbers = await enqueue(tx, caller, OperationKind.CREATE_SNAPSHOT, operations)
    return {
        machine.id: Outcome(number, snapshots[machine.id], machine.id)
        for machine, number in zip(machines, numbers, strict=True)
    }
