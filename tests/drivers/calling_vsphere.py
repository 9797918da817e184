"""Work on a machine of a vCenter, as the tests of the vsphere driver have it done."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gateway.drivers.base import (
    CreateCommand,
    DeleteCommand,
    DriverCommand,
    Recovery,
    ReportedSnapshot,
    RevertCommand,
    Work,
)
from gateway.drivers.vsphere.driver import VsphereDriver
from gateway.errors import OutcomeUnknown
from gateway.models import PowerState
from tests.drivers.test_contract import Watched
from tests.hypervisors.vcenter import VCenter, named, running, until

CREATE, REVERT, DELETE = "CreateSnapshot_Task", "RevertToSnapshot_Task", "RemoveSnapshot_Task"
METHODS = (CREATE, REVERT, DELETE)


class World:
    """A driver, a machine that is on, and a snapshot of it without memory."""

    def __init__(self, driver: VsphereDriver, machine: str, made: ReportedSnapshot) -> None:
        self.driver = driver
        self.machine = machine
        self.made = made

    def wish(self, method: str) -> DriverCommand:
        match method:
            case "CreateSnapshot_Task":
                return CreateCommand(self.machine, "new", "why", True)
            case "RevertToSnapshot_Task":
                return RevertCommand(self.machine, self.made.ref)
        return DeleteCommand(self.machine, self.made.ref)

    async def do(self, method: str, work: Work | None = None) -> ReportedSnapshot | None:
        """Carries a wish out."""
        work = work or Work("token")
        match self.wish(method):
            case CreateCommand() as wish:
                return await self.driver.create(work, wish)
            case RevertCommand() as wish:
                await self.driver.revert(work, wish)
            case DeleteCommand() as wish:
                await self.driver.delete(work, wish)
        return None

    async def names(self) -> list[str]:
        return [snapshot.name for snapshot in (await self.driver.snapshots(self.machine)).snapshots]

    async def power(self) -> PowerState:
        return (await self.driver.machine(self.machine)).power_state


def run(vc: VCenter, test: Callable[[World], Awaitable[None]], **options: Any) -> None:
    async def inside(driver: VsphereDriver) -> None:
        machine = await named(driver, "on")
        made = await driver.create(Work("made"), CreateCommand(machine, "made", None, False))
        vc.calls()
        await test(World(driver, machine, made))

    running(vc.driver(**options), inside)


async def begun(world: World, method: str) -> tuple["asyncio.Task[Any]", Watched]:
    """Work that is under way, and known to be."""
    watched = Watched("token")
    task = asyncio.create_task(world.do(method, watched.work))
    await until(lambda: bool(watched.told))
    return task, watched


async def results(world: World, method: str) -> Any:
    """What is there after the work has been done once."""
    if method == CREATE:
        return await world.names() == ["made", "new"]
    if method == DELETE:
        return await world.names() == []
    return await world.names() == ["made"] and await world.power() is PowerState.OFF


async def check_without_task(world: World, method: str, *, done: bool) -> None:
    """Recovers what no task is known of."""
    wish = world.wish(method)
    if method == REVERT:
        with pytest.raises(OutcomeUnknown):
            await world.driver.recover(Work("token"), wish)
        return
    found = await world.driver.recover(Work("token"), wish)
    if not done:
        assert found is Recovery.NOT_BEGUN
    else:
        assert found is Recovery.DONE if method == DELETE else isinstance(found, ReportedSnapshot)
