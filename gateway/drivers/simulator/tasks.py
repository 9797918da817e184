"""The statements of the simulated world, and the effect of its tasks on the tables.

All functions that take a transaction run inside the caller's transaction. A caller that changes something holds the
lock on the machine's row (`LOCK`).
"""

from collections.abc import Sequence
from datetime import timedelta
from hashlib import sha256
from typing import Any, assert_never
from uuid import uuid4

import orjson
import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlmodel import col

from gateway.columns import now
from gateway.drivers.simulator.tables import (
    MachineRow,
    SimulatedMachine,
    SimulatedSnapshot,
    SimulatedTask,
    SnapshotRow,
    TaskRow,
    Verb,
)
from gateway.errors import ProviderBusy
from gateway.models import MachineKind
from gateway.store.database import Transaction
from gateway.store.statements import Query, Statement, insert

_GIB = 1 << 30
TASKS_KEPT = timedelta(days=30)  # far longer than an operation may take until it queries its task

_OF_MACHINE = col(SimulatedMachine.ref) == bindparam("machine_ref")
_SNAPSHOT_OF_MACHINE = col(SimulatedSnapshot.machine_ref) == bindparam("machine_ref")
_TASK_OF_MACHINE = col(SimulatedTask.machine_ref) == bindparam("machine_ref")
_BY_SNAPSHOT_REF = col(SimulatedSnapshot.ref) == bindparam("snapshot_ref")
_BY_TASK_REF = col(SimulatedTask.ref) == bindparam("task_ref")

MACHINES = Query(
    sa.select(SimulatedMachine)
    .where(col(SimulatedMachine.provider) == bindparam("provider"))
    .order_by(col(SimulatedMachine.ref)),
    MachineRow,
)
MACHINE = Query(sa.select(SimulatedMachine).where(_OF_MACHINE), MachineRow)
LOCK = Query(sa.select(SimulatedMachine).where(_OF_MACHINE).with_for_update(), MachineRow)
SNAPSHOTS = Query(
    sa.select(SimulatedSnapshot)
    .where(_SNAPSHOT_OF_MACHINE)
    .order_by(col(SimulatedSnapshot.created_at), col(SimulatedSnapshot.ref)),
    SnapshotRow,
)
SNAPSHOT = Query(sa.select(SimulatedSnapshot).where(_SNAPSHOT_OF_MACHINE, _BY_SNAPSHOT_REF), SnapshotRow)
TASK = Query(
    sa.select(SimulatedTask)
    .where(col(SimulatedTask.token) == bindparam("token"), col(SimulatedTask.verb) == bindparam("verb"))
    .order_by(col(SimulatedTask.started_at)),
    TaskRow,
)
TASK_BY_REF = Query(sa.select(SimulatedTask).where(_BY_TASK_REF), TaskRow)
PENDING = Query(
    sa.select(SimulatedTask)
    .where(_TASK_OF_MACHINE, col(SimulatedTask.applied) == sa.false())
    .order_by(col(SimulatedTask.done_at), col(SimulatedTask.ref)),
    TaskRow,
)
_SET_APPLIED = Statement(sa.update(SimulatedTask).where(_BY_TASK_REF).values(applied=sa.true()))
DELETE_TASK = Statement(sa.delete(SimulatedTask).where(_BY_TASK_REF))
DELETE_OLD_TASKS = Statement(
    sa.delete(SimulatedTask).where(
        _TASK_OF_MACHINE,
        col(SimulatedTask.applied) == sa.true(),
        col(SimulatedTask.done_at) < bindparam("too_old"),
    )
)
INSERT_MACHINE = insert(SimulatedMachine, *MachineRow._fields)
_DELETE_MACHINE = Statement(sa.delete(SimulatedMachine).where(_OF_MACHINE))
INSERT_SNAPSHOT = insert(SimulatedSnapshot, *SnapshotRow._fields)
INSERT_TASK = insert(SimulatedTask, *TaskRow._fields)
_DELETE_SNAPSHOT = Statement(sa.delete(SimulatedSnapshot).where(_BY_SNAPSHOT_REF))
_MOVE_CHILDREN = Statement(
    sa.update(SimulatedSnapshot)
    .where(
        col(SimulatedSnapshot.machine_ref) == bindparam("of_machine"),
        col(SimulatedSnapshot.parent_ref) == bindparam("snapshot_ref"),
    )
    .values(parent_ref=bindparam("to"))
)
SET_CURRENT = Statement(sa.update(SimulatedMachine).where(_OF_MACHINE).values(current_ref=bindparam("to")))
SET_LATENCY = Statement(sa.update(SimulatedMachine).where(_OF_MACHINE).values(latency_ms=bindparam("latency")))
SET_FAULT = Statement(sa.update(SimulatedMachine).where(_OF_MACHINE).values(fault=bindparam("new_fault")))


