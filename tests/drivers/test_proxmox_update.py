"""Tests updates of snapshots by the proxmox driver: what Proxmox VE stores, and errors before and after the call."""

import functools
from dataclasses import replace
from typing import Any

import pytest

from gateway.drivers.base import ReportedSnapshot, UpdateCommand, Work
from gateway.drivers.proxmox.driver import ProxmoxDriver
from gateway.errors import (
    OutcomeUnknown,
    ProviderBusy,
    ProviderDenied,
    ProviderError,
    ProviderMissing,
    ProviderRefused,
    ProviderUnavailable,
)
from tests.drivers.test_proxmox import create, failure, other_client, run
from tests.drivers.worlds.proxmox import Cluster

PATH = "nodes/pve1/qemu/100/snapshot/before/config"


def update(ref: str, description: str = "new") -> Any:
    return lambda driver: driver.update(Work("u"), UpdateCommand("100", ref, description=description))


def made(pve: Cluster) -> ReportedSnapshot:
    """Creates a snapshot before the test."""
    snapshots: list[ReportedSnapshot] = []

    async def test(driver: ProxmoxDriver) -> None:
        snapshots.append(await create()(driver))

    run(pve.driver(), test)
    return snapshots[0]


def stored(pve: Cluster, name: str = "before") -> str:
    """The description as Proxmox VE stores it."""
    text: str = pve.do("vm_snapshots", 100)[name]["description"]
    return text


def test_the_token_stays_in_the_description(pve: Cluster) -> None:
    snapshot = made(pve)

    async def test(driver: ProxmoxDriver) -> None:
        for description, text in (("new\nlines ☃", "new\nlines ☃\n\n"), ("", "")):
            for _ in range(2):
                await update(snapshot.ref, description)(driver)
                assert stored(pve) == f"{text}[snapshot-gateway:t0k3n]"
                reported = await driver.snapshots("100")
                assert reported.snapshots == [replace(snapshot, description=description or None)]
                assert reported.current_ref == snapshot.ref
        assert pve.do("paths", "PUT") == [PATH] * 4
        assert pve.do("get", "tasklog")[1:] == []  # no task but that of the create

    run(pve.driver(), test)


def test_a_snapshot_of_another_client_gets_no_token(pve: Cluster) -> None:
    other_client(pve).snapshot.post(snapname="byhand", description="of another\n")

    async def test(driver: ProxmoxDriver) -> None:
        (before,) = (await driver.snapshots("100")).snapshots
        for description in ("ours", ""):
            await update(before.ref, description)(driver)
            assert stored(pve, "byhand") == (description or " ")  # an empty parameter would be ignored
            assert (await driver.snapshots("100")).snapshots == [replace(before, description=description or None)]

    run(pve.driver(), test)


def test_a_name_is_refused_without_a_request(pve: Cluster) -> None:
    for description in (None, "new"):
        command = UpdateCommand("100", "before@1", "new", description)
        error = failure(pve.driver(), functools.partial(ProxmoxDriver.update, work=Work("u"), command=command))
        assert (type(error), error.message) == (ProviderRefused, "Proxmox VE cannot rename a snapshot.")
    assert pve.do("get", "requests") == []


def test_a_new_snapshot_with_a_used_name_is_another_one(pve: Cluster) -> None:
    snapshot = made(pve)
    pve.do("set_snapshot", 100, "before", snaptime=1_700_000_000)
    assert type(failure(pve.driver(), update(snapshot.ref))) is ProviderMissing
    assert stored(pve) == "why\n\n[snapshot-gateway:t0k3n]"


def test_a_snapshot_deleted_meanwhile_is_missing_at_the_next_attempt(pve: Cluster) -> None:
    snapshot = made(pve)
    pve.do("fail", "PUT", "/config", 500, "snapshot 'before' does not exist")
    assert type(failure(pve.driver(), update(snapshot.ref))) is ProviderUnavailable
    other_client(pve).snapshot("before").delete()
    assert type(failure(pve.driver(), update(snapshot.ref))) is ProviderMissing


def test_a_moved_machine_is_updated_on_its_new_node(pve: Cluster) -> None:
    async def test(driver: ProxmoxDriver) -> None:
        snapshot = await create()(driver)
        pve.do("change", 100, node="pve2")
        await update(snapshot.ref)(driver)
        assert stored(pve) == "new\n\n[snapshot-gateway:t0k3n]"

    run(pve.driver(), test)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ({"error": "permission_denied"}, ProviderDenied),
        (
            {"status": 500, "message": "can't lock file 'lock-100.conf' - got timeout"},
            ProviderBusy,
        ),
        ({"error": "no_quorum"}, ProviderUnavailable),
        ({"error": "no_route_to_host"}, ProviderUnavailable),
        ({"status": 500, "message": "boom"}, ProviderRefused),
        ({"status": 503, "message": "Service Unavailable"}, ProviderUnavailable),
        ({"status": 504, "message": "Gateway Timeout"}, OutcomeUnknown),
        ({"status": 596, "message": "Connection timed out"}, OutcomeUnknown),
        ({"status": 200, "message": "<html>welcome</html>", "html": True}, OutcomeUnknown),
    ],
)
def test_errors_of_the_call(pve: Cluster, fault: dict[str, Any], expected: type[ProviderError]) -> None:
    snapshot = made(pve)
    pve.do("fail", "PUT", "/config", **fault)
    assert type(failure(pve.driver(), update(snapshot.ref))) is expected
    assert stored(pve) == "why\n\n[snapshot-gateway:t0k3n]"


@pytest.mark.parametrize(("lock", "expected"), [("backup", ProviderBusy), ("suspended", ProviderRefused)])
def test_a_locked_machine_is_not_updated(pve: Cluster, lock: str, expected: type[ProviderError]) -> None:
    snapshot = made(pve)
    pve.do("change", 100, lock=lock)
    error = failure(pve.driver(), update(snapshot.ref))
    assert (type(error), error.provider_message) == (expected, f"VM is locked ({lock})")
    assert stored(pve) == "why\n\n[snapshot-gateway:t0k3n]"


def test_an_update_without_a_response_is_unknown_and_can_be_repeated(pve: Cluster) -> None:
    snapshot = made(pve)
    for fault, text in (("ignore", "why"), ("lose", "new")):
        pve.do(fault, "PUT", "/config")
        assert type(failure(pve.driver(timeout=1.0), update(snapshot.ref))) is OutcomeUnknown
        assert stored(pve) == f"{text}\n\n[snapshot-gateway:t0k3n]"
    run(pve.driver(), update(snapshot.ref))
    assert stored(pve) == "new\n\n[snapshot-gateway:t0k3n]"
