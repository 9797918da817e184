"""What the vsphere driver does on a vCenter: work that ends well, badly, late, unheard of, or after the gateway did."""

import asyncio
from typing import Any

import pytest

from gateway.drivers.base import (
    Canceled,
    CreateCommand,
    DeleteCommand,
    Recovery,
    ReportedSnapshot,
    RevertCommand,
    Work,
)
from gateway.errors import (
    OutcomeUnknown,
    ProviderBusy,
    ProviderDenied,
    ProviderError,
    ProviderFull,
    ProviderMissing,
    ProviderRefused,
    ProviderUnavailable,
)
from gateway.models import PowerState
from tests.drivers.calling_vsphere import (
    CREATE,
    DELETE,
    METHODS,
    REVERT,
    World,
    begun,
    check_without_task,
    results,
    run,
)
from tests.drivers.test_contract import Watched
from tests.hypervisors.vcenter import VCenter, named, until

pytestmark = pytest.mark.thorough

# ---- work that ends well


def test_a_revert_turns_the_machine_on_or_off_by_what_the_snapshot_has(vc: VCenter) -> None:
    async def test(world: World) -> None:
        driver = world.driver
        with_memory = await world.do(CREATE)
        assert with_memory is not None
        assert [s.memory for s in (await driver.snapshots(world.machine)).snapshots] == [False, True]
        await world.do(REVERT)
        assert await world.power() is PowerState.OFF
        await driver.revert(Work("r"), RevertCommand(world.machine, with_memory.ref))
        assert await world.power() is PowerState.ON
        assert (await driver.snapshots(world.machine)).current_ref == with_memory.ref

    run(vc, test)


def test_snapshots_of_the_same_name_are_known_by_their_refs(vc: VCenter) -> None:
    async def test(world: World) -> None:
        other = vc.driver()
        twin = await other.create(Work("elsewhere"), CreateCommand(world.machine, "made", None, False))
        await world.do(DELETE)
        assert [s.ref for s in (await world.driver.snapshots(world.machine)).snapshots] == [twin.ref]
        await other.delete(Work("elsewhere"), DeleteCommand(world.machine, twin.ref))
        for method in (REVERT, DELETE):
            with pytest.raises(ProviderMissing):
                await world.do(method)
        await other.close()

    run(vc, test)


def test_a_snapshot_of_another_machine_is_not_touched(vc: VCenter) -> None:
    async def test(world: World) -> None:
        off = await named(world.driver, "off")
        for call in (
            world.driver.revert(Work("t"), RevertCommand(off, world.made.ref)),
            world.driver.delete(Work("t"), DeleteCommand(off, world.made.ref)),
        ):
            with pytest.raises(ProviderMissing):
                await call
        assert vc.calls(*METHODS) == []

    run(vc, test)


@pytest.mark.parametrize("method", METHODS)
def test_progress_is_what_the_provider_reports(vc: VCenter, method: str) -> None:
    async def test(world: World) -> None:
        vc.rule(method, "queue")
        vc.rule(method, "hold")
        task, watched = await begun(world, method)
        assert {*watched.told} == {(None, "Waiting in the provider's queue")}
        vc.order("release")
        await until(lambda: watched.told[-1][0] == 42)
        vc.order("release")
        await task
        assert len(watched.tasks) == 1
        assert await results(world, method)

    run(vc, test)


# ---- work that ends badly


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("TaskInProgress", ProviderBusy),
        ("ConcurrentAccess", ProviderBusy),
        ("InvalidState", ProviderBusy),
        ("InvalidPowerState", ProviderRefused),
        ("SnapshotFault", ProviderRefused),
        ("NotSupported", ProviderRefused),
        ("RequestCanceled", ProviderRefused),
        ("SystemError", ProviderRefused),
        ("NoDiskSpace", ProviderFull),
        ("InsufficientStorageSpace", ProviderFull),
        ("TooManySnapshotLevels", ProviderFull),
        ("NoPermission", ProviderDenied),
        ("HostNotConnected", ProviderUnavailable),
        ("ManagedObjectNotFound", ProviderMissing),
    ],
)
def test_each_fault_is_what_somebody_can_do_about_it(vc: VCenter, fault: str, error: type[ProviderError]) -> None:
    async def test(world: World) -> None:
        for method in METHODS:
            for how, tasks in (("fault", 0), ("fail", 1)):  # of the call, or of its task
                vc.rule(method, how, fault=fault)
                watched = Watched("token")
                with pytest.raises(error) as raised:
                    await world.do(method, watched.work)
                assert type(raised.value) is error
                assert fault in str(raised.value.provider_message)
                assert len(watched.tasks) == tasks
        assert await world.names() == ["made"]
        assert await world.power() is PowerState.ON

    run(vc, test)


