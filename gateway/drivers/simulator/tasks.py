"""The statements of the simulated world, and the effect of its tasks on the tables.

All functions that take a transaction run inside the caller's transaction. A caller that changes something holds the
lock on the machine's row (`LOCK`).
"""

from collections.abc import Sequence
from datetime import timedelta
from hashlib import sha256
from typing import Any
from uuid import uuid4

import orjson
import sqlalchemy as sa
from sqlalchemy import bindparam

from gateway.columns import now
from gateway.drivers.simulator.tables import SimulatedMachine, SimulatedSnapshot, SimulatedTask
from gateway.models import MachineKind
from gateway.store.database import Transaction
from gateway.store.statements import Statement, insert

_GIB = 1 << 30
TASKS_KEPT = timedelta(days=30)  # far longer than an operation may take until it queries its task

_M, _S, _T = SimulatedMachine.__table__, SimulatedSnapshot.__table__, SimulatedTask.__table__  # type: ignore[attr-defined]

_MACHINE_COLUMNS = [column.key for column in _M.c]
_SNAPSHOT_COLUMNS = [column.key for column in _S.c]
_TASK_COLUMNS = [column.key for column in _T.c]

MACHINES = Statement(sa.select(_M).where(_M.c.provider == bindparam("provider")).order_by(_M.c.ref))
MACHINE = Statement(sa.select(_M).where(_M.c.ref == bindparam("machine_ref")))
LOCK = Statement(sa.select(_M).where(_M.c.ref == bindparam("machine_ref")).with_for_update())
SNAPSHOTS = Statement(
    sa.select(_S).where(_S.c.machine_ref == bindparam("machine_ref")).order_by(_S.c.created_at, _S.c.ref)
)
SNAPSHOT = Statement(
    sa.select(_S).where(_S.c.machine_ref == bindparam("machine_ref"), _S.c.ref == bindparam("snapshot_ref"))
)
TASK = Statement(
    sa.select(_T).where(_T.c.token == bindparam("token"), _T.c.verb == bindparam("verb")).order_by(_T.c.started_at)
)
TASK_BY_REF = Statement(sa.select(_T).where(_T.c.ref == bindparam("task_ref")))
PENDING = Statement(
    sa.select(_T)
    .where(_T.c.machine_ref == bindparam("machine_ref"), _T.c.applied == sa.false())
    .order_by(_T.c.done_at, _T.c.ref)
)
_SET_APPLIED = Statement(sa.update(_T).where(_T.c.ref == bindparam("task_ref")).values(applied=sa.true()))
DELETE_TASK = Statement(sa.delete(_T).where(_T.c.ref == bindparam("task_ref")))
DELETE_OLD_TASKS = Statement(
    sa.delete(_T).where(
        _T.c.machine_ref == bindparam("machine_ref"),
        _T.c.applied == sa.true(),
        _T.c.done_at < bindparam("too_old"),
    )
)
INSERT_MACHINE = insert(SimulatedMachine, *_MACHINE_COLUMNS)
_DELETE_MACHINE = Statement(sa.delete(_M).where(_M.c.ref == bindparam("machine_ref")))
INSERT_SNAPSHOT = insert(SimulatedSnapshot, *_SNAPSHOT_COLUMNS)
INSERT_TASK = insert(SimulatedTask, *_TASK_COLUMNS)
_DELETE_SNAPSHOT = Statement(sa.delete(_S).where(_S.c.ref == bindparam("snapshot_ref")))
_MOVE_CHILDREN = Statement(
    sa.update(_S)
    .where(_S.c.machine_ref == bindparam("of_machine"), _S.c.parent_ref == bindparam("snapshot_ref"))
    .values(parent_ref=bindparam("to"))
)
SET_CURRENT = Statement(sa.update(_M).where(_M.c.ref == bindparam("machine_ref")).values(current_ref=bindparam("to")))
SET_LATENCY = Statement(
    sa.update(_M).where(_M.c.ref == bindparam("machine_ref")).values(latency_ms=bindparam("latency"))
)
SET_FAULT = Statement(sa.update(_M).where(_M.c.ref == bindparam("machine_ref")).values(fault=bindparam("new_fault")))


async def apply_due_tasks(tx: Transaction, machine_ref: str) -> tuple[Any, bool]:
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


async def _apply(tx: Transaction, machine: Any, task: Any) -> str | None:
    """Applies the effect of a task. Returns the ref of the snapshot that is current afterwards."""
    argument = orjson.loads(task.argument)
    tree = machine.kind is MachineKind.VM
    current: str | None = machine.current_ref
    if task.verb == "create":
        ref = f"snap-{uuid4().hex[:12]}"
        made = {"ref": ref, "machine_ref": machine.ref, "token": task.token, "created_at": task.started_at}
        parent = current if tree else None
        await tx.run(
            INSERT_SNAPSHOT, **made, **argument, parent_ref=parent, size_bytes=snapshot_size(ref, argument["memory"])
        )
        current = ref if tree else None
    elif task.verb == "revert":
        current = argument["ref"]
    else:
        gone = await tx.first(SNAPSHOT, machine_ref=machine.ref, snapshot_ref=argument["ref"])
        if gone is None:
            return current
        await tx.run(_MOVE_CHILDREN, of_machine=machine.ref, snapshot_ref=gone.ref, to=gone.parent_ref)
        await tx.run(_DELETE_SNAPSHOT, snapshot_ref=gone.ref)
        current = gone.parent_ref if current == gone.ref else current
    if current != machine.current_ref:
        await tx.run(SET_CURRENT, machine_ref=machine.ref, to=current)
    return current


async def delete_machine(tx: Transaction, machine_ref: str) -> None:
    """Deletes a machine with its snapshots and its pending tasks."""
    for row in await tx.all(SNAPSHOTS, machine_ref=machine_ref):
        await tx.run(_DELETE_SNAPSHOT, snapshot_ref=row.ref)
    for row in await tx.all(PENDING, machine_ref=machine_ref):
        await tx.run(DELETE_TASK, task_ref=row.ref)
    await tx.run(_DELETE_MACHINE, machine_ref=machine_ref)


def due(tasks: Sequence[Any]) -> list[Any]:
    """The tasks whose `done_at` has passed."""
    moment = now()
    return [task for task in tasks if task.done_at <= moment]


def snapshot_size(ref: str, memory: bool) -> int:
    """A plausible size in bytes, derived from the ref: 1 to 40 GiB, plus 4 GiB if the snapshot includes memory."""
    part = int.from_bytes(sha256(ref.encode()).digest()[:4]) / 2**32
    return int((1 + 39 * part) * _GIB) // 4096 * 4096 + (4 * _GIB if memory else 0)
