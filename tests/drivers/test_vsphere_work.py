"""Tests commands of the vsphere driver: success, failure, cancellation, and lost answers."""

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
from tests.drivers.test_contract import Watched
from tests.drivers.vsphere_scenario import (
    CREATE,
    DELETE,
    METHODS,
    REVERT,
    Scenario,
    check_recovery_without_task,
    run,
    started,
    was_executed_once,
)
from tests.hypervisors.vcenter import VCenter, named
from tests.waiting import until_async

pytestmark = pytest.mark.thorough

# ---- success


def test_the_power_state_after_a_revert_depends_on_memory(vc: VCenter) -> None:
    async def test(scenario: Scenario) -> None:
        driver = scenario.driver
        with_memory = await scenario.execute(CREATE)
        assert with_memory is not None
        assert [s.memory for s in (await driver.snapshots(scenario.machine)).snapshots] == [False, True]
        await scenario.execute(REVERT)
        assert await scenario.power() is PowerState.OFF
        await driver.revert(Work("r"), RevertCommand(scenario.machine, with_memory.ref))
        assert await scenario.power() is PowerState.ON
        assert (await driver.snapshots(scenario.machine)).current_ref == with_memory.ref

    run(vc, test)


def test_snapshots_of_the_same_name_are_distinguished_by_ref(vc: VCenter) -> None:
    async def test(scenario: Scenario) -> None:
        other = vc.driver()
        twin = await other.create(Work("elsewhere"), CreateCommand(scenario.machine, "made", None, False))
        await scenario.execute(DELETE)
        assert [s.ref for s in (await scenario.driver.snapshots(scenario.machine)).snapshots] == [twin.ref]
        await other.delete(Work("elsewhere"), DeleteCommand(scenario.machine, twin.ref))
        for method in (REVERT, DELETE):
            with pytest.raises(ProviderMissing):
                await scenario.execute(method)
        await other.close()

    run(vc, test)


def test_a_snapshot_of_another_machine_is_missing(vc: VCenter) -> None:
    async def test(scenario: Scenario) -> None:
        off = await named(scenario.driver, "off")
        for call in (
            scenario.driver.revert(Work("t"), RevertCommand(off, scenario.made.ref)),
            scenario.driver.delete(Work("t"), DeleteCommand(off, scenario.made.ref)),
        ):
            with pytest.raises(ProviderMissing):
                await call
        assert vc.calls(*METHODS) == []

    run(vc, test)


@pytest.mark.parametrize("method", METHODS)
def test_progress_is_reported(vc: VCenter, method: str) -> None:
    async def test(scenario: Scenario) -> None:
        vc.rule(method, "queue")
        vc.rule(method, "hold")
        task, watched = await started(scenario, method)
        assert {*watched.reports} == {(None, "Waiting in the provider's queue")}
        vc.order("release")
        await until_async(lambda: watched.reports[-1][0] == 42)
        vc.order("release")
        await task
        assert len(watched.tasks) == 1
        assert await was_executed_once(scenario, method)

    run(vc, test)


# ---- failure and cancellation


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
def test_faults_are_translated(vc: VCenter, fault: str, error: type[ProviderError]) -> None:
    async def test(scenario: Scenario) -> None:
        for method in METHODS:
            for how, tasks in (("fault", 0), ("fail", 1)):  # of the call, or of its task
                vc.rule(method, how, fault=fault)
                watched = Watched("token")
                with pytest.raises(error) as raised:
                    await scenario.execute(method, watched.work)
                assert type(raised.value) is error
                assert fault in str(raised.value.provider_message)
                assert len(watched.tasks) == tasks
        assert await scenario.names() == ["made"]
        assert await scenario.power() is PowerState.ON

    run(vc, test)


def test_a_lost_host_leaves_the_outcome_unknown(vc: VCenter) -> None:
    async def test(scenario: Scenario) -> None:
        for method in METHODS:
            vc.rule(method, "fail", fault="HostCommunication")
            with pytest.raises(OutcomeUnknown):
                await scenario.execute(method)

    run(vc, test)


