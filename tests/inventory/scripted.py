"""A driver whose answers are set by the test, and helpers that build machines, snapshots and operations."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from gateway.config import Settings
from gateway.drivers.base import (
    CreateCommand,
    DeleteCommand,
    Driver,
    DriverCommand,
    Matrix,
    Recovery,
    ReportedMachine,
    ReportedSnapshot,
    ReportedSnapshots,
    RevertCommand,
    Work,
)
from gateway.errors import ProviderError, ProviderMissing
from gateway.inventory.refresh import InventoryRefresher
from gateway.models import MachineKind, Operation, OperationKind, OperationState, PowerState, SnapshotAction
from gateway.store.database import Database
from gateway.store.statements import insert

EARLIER = datetime(2026, 1, 1, tzinfo=UTC)
LATER = EARLIER + timedelta(days=1)


def machine(ref: str, **attributes: Any) -> ReportedMachine:
    defaults: dict[str, Any] = {
        "kind": MachineKind.VM,
        "name": f"name of {ref}",
        "power_state": PowerState.ON,
        "created_at": EARLIER,
    }
    return ReportedMachine(ref=ref, **(defaults | attributes))


def snapshot(ref: str, **attributes: Any) -> ReportedSnapshot:
    defaults: dict[str, Any] = {"name": f"name of {ref}", "created_at": EARLIER}
    return ReportedSnapshot(ref=ref, **(defaults | attributes))


class ScriptedDriver(Driver):
    """Answers from its attributes. `during` runs inside each call of `snapshots`. Errors in `world` are raised."""

    name = "scripted"

    def __init__(self) -> None:
        self.world: dict[ReportedMachine, ReportedSnapshots | ProviderError] = {}
        self.problem: ProviderError | None = None
        self.during: Callable[[], Awaitable[None]] | None = None
        self.events: asyncio.Queue[str | Exception] = asyncio.Queue()

    def put(self, reported: ReportedMachine, *snapshots: ReportedSnapshot, current: str | None = None) -> None:
        self.drop(reported.ref)
        self.world[reported] = ReportedSnapshots(snapshots, current)

    def drop(self, ref: str) -> None:
        self.world = {found: snapshots for found, snapshots in self.world.items() if found.ref != ref}

    def matrix(self, kind: MachineKind) -> Matrix:
        return Matrix(set(SnapshotAction))

    async def machines(self) -> Sequence[ReportedMachine]:
        if self.problem is not None:
            raise self.problem
        return list(self.world)

    async def machine(self, machine_ref: str) -> ReportedMachine:
        if self.problem is not None:
            raise self.problem
        for found in self.world:
            if found.ref == machine_ref:
                return found
        raise ProviderMissing("The provider has no such machine.")

    async def snapshots(self, machine_ref: str) -> ReportedSnapshots:
        if self.during is not None:
            await self.during()
        answer = self.world[await self.machine(machine_ref)]
        if isinstance(answer, ProviderError):
            raise answer
        return answer

    async def change_hints(self) -> AsyncIterator[str]:
        while isinstance(event := await self.events.get(), str):
            yield event
        raise event

    async def create(self, work: Work, command: CreateCommand) -> ReportedSnapshot:
        raise NotImplementedError

    async def revert(self, work: Work, command: RevertCommand) -> None:
        raise NotImplementedError

    async def delete(self, work: Work, command: DeleteCommand) -> None:
        raise NotImplementedError

    async def recover(self, work: Work, command: DriverCommand) -> ReportedSnapshot | Recovery:
        raise NotImplementedError

    async def health(self) -> None:
        return None

    async def close(self) -> None:
        return None


Scenario = Callable[[Database, ScriptedDriver, InventoryRefresher], Awaitable[None]]


def inventory(database: Database, driver: ScriptedDriver) -> InventoryRefresher:
    return InventoryRefresher(database, {"lab": driver}, Settings())


_INSERT_OPERATION = insert(
    Operation,
    *("tenant", "kind", "state", "machine_id", "machine_kind", "machine_name", "snapshot_id"),
    *("created_at", "finished_at", "token", "payload", "dispatched"),
)


async def put_operation(
    database: Database,
    state: OperationState,
    *,
    kind: OperationKind = OperationKind.DELETE_SNAPSHOT,
    machine_id: int = 1,
    snapshot_id: int | None = None,
    finished_at: datetime | None = None,
    dispatched: bool = False,
) -> None:
    values = {"tenant": "default", "machine_kind": MachineKind.VM, "machine_name": "", "snapshot_id": snapshot_id}
    times = {"created_at": EARLIER, "finished_at": finished_at}
    await database.write(
        lambda tx: tx.first(
            _INSERT_OPERATION,
            **values,
            **times,
            kind=kind,
            state=state,
            machine_id=machine_id,
            token="t",
            payload="{}",
            dispatched=dispatched,
        )
    )