def test_a_host_that_is_lost_at_work_leaves_a_doubt(vc: VCenter) -> None:
    async def test(world: World) -> None:
        for method in METHODS:
            vc.rule(method, "fail", fault="HostCommunication")
            with pytest.raises(OutcomeUnknown):
                await world.do(method)

    run(vc, test)


def test_a_create_can_be_canceled(vc: VCenter) -> None:
    async def test(world: World) -> None:
        vc.rule(CREATE, "hold")
        task, watched = await begun(world, CREATE)
        watched.work.cancelled = lambda: True
        await vc.called("CancelTask", 1)
        vc.order("release")
        with pytest.raises(Canceled):
            await task
        with pytest.raises(Canceled):
            await world.driver.recover(Work("token", watched.task, cancelled=lambda: True), world.wish(CREATE))
        assert vc.calls("CancelTask") == []
        assert await world.names() == ["made"]

    run(vc, test)


@pytest.mark.parametrize("method", [REVERT, DELETE])
def test_what_would_leave_a_half_is_not_canceled(vc: VCenter, method: str) -> None:
    async def test(world: World) -> None:
        vc.rule(method, "hold")
        task, watched = await begun(world, method)
        watched.work.cancelled = lambda: True
        vc.calls()
        seen = await vc.called("RetrievePropertiesEx", 2)
        vc.order("release")
        await task
        assert "CancelTask" not in [*seen, *vc.calls()]
        assert await results(world, method)

    run(vc, test)


# ---- work whose end is not heard of


@pytest.mark.parametrize("method", METHODS)
def test_an_answer_that_is_lost_is_looked_for_and_nothing_is_done_twice(vc: VCenter, method: str) -> None:
    async def test(world: World) -> None:
        vc.rule(method, "lose")
        with pytest.raises(OutcomeUnknown):
            await world.do(method)
        assert vc.calls(*METHODS) == [method]
        for _ in range(2):
            await check_without_task(world, method, done=True)
        assert await results(world, method)

    run(vc, test)


@pytest.mark.parametrize("how", [{"how": "drop"}, {"how": "garble"}, {"how": "code", "code": 503}, {"how": "hang"}])
def test_a_call_without_an_answer_leaves_a_doubt_and_is_made_once(vc: VCenter, how: dict[str, Any]) -> None:
    async def test(world: World) -> None:
        for method in METHODS:
            vc.rule(method, **how)
        with_doubt = await asyncio.gather(*(world.do(method) for method in METHODS), return_exceptions=True)
        assert [type(error) for error in with_doubt] == [OutcomeUnknown] * 3
        assert sorted(vc.calls(*METHODS)) == sorted(METHODS)
        for method in METHODS:
            await check_without_task(world, method, done=False)

    run(vc, test, timeout=2.0 if how["how"] == "hang" else 10.0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("trouble", ["drop", "denied", "forgotten"])
def test_what_cannot_be_asked_about_is_in_doubt_until_it_can(vc: VCenter, method: str, trouble: str) -> None:
    async def test(world: World) -> None:
        vc.rule(method, "hold")
        task, watched = await begun(world, method)
        if trouble == "drop":
            vc.rule("RetrievePropertiesEx", "drop", times=2)
        elif trouble == "denied":
            vc.rule("RetrievePropertiesEx", "fault", fault="NoPermission")
        else:
            vc.order("forget")
        with pytest.raises(OutcomeUnknown):
            await task
        vc.order("release")
        if trouble != "forgotten":
            found = await world.driver.recover(watched.work, world.wish(method))
            assert isinstance(found, ReportedSnapshot) or found is Recovery.DONE
            assert await results(world, method)
        assert vc.calls(*METHODS) == [method]

    run(vc, test)


def test_recovery_does_not_take_trouble_for_an_answer(vc: VCenter) -> None:
    async def test(world: World) -> None:
        for method in METHODS:
            for task_ref in (None, "task-1"):
                recovery = Work("token", task_ref)
                vc.rule("RetrievePropertiesEx", "drop", times=2)
                with pytest.raises(ProviderUnavailable):
                    await world.driver.recover(recovery, world.wish(method))
                vc.rule("RetrievePropertiesEx", "fault", fault="NoPermission")
                with pytest.raises(OutcomeUnknown):
                    await world.driver.recover(recovery, world.wish(method))

    run(vc, test)
