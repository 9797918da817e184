"""Decides on `createSnapshot` and `createSnapshots`, and records what is accepted."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from gateway.access.caller import Caller
from gateway.access.capabilities import Matrices, machine_refusal
from gateway.columns import now
from gateway.config import Settings
from gateway.errors import Refusal
from gateway.models import OperationKind, Snapshot, SnapshotAction, SnapshotState
from gateway.operations.finding import facts, lock_machines, machine_of
from gateway.operations.queues import Queues, enqueue
from gateway.operations.wishes import MachineTarget, NewSnapshot, Outcome
from gateway.store.database import Transaction
from gateway.store.statements import insert

_INSERT = insert(Snapshot, "tenant", "machine_id", "name", "description", "state", "memory", "created_at", "created_by")


async def create_snapshots(
    tx: Transaction,
    caller: Caller,
    targets: Sequence[MachineTarget],
    new: NewSnapshot,
    matrices: Matrices,
    settings: Settings,
) -> list[Outcome]:
    """One outcome per target, in order. A machine that is named twice gets one snapshot."""
    machines = await lock_machines(tx, caller, targets)
    queues = await Queues.load(tx, settings, list(machines))
    done: dict[int, Outcome] = {}
    outcomes = []
    for target in targets:
        try:
            machine = machine_of(target, machines)
        except Refusal as refusal:
            outcomes.append(Outcome(refusal=refusal))
            continue
        if machine.id not in done:
            refusal_ = _refusal(machine, new, matrices, caller) or queues.take(machine)
            if refusal_ is not None:
                done[machine.id] = Outcome(machine_id=machine.id, refusal=refusal_)
            else:
                done[machine.id] = await _record(tx, caller, machine, new)
        outcomes.append(done[machine.id])
    return outcomes


def _refusal(machine: Any, new: NewSnapshot, matrices: Matrices, caller: Caller) -> Refusal | None:
    # One or the other: some providers can snapshot a machine that runs with its memory only.
    action = SnapshotAction.CREATE_WITH_MEMORY if new.memory else SnapshotAction.CREATE
    return machine_refusal(action, facts(machine), matrices, caller)


async def _record(tx: Transaction, caller: Caller, machine: Any, new: NewSnapshot) -> Outcome:
    # No parent, and not current: that is known when the provider has made it.
    snapshot = await tx.first(
        _INSERT,
        tenant=caller.tenant,
        machine_id=machine.id,
        name=new.name,
        description=new.description,
        state=SnapshotState.CREATING,
        memory=new.memory,
        created_at=now(),
        created_by=caller.name,
    )
    operation_id = await enqueue(
        tx, caller, OperationKind.CREATE_SNAPSHOT, machine, (snapshot.id, new.name), asdict(new)
    )
    return Outcome(operation_id, snapshot.id, machine.id)
