"""A vsphere driver with a running machine and a snapshot, and the commands that the tests send to it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gateway.drivers.base import (
    CreateCommand,
    DeleteCommand,
    RecoverableCommand,
    Recovery,
    ReportedSnapshot,
    RevertCommand,
    Work,
)
from gateway.drivers.vsphere.driver import VsphereDriver
from gateway.errors import OutcomeUnknown
from gateway.models import PowerState
from tests.drivers.test_contract import Watched
from tests.hypervisors.vcenter import VCenter, named, running
from tests.waiting import until_async

CREATE, REVERT, DELETE = "CreateSnapshot_Task", "RevertToSnapshot_Task", "RemoveSnapshot_Task"
METHODS = (CREATE, REVERT, DELETE)


class Scenario:
    """A driver, a running machine, and a snapshot of it without memory."""

    def __init__(self, driver: VsphereDriver, machine: str, made: ReportedSnapshot) -> None:
        self.driver = driver
        self.machine = machine
        self.made = made

    def command(self, method: str) -> RecoverableCommand:
        match method:
            case "CreateSnapshot_Task":
                return CreateCommand(self.machine, "new", "why", True)
            case "RevertToSnapshot_Task":
                return RevertCommand(self.machine, self.made.ref)
        return DeleteCommand(self.machine, self.made.ref)

    async def execute(self, method: str, work: Work | None = None) -> ReportedSnapshot | None:
        """Executes the command of a method."""
        work = work or Work("token")
        match self.command(method):
            case CreateCommand() as command:
                return await self.driver.create(work, command)
            case RevertCommand() as command:
                await self.driver.revert(work, command)
            case DeleteCommand() as command:
                await self.driver.delete(work, command)
        return None

    async def names(self) -> list[str]:
        return [snapshot.name for snapshot in (await self.driver.snapshots(self.machine)).snapshots]

    async def power(self) -> PowerState:
        return (await self.driver.machine(self.machine)).power_state


def run(vc: VCenter, test: Callable[[Scenario], Awaitable[None]], **options: Any) -> None:
    async def inside(driver: VsphereDriver) -> None:
        machine = await named(driver, "on")
        made = await driver.create(Work("made"), CreateCommand(machine, "made", None, False))
        vc.calls()
        await test(Scenario(driver, machine, made))

    running(vc.driver(**options), inside)


async def started(scenario: Scenario, method: str) -> tuple["asyncio.Task[Any]", Watched]:
    """Starts a command, and returns when it has reported progress."""
    watched = Watched("token")
    task = asyncio.create_task(scenario.execute(method, watched.work))
    await until_async(lambda: bool(watched.reports))
    return task, watched


async def was_executed_once(scenario: Scenario, method: str) -> Any:
    """Whether the provider's state is that after one execution of the command."""
    if method == CREATE:
        return await scenario.names() == ["made", "new"]
    if method == DELETE:
        return await scenario.names() == []
    return await scenario.names() == ["made"] and await scenario.power() is PowerState.OFF


async def check_recovery_without_task(scenario: Scenario, method: str, *, done: bool) -> None:
    """Recovers a command without a checkpointed task, and asserts the outcome."""
    command = scenario.command(method)
    if method == REVERT:
        with pytest.raises(OutcomeUnknown):
            await scenario.driver.recover(Work("token"), command)
        return
    found = await scenario.driver.recover(Work("token"), command)
    if not done:
        assert found is Recovery.NOT_STARTED
    else:
        assert found is Recovery.DONE if method == DELETE else isinstance(found, ReportedSnapshot)
