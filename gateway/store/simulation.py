"""The world of the `simulated` driver, in the gateway's database: machines, their snapshots, work that takes time.

Work is done by whoever looks after its time has come, once, with the machine's row locked. The driver reaches this as
its `Storage`; the command line and the demo world put machines in and switch faults on.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any
from uuid import uuid4

import orjson
import sqlalchemy as sa
from sqlalchemy import bindparam

from gateway.errors import NotFound, ProviderBusy, ProviderMissing
from gateway.models import MachineKind, PowerState, SimulatedMachine, SimulatedSnapshot, SimulatedTask, now
from gateway.store.database import Database, Transaction
from gateway.store.statements import Statement, insert

_GIB = 1 << 30
_TASKS_KEPT = timedelta(days=30)  # far longer than an operation may take to ask about its task

_M, _S, _T = SimulatedMachine.__table__, SimulatedSnapshot.__table__, SimulatedTask.__table__  # type: ignore[attr-defined]

_MACHINE_COLUMNS = [column.key for column in _M.c]
_SNAPSHOT_COLUMNS = [column.key for column in _S.c]
_TASK_COLUMNS = [column.key for column in _T.c]

_MACHINES = Statement(sa.select(_M).where(_M.c.provider == bindparam("provider")).order_by(_M.c.ref))
_MACHINE = Statement(sa.select(_M).where(_M.c.ref == bindparam("machine_ref")))
_LOCK = Statement(sa.select(_M).where(_M.c.ref == bindparam("machine_ref")).with_for_update())
_SNAPSHOTS = Statement(
    sa.select(_S).where(_S.c.machine_ref == bindparam("machine_ref")).order_by(_S.c.created_at, _S.c.ref)
)
_SNAPSHOT = Statement(
    sa.select(_S).where(_S.c.machine_ref == bindparam("machine_ref"), _S.c.ref == bindparam("snapshot_ref"))
)
_TASK = Statement(
    sa.select(_T).where(_T.c.token == bindparam("token"), _T.c.verb == bindparam("verb")).order_by(_T.c.started_at)
)
_TASK_BY_REF = Statement(sa.select(_T).where(_T.c.ref == bindparam("task_ref")))
_WAITING = Statement(
    sa.select(_T)
    .where(_T.c.machine_ref == bindparam("machine_ref"), _T.c.applied == sa.false())
    .order_by(_T.c.done_at, _T.c.ref)
)
_APPLIED = Statement(sa.update(_T).where(_T.c.ref == bindparam("task_ref")).values(applied=sa.true()))
_DROP_TASK = Statement(sa.delete(_T).where(_T.c.ref == bindparam("task_ref")))
_FORGET_TASKS = Statement(
    sa.delete(_T).where(_T.c.machine_ref == bindparam("machine_ref"), _T.c.applied, _T.c.done_at < bindparam("too_old"))
)
_PUT_MACHINE = insert(SimulatedMachine, *_MACHINE_COLUMNS)
_DROP_MACHINE = Statement(sa.delete(_M).where(_M.c.ref == bindparam("machine_ref")))
_PUT_SNAPSHOT = insert(SimulatedSnapshot, *_SNAPSHOT_COLUMNS)
_PUT_TASK = insert(SimulatedTask, *_TASK_COLUMNS)
_DROP_SNAPSHOT = Statement(sa.delete(_S).where(_S.c.ref == bindparam("snapshot_ref")))
_MOVE_CHILDREN = Statement(
    sa.update(_S).where(_S.c.parent_ref == bindparam("snapshot_ref")).values(parent_ref=bindparam("to"))
)
_SET_CURRENT = Statement(sa.update(_M).where(_M.c.ref == bindparam("machine_ref")).values(current_ref=bindparam("to")))
_SET_LATENCY = Statement(
    sa.update(_M).where(_M.c.ref == bindparam("machine_ref")).values(latency_ms=bindparam("latency"))
)
_SET_FAULT = Statement(sa.update(_M).where(_M.c.ref == bindparam("machine_ref")).values(fault=bindparam("new_fault")))


class Simulation:
    """The simulated world. The same for every simulated provider: references of machines are unique in it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # ---- what the driver asks

    async def machines(self, provider: str) -> Sequence[SimulatedMachine]:
        rows = await self._database.read(lambda tx: tx.all(_MACHINES, provider=provider), single=True)
        return [SimulatedMachine(**row._asdict()) for row in rows]

    async def contents(self, machine_ref: str) -> tuple[SimulatedMachine, Sequence[SimulatedSnapshot]] | None:
        async def read(tx: Transaction) -> tuple[Any, list[Any], list[Any]]:
            machine = await tx.first(_MACHINE, machine_ref=machine_ref)
            waiting = await tx.all(_WAITING, machine_ref=machine_ref)
            return machine, await tx.all(_SNAPSHOTS, machine_ref=machine_ref), waiting

        machine, snapshots, waiting = await self._database.read(read)
        if machine is None:
            return None
        if _due(waiting):
            await self._database.write(lambda tx: _settle(tx, machine_ref))
            machine, snapshots, _ = await self._database.read(read)
        rows = [SimulatedSnapshot(**row._asdict()) for row in snapshots]
        return SimulatedMachine(**machine._asdict()), _parents_first(rows)

    async def begin(self, task: SimulatedTask, subject: str | None) -> SimulatedTask:
        async def work(tx: Transaction) -> SimulatedTask:
            machine = await _settle(tx, task.machine_ref)
            if machine is None:
                raise ProviderMissing("the provider has no such machine")
            earlier = await tx.first(_TASK, token=task.token, verb=task.verb)
            # A delete that is done is not answered by its task: what is gone is missing, whoever asks.
            if earlier is not None and (task.verb == "create" or not earlier.applied):
                return SimulatedTask(**earlier._asdict())
            if await tx.first(_WAITING, machine_ref=task.machine_ref):
                raise ProviderBusy("the provider is doing other work on this machine")
            if subject is not None:
                known = await tx.first(_SNAPSHOT, machine_ref=task.machine_ref, snapshot_ref=subject)
                if known is None:
                    raise ProviderMissing("the provider has no such snapshot")
            started = now()
            await tx.run(_FORGET_TASKS, machine_ref=task.machine_ref, too_old=started - _TASKS_KEPT)
            times = {"started_at": started, "done_at": started + timedelta(milliseconds=machine.latency_ms)}
            await tx.run(_PUT_TASK, **(task.model_dump() | times))
            return SimulatedTask(**(task.model_dump() | times))

        return await self._database.write(work)

    async def task(self, token: str, verb: str) -> SimulatedTask | None:
        row = await self._database.read(lambda tx: tx.first(_TASK, token=token, verb=verb), single=True)
        if row is not None and not row.applied and row.done_at <= now():
            await self._database.write(lambda tx: _settle(tx, row.machine_ref))
            row = await self._database.read(lambda tx: tx.first(_TASK, token=token, verb=verb), single=True)
        return None if row is None else SimulatedTask(**row._asdict())

    async def abandon(self, task_ref: str) -> bool:
        async def work(tx: Transaction) -> bool:
            task = await tx.first(_TASK_BY_REF, task_ref=task_ref)
            if task is None:
                return True
            await _settle(tx, task.machine_ref)
            task = await tx.first(_TASK_BY_REF, task_ref=task_ref)
            if task.applied:
                return False
            await tx.run(_DROP_TASK, task_ref=task_ref)
            return True

        return await self._database.write(work)

    async def take_fault(self, machine_ref: str, verb: str) -> dict[str, Any] | None:
        machine = await self._database.read(lambda tx: tx.first(_MACHINE, machine_ref=machine_ref), single=True)
        if machine is None or machine.fault is None:
            return None

        async def work(tx: Transaction) -> dict[str, Any] | None:
            locked = await tx.first(_LOCK, machine_ref=machine_ref)
            fault: dict[str, Any] | None = orjson.loads(locked.fault) if locked and locked.fault else None
            if fault is None or not _concerns(fault, verb):
                return None
            if (times := fault.get("times")) is not None:
                left = fault | {"times": times - 1} if times > 1 else None
                await tx.run(_SET_FAULT, machine_ref=machine_ref, new_fault=_json(left))
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
            await _drop(tx, ref)
            await tx.run(_PUT_MACHINE, **values)

        await self._database.write(work)

    async def drop_machine(self, ref: str) -> None:
        """Takes a machine and its snapshots out, as if somebody had deleted it on the provider."""
        await self._database.write(lambda tx: _drop(tx, ref))

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
                _PUT_SNAPSHOT,
                ref=ref,
                machine_ref=machine_ref,
                token=token,
                name=name,
                description=description,
                memory=memory,
                parent_ref=parent_ref,
                size_bytes=_size(ref, memory) if size_bytes is None else size_bytes,
                created_at=created_at or now(),
            )
            if current:
                await tx.run(_SET_CURRENT, machine_ref=machine_ref, to=ref)

        await self._database.write(work)
        return ref

    async def set_behaviour(
        self, machine_ref: str, latency_ms: int | None = None, fault: Mapping[str, Any] | None = None
    ) -> None:
        """Sets how long work takes, unless None, and the fault; None takes the fault away. Raises NotFound."""

        async def work(tx: Transaction) -> None:
            if not await tx.run(_SET_FAULT, machine_ref=machine_ref, new_fault=_json(fault)):
                raise NotFound(f"the simulated provider has no machine {machine_ref}")
            if latency_ms is not None:
                await tx.run(_SET_LATENCY, machine_ref=machine_ref, latency=latency_ms)

        await self._database.write(work)


