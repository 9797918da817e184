"""A test world: a migrated database, a simulated provider with machines, and the `Operations` service."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlmodel import SQLModel

from gateway.access.caller import Caller, local_caller
from gateway.access.origin import RequestOrigin
from gateway.columns import now
from gateway.config import Settings
from gateway.drivers.base import Driver
from gateway.drivers.simulator.driver import SimulatedDriver
from gateway.drivers.simulator.tables import SimulatedSnapshot
from gateway.drivers.simulator.world import SimulatedWorld
from gateway.models import (
    IdempotencyKey,
    Machine,
    MachineKind,
    Operation,
    PowerState,
    Provider,
    Snapshot,
    SnapshotState,
    Surface,
)
from gateway.operations.audit_refusals import RefusalLog
from gateway.operations.claims import Claim, claim
from gateway.operations.commands.base import MachineTarget, Outcome, SingleCommand
from gateway.operations.commands.create_snapshot import CreateSnapshot, CreateSnapshots
from gateway.operations.commands.delete_snapshots import DeleteSnapshots
from gateway.operations.commands.refresh_machine import RefreshMachine
from gateway.operations.commands.revert_vm_snapshot import RevertVmSnapshot
from gateway.operations.commands.update_snapshot import UpdateSnapshot
from gateway.operations.operation_kinds import OPERATION_TYPES
from gateway.operations.service import Operations
from gateway.operations.worker import Worker
from gateway.store.database import Database, Transaction
from gateway.store.database_url import open_database
from gateway.store.statements import Query, insert, python_type
from tests.waiting import until_async

SETTINGS = Settings(operation_lease=600.0, drain_timeout=5.0)  # leases expire only when a test expires them

ORIGIN = RequestOrigin(Surface.GRAPHQL, "127.0.0.1", "a-request")

_PROVIDER = insert(Provider, "name", "tenant", "driver")
_MACHINE = insert(
    Machine,
    "tenant",
    "kind",
    "name",
    "provider",
    "provider_ref",
    "power_state",
    "created_at",
    "updated_at",
    "observed_at",
)
_SNAPSHOT = insert(
    Snapshot,
    "tenant",
    "machine_id",
    "name",
    "state",
    "memory",
    "provider_ref",
    "created_at",
    "parent_id",
    "is_current",
    "size_bytes",
)

TABLES = SQLModel.metadata.tables


def all_rows(table: sa.Table) -> Query[Any]:
    """A query of all columns of all rows, ordered by the primary key. The row type is made of the table's columns."""
    named_tuple: Any = NamedTuple  # called with fields that are not literals
    row_type = named_tuple(table.name, [(column.key, python_type(column) | None) for column in table.columns])
    return Query(sa.select(table).order_by(*table.primary_key), row_type)


_WRITTEN: dict[Any, Query[Any]] = {
    model: all_rows(TABLES[model.__tablename__]) for model in (Snapshot, Operation, IdempotencyKey, SimulatedSnapshot)
}


