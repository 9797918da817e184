"""The world of the `simulated` driver, in the gateway's database: machines, their snapshots, and tasks that take time.

No process runs the tasks. A call that reads or changes a machine first applies its due tasks, each once, with the
machine's row locked. The driver uses this module as its `Storage`. The command line, the demo world and tests add
machines and set faults.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import orjson
import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlmodel import col

from gateway.columns import Text, now
from gateway.drivers.simulator import tasks
from gateway.drivers.simulator.tables import MachineRow, SimulatedSnapshot, SnapshotRow, TaskRow, Verb
from gateway.errors import NotFound, ProviderBusy, ProviderError, ProviderMissing
from gateway.models import MachineKind, PowerState
from gateway.store.database import Database, Transaction
from gateway.store.statements import Statement

_UPDATE_SNAPSHOT = Statement(
    sa.update(SimulatedSnapshot)
    .where(
        col(SimulatedSnapshot.machine_ref) == bindparam("machine_ref"),
        col(SimulatedSnapshot.ref) == bindparam("snapshot_ref"),
    )
    .values(
        name=sa.func.coalesce(bindparam("new_name", type_=Text()), col(SimulatedSnapshot.name)),
        description=sa.func.nullif(
            sa.func.coalesce(bindparam("new_description", type_=Text()), col(SimulatedSnapshot.description)), ""
        ),
    )
)


class SimulatedWorld:
    """The machines of all simulated providers. Refs of machines are unique across these providers."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # ---- called by the driver

    async def machines(self, provider: str) -> Sequence[MachineRow]:
        return await self._database.read(lambda tx: tx.all(tasks.MACHINES, provider=provider), single=True)

    async def contents(self, machine_ref: str) -> tuple[MachineRow, Sequence[SnapshotRow]] | None:
        async def read(tx: Transaction) -> tuple[MachineRow | None, list[SnapshotRow], list[TaskRow]]:
            machine = await tx.first(tasks.MACHINE, machine_ref=machine_ref)
            pending = await tx.all(tasks.PENDING, machine_ref=machine_ref)
            return machine, await tx.all(tasks.SNAPSHOTS, machine_ref=machine_ref), pending

        machine, snapshots, pending = await self._database.read(read)
        if tasks.due(pending):
            await self._database.write(lambda tx: tasks.apply_due_tasks(tx, machine_ref))
            machine, snapshots, _ = await self._database.read(read)
        return None if machine is None else (machine, _parents_first(snapshots))

    async def begin(self, task: TaskRow, snapshot_ref: str | None) -> TaskRow:
        async def work(tx: Transaction) -> TaskRow | ProviderError:
            """Returns errors instead of raising them: raising would roll back the due tasks that it has applied."""
            machine, busy = await tasks.apply_due_tasks(tx, task.machine_ref)
            if machine is None:
                return ProviderMissing("The provider has no such machine.")
            earlier = await tx.first(tasks.TASK, token=task.token, verb=task.verb)
            # A completed delete does not return its earlier task: the snapshot is missing, also for the same token.
            if earlier is not None and (task.verb != Verb.DELETE or not earlier.applied):
                return earlier
            if busy:
                return ProviderBusy("The provider is executing another task on this machine.")
            if snapshot_ref is not None:
                snapshot = await tx.first(tasks.SNAPSHOT, machine_ref=task.machine_ref, snapshot_ref=snapshot_ref)
                if snapshot is None:
                    return ProviderMissing("The provider has no such snapshot.")
            started = now()
            await tx.run(tasks.DELETE_OLD_TASKS, machine_ref=task.machine_ref, too_old=started - tasks.TASKS_KEPT)
            done = started + timedelta(milliseconds=machine.latency_ms)
            begun = task._replace(started_at=started, done_at=done)
            await tx.run(tasks.INSERT_TASK, **begun._asdict())
            return begun

        task_or_error = await self._database.write(work)
        if isinstance(task_or_error, ProviderError):
            raise task_or_error
        return task_or_error

    async def task(self, token: str, verb: Verb) -> TaskRow | None:
        row = await self._database.read(lambda tx: tx.first(tasks.TASK, token=token, verb=verb), single=True)
        return None if row is None else await self.refresh_task(row)

    async def refresh_task(self, task: TaskRow) -> TaskRow | None:
        async def apply(tx: Transaction) -> TaskRow | None:
            await tasks.apply_due_tasks(tx, task.machine_ref)
            return await tx.first(tasks.TASK_BY_REF, task_ref=task.ref)

        if task.applied:
            return task
        if task.done_at <= now():
            return await self._database.write(apply)
        return await self._database.read(lambda tx: tx.first(tasks.TASK_BY_REF, task_ref=task.ref), single=True)

    async def abandon(self, task_ref: str) -> bool:
        async def work(tx: Transaction) -> bool:
            task = await tx.first(tasks.TASK_BY_REF, task_ref=task_ref)
            if task is not None:
                await tasks.apply_due_tasks(tx, task.machine_ref)
                task = await tx.first(tasks.TASK_BY_REF, task_ref=task_ref)
            if task is None:
                return True
            if task.applied:
                return False
            await tx.run(tasks.DELETE_TASK, task_ref=task_ref)
            return True

        return await self._database.write(work)

    async def update_snapshot(
        self, machine_ref: str, snapshot_ref: str, name: str | None, description: str | None
    ) -> None:
        async def work(tx: Transaction) -> int:
            await tasks.apply_due_tasks(tx, machine_ref)
            return await tx.run(
                _UPDATE_SNAPSHOT,
                machine_ref=machine_ref,
                snapshot_ref=snapshot_ref,
                new_name=name,
                new_description=description,
            )

        if not await self._database.write(work):
            raise ProviderMissing("The provider has no such snapshot.")

    async def take_fault(self, machine_ref: str, verb: str) -> dict[str, Any] | None:
        machine = await self._database.read(lambda tx: tx.first(tasks.MACHINE, machine_ref=machine_ref), single=True)
        if machine is None or machine.fault is None:
            return None

        async def work(tx: Transaction) -> dict[str, Any] | None:
            locked = await tx.first(tasks.LOCK, machine_ref=machine_ref)
            fault: dict[str, Any] | None = orjson.loads(locked.fault) if locked and locked.fault else None
            if fault is None or not _concerns(fault, verb):
                return None
            if (times := fault.get("times")) is not None:
                remaining = fault | {"times": times - 1} if times > 1 else None
                await tx.run(tasks.SET_FAULT, machine_ref=machine_ref, new_fault=_json(remaining))
            return fault

        return await self._database.write(work)

    # ---- called by the command line, the demo world and tests

    async def put_machine(
        self,
        ref: str,
        *,
        provider: str,
        kind: MachineKind,
        name: str,
        power_state: PowerState = PowerState.ON,
        description: str | None = None,
        host: str | None = None,
        flavor: str | None = None,
        availability_zone: str | None = None,
        created_at: datetime | None = None,
        latency_ms: int = 1_500,
    ) -> None:
        """Adds a machine without snapshots, and replaces a machine with the same ref."""
        machine = MachineRow(
            ref=ref,
            provider=provider,
            kind=kind,
            name=name,
            description=description,
            power_state=power_state,
            host=host,
            flavor=flavor,
            availability_zone=availability_zone,
            created_at=created_at or now(),
            current_ref=None,
            latency_ms=latency_ms,
            fault=None,
        )

        async def work(tx: Transaction) -> None:
            await tasks.delete_machine(tx, ref)
            await tx.run(tasks.INSERT_MACHINE, **machine._asdict())

        await self._database.write(work)

    async def drop_machine(self, ref: str) -> None:
        """Deletes a machine and its snapshots, as if the machine had been deleted directly at the provider."""
        await self._database.write(lambda tx: tasks.delete_machine(tx, ref))

    async def put_snapshot(
        self,
        machine_ref: str,
        name: str,
        *,
        ref: str | None = None,
        description: str | None = None,
        memory: bool = False,
        parent_ref: str | None = None,
        current: bool = False,
        created_at: datetime | None = None,
        size_bytes: int | None = None,
        token: str | None = None,
    ) -> str:
        """Adds a snapshot, as if it had been created directly at the provider. Returns its ref."""
        ref = ref or f"snap-{uuid4().hex[:12]}"

        async def work(tx: Transaction) -> None:
            await tx.run(
                tasks.INSERT_SNAPSHOT,
                ref=ref,
                machine_ref=machine_ref,
                token=token,
                name=name,
                description=description,
                memory=memory,
                parent_ref=parent_ref,
                size_bytes=tasks.snapshot_size(ref, memory) if size_bytes is None else size_bytes,
                created_at=created_at or now(),
            )
            if current:
                await tx.run(tasks.SET_CURRENT, machine_ref=machine_ref, to=ref)

        await self._database.write(work)
        return ref

    async def set_behavior(
        self, machine_ref: str, latency_ms: int | None = None, fault: Mapping[str, Any] | None = None
    ) -> None:
        """Sets the duration of tasks, unless `latency_ms` is None, and the fault. None removes the fault.

        Raises NotFound.
        """

        async def work(tx: Transaction) -> None:
            if not await tx.run(tasks.SET_FAULT, machine_ref=machine_ref, new_fault=_json(fault)):
                raise NotFound(f"The simulated provider has no machine {machine_ref!r}.")
            if latency_ms is not None:
                await tx.run(tasks.SET_LATENCY, machine_ref=machine_ref, latency=latency_ms)

        await self._database.write(work)


def _concerns(fault: Mapping[str, Any], verb: str) -> bool:
    on = fault.get("on", "any")
    return bool(on == verb or (on == "any" and verb != "read"))


def _json(value: Mapping[str, Any] | None) -> str | None:
    return None if value is None else orjson.dumps(value).decode()


def _parents_first(rows: Sequence[SnapshotRow]) -> list[SnapshotRow]:
    """Ordered by creation time, except that a parent always precedes its children."""
    waiting: dict[str | None, list[SnapshotRow]] = {}
    known = {row.ref for row in rows}
    for row in rows:
        waiting.setdefault(row.parent_ref if row.parent_ref in known else None, []).append(row)
    ordered: list[SnapshotRow] = []
    ready = list(reversed(waiting.get(None, [])))
    while ready:
        row = ready.pop()
        ordered.append(row)
        ready += reversed(waiting.get(row.ref, []))
    return ordered
