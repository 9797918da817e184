"""Tests updates of snapshots by the vsphere driver: what vSphere stores, and errors before and after the call."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from gateway.drivers.base import ReportedSnapshot, UpdateCommand, Work
from gateway.drivers.vsphere import parsing
from gateway.errors import (
    OutcomeUnknown,
    ProviderBusy,
    ProviderDenied,
    ProviderError,
    ProviderMissing,
    ProviderRefused,
    ProviderUnavailable,
)
from tests.drivers.vsphere_scenario import Scenario, run
from tests.hypervisors.vcenter import VCenter, named
from tests.waiting import until_async

UPDATE = "RenameSnapshot"


async def update(scenario: Scenario, ref: str | None = None, **change: Any) -> None:
    command = UpdateCommand(scenario.machine, ref or scenario.made.ref, **change)
    await scenario.driver.update(Work("0123456789"), command)


async def only(scenario: Scenario) -> ReportedSnapshot:
    """The only snapshot of the machine."""
    (snapshot,) = (await scenario.driver.snapshots(scenario.machine)).snapshots
    return snapshot


def stored(vc: VCenter, machine: str) -> list[tuple[str, str]]:
    """The name and description of each root snapshot, as vSphere stores them."""
    with vc.session() as session:
        values = session.read(lambda login: login.values(login.machine(machine), parsing.SNAPSHOTS))
    return [(node.name, node.description) for node in values.values["snapshot"].rootSnapshotList]


async def make_foreign(vc: VCenter, scenario: Scenario) -> str:
    """Replaces the scenario's snapshot with one made by another client. Its ref."""

    async def has_names(names: list[str]) -> bool:
        return await scenario.names() == names

    with vc.session() as session:
        session.write(lambda login: login.snapshot(scenario.made.ref).RemoveSnapshot_Task(False))
        await until_async(lambda: has_names([]))
        machine, settings = scenario.machine, ("theirs", "by hand", False, False)
        session.write(lambda login: login.machine(machine).CreateSnapshot_Task(*settings))
        await until_async(lambda: has_names(["theirs"]))
    return (await only(scenario)).ref


def test_names_are_escaped_and_the_token_stays_in_the_description(vc: VCenter) -> None:
    async def test(scenario: Scenario) -> None:
        made, machine = scenario.made, scenario.machine
        tag = "[snapshot-gateway:made]"
        await update(scenario, name="8/23 \\ 100 % ☃")
        assert stored(vc, machine) == [("8%2f23 %5c 100 %25 ☃", tag)]
        await update(scenario, description="why\x1b")  # XML cannot represent an escape character
        assert stored(vc, machine) == [("8%2f23 %5c 100 %25 ☃", f"why\ufffd\n\n{tag}")]
        assert await only(scenario) == replace(made, name="8/23 \\ 100 % ☃", description="why\ufffd")
        await update(scenario, name="plain", description="")
        assert stored(vc, machine) == [("plain", tag)]
        assert await only(scenario) == replace(made, name="plain")
        assert vc.calls(UPDATE) == [UPDATE] * 3

    run(vc, test)


@pytest.mark.parametrize("name", ["x" * 81, "/" * 27, "a\nb"])
def test_names_that_vsphere_does_not_accept_are_replaced(vc: VCenter, name: str) -> None:
    async def test(scenario: Scenario) -> None:
        for _ in range(2):
            await update(scenario, name=name)
            snapshot = await only(scenario)
            assert snapshot.name.endswith("-01234567")
            assert len(snapshot.name) <= 80
            assert snapshot.token == "made"

    run(vc, test)


def test_a_snapshot_of_another_client_gets_no_token(vc: VCenter) -> None:
    async def test(scenario: Scenario) -> None:
        ref = await make_foreign(vc, scenario)
        for change, expected in (
            ({"name": "ours"}, ("ours", "by hand")),
            ({"description": "why\x1b"}, ("ours", "why\ufffd")),
            ({"description": ""}, ("ours", "")),
        ):
            await update(scenario, ref, **change)
            assert stored(vc, scenario.machine) == [expected]
            snapshot = await only(scenario)
            assert (snapshot.name, snapshot.description, snapshot.token) == (expected[0], expected[1] or None, None)

    run(vc, test)


def test_a_snapshot_of_another_machine_is_missing(vc: VCenter) -> None:
    async def test(scenario: Scenario) -> None:
        off = await named(scenario.driver, "off")
        with pytest.raises(ProviderMissing):
            await scenario.driver.update(Work("t"), UpdateCommand(off, scenario.made.ref, "new"))
        assert vc.calls(UPDATE) == []
        assert await only(scenario) == scenario.made

    run(vc, test)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("InvalidName", ProviderRefused),
        ("NotSupported", ProviderRefused),
        ("InvalidPowerState", ProviderRefused),
        ("TaskInProgress", ProviderBusy),
        ("ConcurrentAccess", ProviderBusy),
        ("NoPermission", ProviderDenied),
        ("ManagedObjectNotFound", ProviderMissing),
        ("HostNotConnected", ProviderUnavailable),
        ("HostCommunication", OutcomeUnknown),  # the host may still execute it
    ],
)
def test_faults_are_translated(vc: VCenter, fault: str, error: type[ProviderError]) -> None:
    async def test(scenario: Scenario) -> None:
        vc.rule(UPDATE, "fault", fault=fault)
        with pytest.raises(error) as raised:
            await update(scenario, name="new")
        assert type(raised.value) is error
        assert fault in str(raised.value.provider_message)
        assert await only(scenario) == scenario.made

    run(vc, test)


@pytest.mark.thorough
@pytest.mark.parametrize("how", ["lose", "drop", "garble", "code", "hang"])
def test_a_call_without_an_answer_is_unknown_and_can_be_repeated(vc: VCenter, how: str) -> None:
    async def test(scenario: Scenario) -> None:
        vc.rule(UPDATE, how, **({"code": 503} if how == "code" else {}))
        with pytest.raises(OutcomeUnknown):
            await update(scenario, name="new", description="why")
        assert vc.calls(UPDATE) == [UPDATE]
        updated = replace(scenario.made, name="new", description="why")
        assert await only(scenario) == (updated if how == "lose" else scenario.made)
        await update(scenario, name="new", description="why")
        assert await only(scenario) == updated

    run(vc, test, timeout=2.0 if how == "hang" else 10.0)


def test_an_update_that_was_not_sent_is_unavailable(vc: VCenter) -> None:
    async def test(scenario: Scenario) -> None:
        vc.rule("RetrievePropertiesEx", "drop", times=2)
        with pytest.raises(ProviderUnavailable):
            await update(scenario, name="new")
        vc.order("expire")
        vc.rule("Login", "drop")
        with pytest.raises(ProviderUnavailable):
            await update(scenario, name="new")
        assert vc.calls(UPDATE) == []
        vc.rule(UPDATE, "fault", fault="NotAuthenticated")  # expires between the read and the write
        await update(scenario, name="new")
        assert vc.calls(UPDATE) == [UPDATE] * 2
        assert await only(scenario) == replace(scenario.made, name="new")

    run(vc, test)


def test_an_update_is_a_change_hint(vc: VCenter) -> None:
    async def test(scenario: Scenario) -> None:
        hints: Any = scenario.driver.change_hints()
        first = asyncio.ensure_future(anext(hints))
        await vc.called("WaitForUpdatesEx", 2)  # the first describes the present state
        await update(scenario, name="new")
        assert await first == scenario.machine
        await hints.aclose()

    run(vc, test)
