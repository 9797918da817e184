"""Tests recovery in the vsphere driver after the gateway was killed at each point of a command."""

import asyncio
from typing import Any

import pytest

from gateway.drivers.base import Recovery, ReportedSnapshot, Work
from gateway.errors import OutcomeUnknown, ProviderError, ProviderFull
from tests.drivers.test_contract import Watched
from tests.drivers.vsphere_scenario import (
    METHODS,
    REVERT,
    Scenario,
    check_recovery_without_task,
    run,
    started,
    was_executed_once,
)
from tests.hypervisors.vcenter import VCenter
from tests.waiting import until_async

pytestmark = pytest.mark.thorough


async def kill(task: "asyncio.Task[Any]") -> None:
    """Cancels a command while it waits, as if the gateway had been killed."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("method", METHODS)
def test_killed_before_the_call(vc: VCenter, method: str) -> None:
    async def test(scenario: Scenario) -> None:
        await check_recovery_without_task(scenario, method, done=False)
        assert vc.calls(*METHODS) == []

    run(vc, test)


@pytest.mark.parametrize("method", METHODS)
def test_killed_between_the_call_and_the_checkpoint(vc: VCenter, method: str) -> None:
    async def test(scenario: Scenario) -> None:
        class Killed(Exception):
            pass

        async def never(_: str) -> None:
            raise Killed

        vc.rule(method, "hold")
        with pytest.raises(Killed):
            await scenario.execute(method, Work("token", checkpoint=never))
        successor = Scenario(vc.driver(), scenario.machine, scenario.made)
        watched = Watched("token")
        recovery = asyncio.create_task(successor.driver.recover(watched.work, scenario.command(method)))
        await until_async(lambda: bool(watched.reports) and watched.reports[-1][0] == 42)
        assert not recovery.done()  # the task is still running
        vc.order("release")
        await asyncio.wait([recovery])
        if method == REVERT:
            assert isinstance(recovery.exception(), OutcomeUnknown)
        else:
            found = recovery.result()
            assert isinstance(found, ReportedSnapshot) or found is Recovery.DONE
        assert await was_executed_once(successor, method)
        assert vc.calls(*METHODS) == [method]
        await successor.driver.close()

    run(vc, test)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("ended", [False, True])
def test_killed_while_the_task_runs(vc: VCenter, method: str, ended: bool) -> None:
    async def test(scenario: Scenario) -> None:
        vc.rule(method, "hold")
        task, watched = await started(scenario, method)
        await kill(task)
        if ended:
            vc.order("release")
        successor = Scenario(vc.driver(), scenario.machine, scenario.made)
        recovery = asyncio.create_task(successor.driver.recover(Work("token", watched.task), scenario.command(method)))
        if not ended:
            await vc.called("RetrievePropertiesEx", 2)
            assert not recovery.done()
            vc.order("release")
        found = await recovery
        assert isinstance(found, ReportedSnapshot) or found is Recovery.DONE
        assert await was_executed_once(successor, method)
        assert await successor.driver.recover(Work("token", watched.task), scenario.command(method)) == found
        await successor.driver.close()

    run(vc, test)


@pytest.mark.parametrize("method", METHODS)
def test_recovery_after_the_provider_has_deleted_the_task(vc: VCenter, method: str) -> None:
    async def test(scenario: Scenario) -> None:
        watched = Watched("token")
        made = await scenario.execute(method, watched.work)
        vc.order("forget")
        for _ in range(2):
            if method == REVERT:
                with pytest.raises(OutcomeUnknown):
                    await scenario.driver.recover(Work("token", watched.task), scenario.command(method))
            else:
                found = await scenario.driver.recover(Work("token", watched.task), scenario.command(method))
                assert found == (made or Recovery.DONE)

    run(vc, test)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("fault", "error"), [("TaskInProgress", None), ("NoDiskSpace", ProviderFull)])
def test_killed_before_the_failure_of_the_task_was_read(
    vc: VCenter, method: str, fault: str, error: type[ProviderError] | None
) -> None:
    async def test(scenario: Scenario) -> None:
        watched = Watched("token")
        vc.rule(method, "fail", fault=fault)
        with pytest.raises(ProviderError):
            await scenario.execute(method, watched.work)
        recovery = Work("token", watched.task)
        for _ in range(2):
            if error is None:  # nothing was changed, not even by a revert
                assert await scenario.driver.recover(recovery, scenario.command(method)) is Recovery.NOT_STARTED
            else:
                with pytest.raises(error):
                    await scenario.driver.recover(recovery, scenario.command(method))

    run(vc, test)
