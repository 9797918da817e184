"""The world of the `simulated` driver, in the gateway's database: machines, their snapshots, work that takes time.

Work is done by whoever looks after its time has come, once, with the machine's row locked. The driver reaches this as
its `Storage`; the command line and the demo world put machines in and switch faults on.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import orjson

from gateway.columns import now
from gateway.drivers.simulator import tasks
from gateway.drivers.simulator.tables import SimulatedMachine, SimulatedSnapshot, SimulatedTask
from gateway.errors import NotFound, ProviderBusy, ProviderError, ProviderMissing
from gateway.models import MachineKind, PowerState
from gateway.store.database import Database, Transaction


class SimulatedWorld:
    """The simulated world. The same for every simulated provider: references of machines are unique in it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # ---- what the driver asks

    async def machines(self, provider: str) -> Sequence[SimulatedMachine]:
        rows = await self._database.read(lambda tx: tx.all(tasks.MACHINES, provider=provider), single=True)
        return [SimulatedMachine(**row._asdict()) for row in rows]

    async def contents(self, machine_ref: str) -> tuple[SimulatedMachine, Sequence[SimulatedSnapshot]] | None:
        async def read(tx: Transaction) -> tuple[Any, list[Any], list[Any]]:
            machine = await tx.first(tasks.MACHINE, machine_ref=machine_ref)
            waiting = await tx.all(tasks.WAITING, machine_ref=machine_ref)
            return machine, await tx.all(tasks.SNAPSHOTS, machine_ref=machine_ref), waiting

        machine, snapshots, waiting = await self._database.read(read)
        if machine is None:
            return None
        if tasks.due(waiting):
            await self._database.write(lambda tx: tasks.settle(tx, machine_ref))
            machine, snapshots, _ = await self._database.read(read)
        rows = [SimulatedSnapshot(**row._asdict()) for row in snapshots]
        return SimulatedMachine(**machine._asdict()), _parents_first(rows)

    async def begin(self, task: SimulatedTask, subject: str | None) -> SimulatedTask:
        async def work(tx: Transaction) -> SimulatedTask | ProviderError:
            """Errors are returned, for a transaction that raises would take back the work that has just been done."""
            machine, busy = await tasks.settle(tx, task.machine_ref)
            if machine is None:
                return ProviderMissing("the provider has no such machine")
            earlier = await tx.first(tasks.TASK, token=task.token, verb=task.verb)
            # A delete that is done is not answered by its task: what is gone is missing, whoever asks.
            if earlier is not None and (task.verb != "delete" or not earlier.applied):
                return SimulatedTask(**earlier._asdict())
            if busy:
                return ProviderBusy("the provider is doing other work on this machine")
            if subject is not None:
                known = await tx.first(tasks.SNAPSHOT, machine_ref=task.machine_ref, snapshot_ref=subject)
                if known is None:
                    return ProviderMissing("the provider has no such snapshot")
            started = now()
            await tx.run(tasks.FORGET_TASKS, machine_ref=task.machine_ref, too_old=started - tasks.TASKS_KEPT)
            times = {"started_at": started, "done_at": started + timedelta(milliseconds=machine.latency_ms)}
            await tx.run(tasks.PUT_TASK, **(task.model_dump() | times))
            return SimulatedTask(**(task.model_dump() | times))

        begun = await self._database.write(work)
        if isinstance(begun, ProviderError):
            raise begun
        return begun

    async def task(self, token: str, verb: str) -> SimulatedTask | None:
        row = await self._database.read(lambda tx: tx.first(tasks.TASK, token=token, verb=verb), single=True)
        return None if row is None else await self.progressed(SimulatedTask(**row._asdict()))

    async def progressed(self, task: SimulatedTask) -> SimulatedTask | None:
        async def settled(tx: Transaction) -> Any:
            await tasks.settle(tx, task.machine_ref)
            return await tx.first(tasks.TASK_BY_REF, task_ref=task.ref)

        if task.applied:
            return task
        if task.done_at <= now():
            row = await self._database.write(settled)
        else:
            row = await self._database.read(lambda tx: tx.first(tasks.TASK_BY_REF, task_ref=task.ref), single=True)
        return None if row is None else SimulatedTask(**row._asdict())

    async def abandon(self, task_ref: str) -> bool:
        async def work(tx: Transaction) -> bool:
            task = await tx.first(tasks.TASK_BY_REF, task_ref=task_ref)
            if task is None:
                return True
            await tasks.settle(tx, task.machine_ref)
            task = await tx.first(tasks.TASK_BY_REF, task_ref=task_ref)
            if task.applied:
                return False
            await tx.run(tasks.DROP_TASK, task_ref=task_ref)
            return True

        return await self._database.write(work)

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
                left = fault | {"times": times - 1} if times > 1 else None
                await tx.run(tasks.SET_FAULT, machine_ref=machine_ref, new_fault=_json(left))
            return fault

        return await self._database.write(work)

    # ---- what people, tests and the demo world do

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
        """Puts a machine without snapshots in; one that has the reference is replaced."""
        values: dict[str, Any] = {
            "ref": ref,
            "provider": provider,
            "kind": kind,
            "name": name,
            "description": description,
            "power_state": power_state,
            "host": host,
            "flavor": flavor,
            "availability_zone": availability_zone,
            "created_at": created_at or now(),
            "current_ref": None,
            "latency_ms": latency_ms,
            "fault": None,
        }

        async def work(tx: Transaction) -> None:
            await tasks.drop(tx, ref)
            await tx.run(tasks.PUT_MACHINE, **values)

        await self._database.write(work)

    async def drop_machine(self, ref: str) -> None:
        """Takes a machine and its snapshots out, as if somebody had deleted it on the provider."""
        await self._database.write(lambda tx: tasks.drop(tx, ref))

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
        """Puts a snapshot in, as if somebody had made it on the provider; its reference."""
        ref = ref or f"snap-{uuid4().hex[:12]}"

        async def work(tx: Transaction) -> None:
            await tx.run(
                tasks.PUT_SNAPSHOT,
                ref=ref,
                machine_ref=machine_ref,
                token=token,
                name=name,
                description=description,
                memory=memory,
                parent_ref=parent_ref,
                size_bytes=tasks.size(ref, memory) if size_bytes is None else size_bytes,
                created_at=created_at or now(),
            )
            if current:
                await tx.run(tasks.SET_CURRENT, machine_ref=machine_ref, to=ref)

        await self._database.write(work)
        return ref

    async def set_behavior(
        self, machine_ref: str, latency_ms: int | None = None, fault: Mapping[str, Any] | None = None
    ) -> None:
        """Sets how long work takes, unless None, and the fault; None takes the fault away. Raises NotFound."""

        async def work(tx: Transaction) -> None:
            if not await tx.run(tasks.SET_FAULT, machine_ref=machine_ref, new_fault=_json(fault)):
                raise NotFound(f"the simulated provider has no machine {machine_ref}")
            if latency_ms is not None:
                await tx.run(tasks.SET_LATENCY, machine_ref=machine_ref, latency=latency_ms)

        await self._database.write(work)


def _concerns(fault: Mapping[str, Any], verb: str) -> bool:
    on = fault.get("on", "any")
    return bool(on == verb or (on == "any" and verb != "read"))


def _json(value: Mapping[str, Any] | None) -> str | None:
    return None if value is None else orjson.dumps(value).decode()


def _parents_first(rows: Sequence[SimulatedSnapshot]) -> list[SimulatedSnapshot]:
    """By creation as far as possible; a child never before its parent."""
    waiting: dict[str | None, list[SimulatedSnapshot]] = {}
    known = {row.ref for row in rows}
    for row in rows:
        waiting.setdefault(row.parent_ref if row.parent_ref in known else None, []).append(row)
    ordered: list[SimulatedSnapshot] = []
    ready = list(reversed(waiting.get(None, [])))
    while ready:
        row = ready.pop()
        ordered.append(row)
        ready += reversed(waiting.get(row.ref, []))
    return ordered