# ---- inside a transaction


async def _settle(tx: Transaction, machine_ref: str) -> Any:
    """Does the work whose time has come, in its order; the machine as it is then, locked, or None."""
    machine = await tx.first(_LOCK, machine_ref=machine_ref)
    if machine is None:
        return None
    for task in _due(await tx.all(_WAITING, machine_ref=machine_ref)):
        if task.error is None:
            await _apply(tx, await tx.first(_MACHINE, machine_ref=machine_ref), task)
        await tx.run(_APPLIED, task_ref=task.ref)
    return await tx.first(_MACHINE, machine_ref=machine_ref)


async def _apply(tx: Transaction, machine: Any, task: Any) -> None:
    argument = orjson.loads(task.argument)
    tree = machine.kind is MachineKind.VM
    if task.verb == "create":
        ref = f"snap-{uuid4().hex[:12]}"
        made = {"ref": ref, "machine_ref": machine.ref, "token": task.token, "created_at": task.started_at}
        parent = machine.current_ref if tree else None
        await tx.run(_PUT_SNAPSHOT, **made, **argument, parent_ref=parent, size_bytes=_size(ref, argument["memory"]))
        current = ref if tree else None
    elif task.verb == "revert":
        current = argument["ref"]
    else:
        gone = await tx.first(_SNAPSHOT, machine_ref=machine.ref, snapshot_ref=argument["ref"])
        if gone is None:
            return
        await tx.run(_MOVE_CHILDREN, snapshot_ref=gone.ref, to=gone.parent_ref)
        await tx.run(_DROP_SNAPSHOT, snapshot_ref=gone.ref)
        current = gone.parent_ref if machine.current_ref == gone.ref else machine.current_ref
    await tx.run(_SET_CURRENT, machine_ref=machine.ref, to=current)


async def _drop(tx: Transaction, machine_ref: str) -> None:
    for row in await tx.all(_SNAPSHOTS, machine_ref=machine_ref):
        await tx.run(_DROP_SNAPSHOT, snapshot_ref=row.ref)
    for row in await tx.all(_WAITING, machine_ref=machine_ref):
        await tx.run(_DROP_TASK, task_ref=row.ref)
    await tx.run(_DROP_MACHINE, machine_ref=machine_ref)


# ---- pure


def _due(tasks: Sequence[Any]) -> list[Any]:
    moment = now()
    return [task for task in tasks if task.done_at <= moment]


def _concerns(fault: Mapping[str, Any], verb: str) -> bool:
    on = fault.get("on", "any")
    return bool(on == verb or (on == "any" and verb != "read"))


def _json(value: Mapping[str, Any] | None) -> str | None:
    return None if value is None else orjson.dumps(value).decode()


def _size(ref: str, memory: bool) -> int:
    """A plausible size, always the same for one reference: 1 to 40 GiB, and 4 more for memory."""
    part = int.from_bytes(sha256(ref.encode()).digest()[:4]) / 2**32
    return int((1 + 39 * part) * _GIB) // 4096 * 4096 + (4 * _GIB if memory else 0)


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
