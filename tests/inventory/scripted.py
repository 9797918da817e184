"""A provider that says what a test has it say, and a database's inventory read back."""

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
from gateway.inventory.refresh import Inventory
from gateway.models import MachineKind, Operation, OperationKind, OperationState, PowerState
from gateway.store.database import Database
from gateway.store.statements import insert

EARLIER = datetime(2026, 1, 1, tzinfo=UTC)
LATER = EARLIER + timedelta(days=1)


def machine(ref: str, **attributes: Any) -> ReportedMachine:
    known: dict[str, Any] = {
        "kind": MachineKind.VM,
        "name": f"name of {ref}",
        "power_state": PowerState.ON,
        "created_at": EARLIER,
    }
    return ReportedMachine(ref=ref, **(known | attributes))


def snapshot(ref: str, **attributes: Any) -> ReportedSnapshot:
    known: dict[str, Any] = {"name": f"name of {ref}", "created_at": EARLIER}
    return ReportedSnapshot(ref=ref, **(known | attributes))


class ScriptedDriver(Driver):
    """Answers from attributes. `during` runs while it is asked for snapshots; errors are raised, not returned."""

    name = "scripted"

    def __init__(self) -> None:
        self.world: dict[ReportedMachine, ReportedSnapshots | ProviderError] = {}
        self.problem: ProviderError | None = None
        self.during: Callable[[], Awaitable[None]] | None = None
        self.events: asyncio.Queue[str | Exception] = asyncio.Queue()

    def put(self, seen: ReportedMachine, *snapshots: ReportedSnapshot, current: str | None = None) -> None:
        self.drop(seen.ref)
        self.world[seen] = ReportedSnapshots(snapshots, current)

    def drop(self, ref: str) -> None:
        self.world = {seen: snapshots for seen, snapshots in self.world.items() if seen.ref != ref}

    def matrix(self, kind: MachineKind) -> Matrix:
        return Matrix()

    async def machines(self) -> Sequence[ReportedMachine]:
        if self.problem is not None:
            raise self.problem
        return list(self.world)

    async def machine(self, machine_ref: str) -> ReportedMachine:
        if self.problem is not None:
            raise self.problem
        for seen in self.world:
            if seen.ref == machine_ref:
                return seen
        raise ProviderMissing("the provider has no such machine")

    async def snapshots(self, machine_ref: str) -> ReportedSnapshots:
        if self.during is not None:
            await self.during()
        answer = self.world[await self.machine(machine_ref)]
        if isinstance(answer, ProviderError):
            raise answer
        return answer

    async def hints(self) -> AsyncIterator[str]:
        while isinstance(event := await self.events.get(), str):
            yield event
        raise event

    async def create(self, work: Work, wish: CreateCommand) -> ReportedSnapshot:
        raise NotImplementedError

    async def revert(self, work: Work, wish: RevertCommand) -> None:
        raise NotImplementedError

    async def delete(self, work: Work, wish: DeleteCommand) -> None:
        raise NotImplementedError

    async def recover(self, work: Work, wish: DriverCommand) -> ReportedSnapshot | Recovery:
        raise NotImplementedError

    async def health(self) -> None:
        return None

    async def close(self) -> None:
        return None


Story = Callable[[Database, ScriptedDriver, Inventory], Awaitable[None]]


def inventory(database: Database, driver: ScriptedDriver) -> Inventory:
    return Inventory(database, {"lab": driver}, Settings())


_INSERT_OPERATION = insert(
    Operation,
    *("tenant", "kind", "state", "machine_id", "machine_kind", "machine_name", "snapshot_id"),
    *("created_at", "finished_at", "token", "wish", "issued"),
)


async def put_operation(
    database: Database,
    state: OperationState,
    *,
    kind: OperationKind = OperationKind.DELETE_SNAPSHOT,
    machine_id: int = 1,
    snapshot_id: int | None = None,
    finished_at: datetime | None = None,
    issued: bool = False,
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
            wish="{}",
            issued=issued,
        )
    )