async def apply_due_tasks(tx: Transaction, machine_ref: str) -> tuple[MachineRow | None, bool]:
    """Locks the machine and applies its due tasks, in order of `done_at`.

    Returns the machine's row, or None if there is none, and whether tasks are still pending.
    """
    machine = await tx.first(LOCK, machine_ref=machine_ref)
    if machine is None:
        return None, False
    pending = await tx.all(PENDING, machine_ref=machine_ref)
    done = due(pending)
    for task in done:
        if task.error is None:
            machine = machine._replace(current_ref=await _apply(tx, machine, task))
        await tx.run(_SET_APPLIED, task_ref=task.ref)
    return machine, len(done) < len(pending)


async def _apply(tx: Transaction, machine: MachineRow, task: TaskRow) -> str | None:
    """Applies the effect of a task. Returns the ref of the snapshot that is current afterwards."""
    argument = orjson.loads(task.argument)
    verb = Verb.__members__.get(task.verb.upper())
    if verb is None:
        raise ProviderBusy("The provider is executing a task that this version of the gateway does not know.")
    match verb:
        case Verb.CREATE:
            current = await _create(tx, machine, task, argument)
        case Verb.REVERT:
            current = argument["ref"]
        case Verb.DELETE:
            current = await _delete(tx, machine, argument["ref"])
        case _:
            assert_never(verb)
    if current != machine.current_ref:
        await tx.run(SET_CURRENT, machine_ref=machine.ref, to=current)
    return current


async def _create(tx: Transaction, machine: MachineRow, task: TaskRow, argument: dict[str, Any]) -> str | None:
    """Inserts the snapshot. Returns the ref of the current one: the new one, if the machine has a tree."""
    tree = machine.kind is MachineKind.VM
    ref = f"snap-{uuid4().hex[:12]}"
    made = {"ref": ref, "machine_ref": machine.ref, "token": task.token, "created_at": task.started_at}
    parent = machine.current_ref if tree else None
    await tx.run(
        INSERT_SNAPSHOT, **made, **argument, parent_ref=parent, size_bytes=snapshot_size(ref, argument["memory"])
    )
    return ref if tree else None


async def _delete(tx: Transaction, machine: MachineRow, ref: str) -> str | None:
    """Deletes the snapshot if it exists. Returns the ref of the current one."""
    gone = await tx.first(SNAPSHOT, machine_ref=machine.ref, snapshot_ref=ref)
    if gone is None:
        return machine.current_ref
    await tx.run(_MOVE_CHILDREN, of_machine=machine.ref, snapshot_ref=gone.ref, to=gone.parent_ref)
    await tx.run(_DELETE_SNAPSHOT, snapshot_ref=gone.ref)
    return gone.parent_ref if machine.current_ref == gone.ref else machine.current_ref


async def delete_machine(tx: Transaction, machine_ref: str) -> None:
    """Deletes a machine with its snapshots and its pending tasks."""
    for snapshot in await tx.all(SNAPSHOTS, machine_ref=machine_ref):
        await tx.run(_DELETE_SNAPSHOT, snapshot_ref=snapshot.ref)
    for task in await tx.all(PENDING, machine_ref=machine_ref):
        await tx.run(DELETE_TASK, task_ref=task.ref)
    await tx.run(_DELETE_MACHINE, machine_ref=machine_ref)


def due(tasks: Sequence[TaskRow]) -> list[TaskRow]:
    """The tasks whose `done_at` has passed."""
    moment = now()
    return [task for task in tasks if task.done_at <= moment]


def snapshot_size(ref: str, memory: bool) -> int:
    """A plausible size in bytes, derived from the ref: 1 to 40 GiB, plus 4 GiB if the snapshot includes memory."""
    part = int.from_bytes(sha256(ref.encode()).digest()[:4]) / 2**32
    return int((1 + 39 * part) * _GIB) // 4096 * 4096 + (4 * _GIB if memory else 0)