class World:
    """Rows and the calls that create them. Defaults: tenant `default`, provider `sim`."""

    def __init__(self, database: Database, settings: Settings = SETTINGS) -> None:
        self.database = database
        self.settings = settings
        self.simulation = SimulatedWorld(database)
        self.driver = SimulatedDriver("sim", self.simulation)
        self.drivers: dict[str, Driver] = {"sim": self.driver}
        self.caller = local_caller("default")
        self.woken = 0
        self.refreshed: list[int] = []
        self.refusals = RefusalLog(database, "default")
        self.operations = Operations(database, self.drivers, settings, wake=self._wake, refusals=self.refusals)

    def _wake(self) -> None:
        self.woken += 1

    async def record_refresh(self, machine_id: int) -> None:
        self.refreshed.append(machine_id)

    def with_settings(self, **changes: Any) -> "World":
        return World(self.database, replace(self.settings, **changes))

    # ---- creating rows

    async def provider(self, name: str = "sim", tenant: str = "default", driver: str = "simulated") -> None:
        await self.database.write(lambda tx: tx.run(_PROVIDER, name=name, tenant=tenant, driver=driver))

    async def machine(
        self,
        ref: str = "m1",
        kind: MachineKind = MachineKind.VM,
        *,
        provider: str = "sim",
        tenant: str = "default",
        power_state: PowerState = PowerState.ON,
        latency_ms: int = 0,
    ) -> int:
        await self.simulation.put_machine(
            ref, provider=provider, kind=kind, name=ref, power_state=power_state, latency_ms=latency_ms
        )
        at = now()
        (row,) = await self.database.write(
            lambda tx: tx.all(
                _MACHINE,
                tenant=tenant,
                kind=kind,
                name=ref,
                provider=provider,
                provider_ref=ref,
                power_state=power_state,
                created_at=at,
                updated_at=at,
                observed_at=at,
            )
        )
        return row.id

    async def snapshot(
        self,
        machine_id: int,
        name: str,
        *,
        parent: int | None = None,
        current: bool = False,
        state: SnapshotState = SnapshotState.READY,
        ref: str | None = "",
        tenant: str = "default",
        machine_ref: str = "m1",
    ) -> int:
        """Inserts into the inventory and, unless `ref` is None, on the provider. `ref` defaults to the name."""
        ref = name if ref == "" else ref
        at = now()
        parent_row = (await self.snapshots()).get(parent) if parent else None
        if ref is not None:
            await self.simulation.put_snapshot(
                machine_ref,
                name,
                ref=ref,
                parent_ref=parent_row.provider_ref if parent_row else None,
                current=current,
                created_at=at,
            )
        (row,) = await self.database.write(
            lambda tx: tx.all(
                _SNAPSHOT,
                tenant=tenant,
                machine_id=machine_id,
                name=name,
                state=state,
                memory=False,
                provider_ref=ref,
                created_at=at,
                parent_id=parent,
                is_current=current,
                size_bytes=None,
            )
        )
        return row.id

    async def tree(self) -> tuple[int, int, int, int]:
        """Creates a <- b <- c and a <- d on machine m1, with c current. Returns their numbers."""
        machine = await self.machine()
        a = await self.snapshot(machine, "a")
        b = await self.snapshot(machine, "b", parent=a)
        c = await self.snapshot(machine, "c", parent=b, current=True)
        d = await self.snapshot(machine, "d", parent=a)
        return a, b, c, d

    # ---- reading rows

    async def rows(self, table: Any) -> list[Any]:
        return await self.database.read(lambda tx: tx.all(_WRITTEN[table]), single=True)

    async def snapshots(self) -> dict[int, Any]:
        return {row.id: row for row in await self.rows(Snapshot)}

    async def rows_of_operations(self) -> list[Any]:
        return await self.rows(Operation)

    async def operation(self, number: int | None) -> Any:
        return next(row for row in await self.rows(Operation) if row.id == number)

    async def picture(self) -> list[tuple[Any, ...]]:
        """The snapshots in the inventory: name, state, name of the parent, whether it is current."""
        rows = await self.snapshots()
        return [
            (row.name, row.state.value, rows[row.parent_id].name if row.parent_id else None, row.is_current)
            for row in rows.values()
        ]

    async def provider_picture(self, machine_ref: str = "m1") -> list[tuple[Any, ...]]:
        """The snapshots on the provider: name, name of the parent, whether it is current."""
        contents = await self.simulation.contents(machine_ref)
        assert contents is not None
        names = {row.ref: row.name for row in contents[1]}
        return [
            (row.name, names[row.parent_ref] if row.parent_ref else None, row.ref == contents[0].current_ref)
            for row in contents[1]
        ]

    async def everything(self) -> list[Any]:
        """All rows that a command could change."""
        return [await self.rows(table) for table in _WRITTEN]

    async def states(self) -> list[str]:
        return [row.state.value for row in await self.rows(Operation)]

    async def execute(self, sql: str) -> None:
        async def work(tx: Transaction) -> None:
            await tx.rows(sql)

        await self.database.write(work)

    # ---- workers

    def worker(self, database: Database | None = None, **changes: Any) -> Worker:
        options = {"poll": 0.02, "first_retry_delay": 0.02} | changes
        drivers = options.pop("drivers", self.drivers)
        refresh = options.pop("refresh", self.record_refresh)
        return Worker(database or self.database, drivers, self.settings, refresh, **options)

    async def claim(
        self, owner: str, slots: int = 9, *, providers: Sequence[str] = ("sim",), lease: float = 600.0
    ) -> list[Claim]:
        """Claims operations without running them."""
        return await claim(self.database, owner, slots=slots, providers=providers, kinds=OPERATION_TYPES, lease=lease)

    @asynccontextmanager
    async def working(self, **changes: Any) -> AsyncIterator[Worker]:
        worker = self.worker(**changes)
        await worker.start()
        try:
            yield worker
        finally:
            await worker.stop()

    async def finish(self, **changes: Any) -> None:
        """Runs a worker until no operation is unfinished."""
        async with self.working(**changes):
            await self.until_done()

    async def until_done(self) -> None:
        async def done() -> bool:
            return not {"QUEUED", "RUNNING"} & set(await self.states())

        await until_async(done)

    async def until_state(self, operation_id: int | None, *states: str) -> None:
        async def reached() -> bool:
            return (await self.operation(operation_id)).state.value in states

        await until_async(reached)

    # ---- commands

    async def create(self, machine: Any = 1, name: str = "new", **options: Any) -> Any:
        caller, key = options.pop("caller", self.caller), options.pop("key", None)
        return await self.accept(CreateSnapshot(machine=machine, name=name, **options), caller, key)

    async def create_several(
        self, machines: Sequence[MachineTarget], name: str = "n", key: str | None = None
    ) -> list[Outcome]:
        return await self.operations.execute(CreateSnapshots(machines=machines, name=name), self.caller, ORIGIN, key)

    async def delete(self, *snapshots: Any, **options: Any) -> Any:
        caller, key = options.pop("caller", self.caller), options.pop("key", None)
        return await self.operations.execute(DeleteSnapshots(snapshots=snapshots, **options), caller, ORIGIN, key)

    async def revert(
        self, snapshot: Any, *, caller: Caller | None = None, dry_run: bool = False, key: str | None = None
    ) -> Any:
        return await self.accept(RevertVmSnapshot(snapshot=snapshot, dry_run=dry_run), caller, key)

    async def update(self, snapshot: Any, key: str | None = None, **changes: Any) -> Outcome:
        caller = changes.pop("caller", None)
        return await self.accept(UpdateSnapshot(snapshot=snapshot, **changes), caller, key)

    async def refresh(self, machine: Any = 1, key: str | None = None) -> Outcome:
        return await self.accept(RefreshMachine(machine=machine), key=key)

    async def accept(self, command: SingleCommand, caller: Caller | None = None, key: str | None = None) -> Outcome:
        (outcome,) = await self.operations.execute(command, caller or self.caller, ORIGIN, key)
        return outcome


Story = Callable[[World], Awaitable[None]]


def play(url: str, story: Story, settings: Settings = SETTINGS, *, provider: bool = True) -> None:
    """Runs `story` in a new world on the database."""

    async def run() -> None:
        database = open_world(url)
        try:
            world = World(database, settings)
            if provider:
                await world.provider()
            await story(world)
        finally:
            await database.close()

    asyncio.run(run())


def open_world(url: str) -> Database:
    return open_database(url, read_connections=2, write_connections=4, read_timeout=10)


def refusals(outcomes: Iterable[Any]) -> list[tuple[str, str] | None]:
    """Code and path of each outcome's refusal."""
    return [
        (outcome.refusal.code.value, "/".join(outcome.refusal.path)) if outcome.refusal else None
        for outcome in outcomes
    ]