def test_a_create_can_be_canceled(vc: VCenter) -> None:
    async def test(scenario: Scenario) -> None:
        vc.rule(CREATE, "hold")
        task, watched = await started(scenario, CREATE)
        watched.work.cancel_requested = lambda: True
        await vc.called("CancelTask", 1)
        vc.order("release")
        with pytest.raises(Canceled):
            await task
        with pytest.raises(Canceled):
            await scenario.driver.recover(
                Work("token", watched.task, cancel_requested=lambda: True), scenario.command(CREATE)
            )
        assert vc.calls("CancelTask") == []
        assert await scenario.names() == ["made"]

    run(vc, test)


@pytest.mark.parametrize("method", [REVERT, DELETE])
def test_reverts_and_deletes_are_not_canceled(vc: VCenter, method: str) -> None:
    async def test(scenario: Scenario) -> None:
        vc.rule(method, "hold")
        task, watched = await started(scenario, method)
        watched.work.cancel_requested = lambda: True
        vc.calls()
        calls = await vc.called("RetrievePropertiesEx", 2)
        vc.order("release")
        await task
        assert "CancelTask" not in [*calls, *vc.calls()]
        assert await was_executed_once(scenario, method)

    run(vc, test)


# ---- lost answers


@pytest.mark.parametrize("method", METHODS)
def test_a_lost_answer_is_recovered_without_a_second_call(vc: VCenter, method: str) -> None:
    async def test(scenario: Scenario) -> None:
        vc.rule(method, "lose")
        with pytest.raises(OutcomeUnknown):
            await scenario.execute(method)
        assert vc.calls(*METHODS) == [method]
        for _ in range(2):
            await check_recovery_without_task(scenario, method, done=True)
        assert await was_executed_once(scenario, method)

    run(vc, test)


@pytest.mark.parametrize("how", [{"how": "drop"}, {"how": "garble"}, {"how": "code", "code": 503}, {"how": "hang"}])
def test_a_call_without_an_answer_is_unknown_and_not_repeated(vc: VCenter, how: dict[str, Any]) -> None:
    async def test(scenario: Scenario) -> None:
        for method in METHODS:
            vc.rule(method, **how)
        errors = await asyncio.gather(*(scenario.execute(method) for method in METHODS), return_exceptions=True)
        assert [type(error) for error in errors] == [OutcomeUnknown] * 3
        assert sorted(vc.calls(*METHODS)) == sorted(METHODS)
        for method in METHODS:
            await check_recovery_without_task(scenario, method, done=False)

    run(vc, test, timeout=2.0 if how["how"] == "hang" else 10.0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("cause", ["drop", "denied", "deleted"])
def test_an_unreadable_task_is_unknown_until_it_can_be_read(vc: VCenter, method: str, cause: str) -> None:
    async def test(scenario: Scenario) -> None:
        vc.rule(method, "hold")
        task, watched = await started(scenario, method)
        if cause == "drop":
            vc.rule("RetrievePropertiesEx", "drop", times=2)
        elif cause == "denied":
            vc.rule("RetrievePropertiesEx", "fault", fault="NoPermission")
        else:
            vc.order("forget")
        with pytest.raises(OutcomeUnknown):
            await task
        vc.order("release")
        if cause != "deleted":
            found = await scenario.driver.recover(watched.work, scenario.command(method))
            assert isinstance(found, ReportedSnapshot) or found is Recovery.DONE
            assert await was_executed_once(scenario, method)
        assert vc.calls(*METHODS) == [method]

    run(vc, test)


def test_errors_during_recovery_are_not_outcomes(vc: VCenter) -> None:
    async def test(scenario: Scenario) -> None:
        for method in METHODS:
            for task_ref in (None, "task-1"):
                recovery = Work("token", task_ref)
                vc.rule("RetrievePropertiesEx", "drop", times=2)
                with pytest.raises(ProviderUnavailable):
                    await scenario.driver.recover(recovery, scenario.command(method))
                vc.rule("RetrievePropertiesEx", "fault", fault="NoPermission")
                with pytest.raises(OutcomeUnknown):
                    await scenario.driver.recover(recovery, scenario.command(method))

    run(vc, test)
