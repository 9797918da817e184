"""What the vsphere driver finds of its work after the gateway was killed, wherever it was."""

import asyncio
from typing import Any

import pytest

from gateway.drivers.base import Recovery, ReportedSnapshot, Work
from gateway.errors import OutcomeUnknown, ProviderError, ProviderFull
from tests.drivers.calling_vsphere import METHODS, REVERT, World, begun, check_without_task, results, run
from tests.drivers.test_contract import Watched
from tests.hypervisors.vcenter import VCenter, until

pytestmark = pytest.mark.thorough


async def abandoned(task: "asyncio.Task[Any]") -> None:
    """The gateway has been killed while it waited."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("method", METHODS)
def test_killed_before_the_call(vc: VCenter, method: str) -> None:
    async def test(world: World) -> None:
        await check_without_task(world, method, done=False)
        assert vc.calls(*METHODS) == []

    run(vc, test)


@pytest.mark.parametrize("method", METHODS)
def test_killed_between_the_call_and_the_checkpoint(vc: VCenter, method: str) -> None:
    async def test(world: World) -> None:
        class Killed(Exception):
            pass

        async def never(_: str) -> None:
            raise Killed

        vc.rule(method, "hold")
        with pytest.raises(Killed):
            await world.do(method, Work("token", checkpoint=never))
        successor = World(vc.driver(), world.machine, world.made)
        watched = Watched("token")
        recovery = asyncio.create_task(successor.driver.recover(watched.work, world.wish(method)))
        await until(lambda: bool(watched.told) and watched.told[-1][0] == 42)
        assert not recovery.done()  # the provider is still at it
        vc.order("release")
        await asyncio.wait([recovery])
        if method == REVERT:
            assert isinstance(recovery.exception(), OutcomeUnknown)
        else:
            found = recovery.result()
            assert isinstance(found, ReportedSnapshot) or found is Recovery.DONE
        assert await results(successor, method)
        assert vc.calls(*METHODS) == [method]
        await successor.driver.close()

    run(vc, test)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("ended", [False, True])
def test_killed_while_the_task_runs(vc: VCenter, method: str, ended: bool) -> None:
    async def test(world: World) -> None:
        vc.rule(method, "hold")
        task, watched = await begun(world, method)
        await abandoned(task)
        if ended:
            vc.order("release")
        successor = World(vc.driver(), world.machine, world.made)
        recovery = asyncio.create_task(successor.driver.recover(Work("token", watched.task), world.wish(method)))
        if not ended:
            await vc.called("RetrievePropertiesEx", 2)
            assert not recovery.done()
            vc.order("release")
        found = await recovery
        assert isinstance(found, ReportedSnapshot) or found is Recovery.DONE
        assert await results(successor, method)
        assert await successor.driver.recover(Work("token", watched.task), world.wish(method)) == found
        await successor.driver.close()

    run(vc, test)


@pytest.mark.parametrize("method", METHODS)
def test_killed_until_the_provider_has_forgotten_the_task(vc: VCenter, method: str) -> None:
    async def test(world: World) -> None:
        watched = Watched("token")
        made = await world.do(method, watched.work)
        vc.order("forget")
        for _ in range(2):
            if method == REVERT:
                with pytest.raises(OutcomeUnknown):
                    await world.driver.recover(Work("token", watched.task), world.wish(method))
            else:
                found = await world.driver.recover(Work("token", watched.task), world.wish(method))
                assert found == (made or Recovery.DONE)

    run(vc, test)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("fault", "error"), [("TaskInProgress", None), ("NoDiskSpace", ProviderFull)])
def test_killed_before_it_was_seen_that_the_task_had_failed(
    vc: VCenter, method: str, fault: str, error: type[ProviderError] | None
) -> None:
    async def test(world: World) -> None:
        watched = Watched("token")
        vc.rule(method, "fail", fault=fault)
        with pytest.raises(ProviderError):
            await world.do(method, watched.work)
        recovery = Work("token", watched.task)
        for _ in range(2):
            if error is None:  # nothing was begun, not even a revert
                assert await world.driver.recover(recovery, world.wish(method)) is Recovery.NOT_BEGUN
            else:
                with pytest.raises(error):
                    await world.driver.recover(recovery, world.wish(method))

    run(vc, test)
