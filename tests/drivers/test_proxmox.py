"""Tests what the proxmox driver reads, and how it classifies errors."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from proxmoxer import ProxmoxAPI
from proxmoxer.backends.https import Backend

from gateway.drivers.base import (
    CreateCommand,
    DeleteCommand,
    ReportedMachine,
    ReportedSnapshot,
    ReportedSnapshots,
    RevertCommand,
    Work,
)
from gateway.drivers.options import Secret
from gateway.drivers.proxmox.api import Client
from gateway.drivers.proxmox.driver import ProxmoxDriver
from gateway.drivers.threads import Threads
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
from gateway.models import MachineKind, PowerState
from tests.drivers.worlds.proxmox import Cluster

Test = Callable[[ProxmoxDriver], Awaitable[None]]


def run(driver: ProxmoxDriver, test: Test) -> None:
    async def inside() -> None:
        try:
            await test(driver)
        finally:
            await driver.close()

    asyncio.run(inside())


def failure(driver: ProxmoxDriver, call: Callable[[ProxmoxDriver], Awaitable[Any]]) -> ProviderError:
    """The error that the call raises."""
    caught: list[ProviderError] = []

    async def test(driver: ProxmoxDriver) -> None:
        with pytest.raises(ProviderError) as raised:
            await call(driver)
        caught.append(raised.value)

    run(driver, test)
    return caught[0]


def create(name: str = "before", token: str = "t0k3n", *, memory: bool = False, machine: str = "100") -> Any:
    return lambda driver: driver.create(Work(token), CreateCommand(machine, name, "why", memory))


def other_client(pve: Cluster) -> Any:
    """The API of the machine `web`, for a client other than the gateway."""
    host, port = pve.address.removeprefix("https://").split(":")
    api = ProxmoxAPI(host, port=port, user="gateway@pve", password="secret", verify_ssl=pve.ca_file)
    return api.nodes("pve1").qemu(100)


# ---- reads


def vm(
    ref: str, name: str, power: PowerState, host: str = "pve1", snapshot_blocker: str | None = None
) -> ReportedMachine:
    return ReportedMachine(
        ref=ref, kind=MachineKind.VM, name=name, power_state=power, host=host, snapshot_blocker=snapshot_blocker
    )


def test_only_qemu_machines_are_reported(pve: Cluster) -> None:
    async def test(driver: ProxmoxDriver) -> None:
        machines = await driver.machines()
        assert machines == [
            vm("100", "web", PowerState.ON),
            vm("101", "off", PowerState.OFF),
            vm("102", "paused", PowerState.SUSPENDED),
            vm(
                "103",
                "hibernated",
                PowerState.SUSPENDED,
                snapshot_blocker="The machine is hibernated. Start it first.",
            ),
            vm(
                "104",
                "golden",
                PowerState.OFF,
                snapshot_blocker="The machine is a template, which cannot be snapshotted.",
            ),
            vm("105", "elsewhere", PowerState.ON, "pve2"),
        ]
        assert [await driver.machine(machine.ref) for machine in machines] == machines

    run(pve.driver(), test)


def test_machines_of_an_offline_node_are_reported_as_unknown(pve: Cluster) -> None:
    async def test(driver: ProxmoxDriver) -> None:
        before = await driver.machines()
        pve.do("set_node_offline", "pve2")
        unknown = vm("105", "elsewhere", PowerState.UNKNOWN, "pve2")
        for _ in range(2):
            assert await driver.machines() == [*before[:-1], unknown]
            assert await driver.machine("105") == unknown
            with pytest.raises(ProviderUnavailable) as raised:
                await driver.snapshots("105")
            assert raised.value.provider_message == "No route to host"
            with pytest.raises(ProviderUnavailable):
                await create(machine="105")(driver)
            with pytest.raises(ProviderRefused, match="power state is unknown"):
                await create(machine="105", memory=True)(driver)

    run(pve.driver(), test)


def test_a_node_that_fails_to_list_does_not_hide_its_machines(pve: Cluster) -> None:
    pve.do("fail", "GET", "/nodes/pve2/qemu", 500, "unable to connect to the daemon")

    async def test(driver: ProxmoxDriver) -> None:
        assert (await driver.machines())[-1] == vm("105", "elsewhere", PowerState.UNKNOWN, "pve2")

    run(pve.driver(), test)


def test_a_moved_machine_is_found_on_its_new_node(pve: Cluster) -> None:
    async def test(driver: ProxmoxDriver) -> None:
        first = await create("first")(driver)
        pve.do("change", 100, node="pve2")
        assert (await driver.machine("100")).host == "pve2"
        pve.do("change", 100, node="pve1")
        second = await create("second", token="other")(driver)
        assert (await driver.snapshots("100")) == ReportedSnapshots([first, second], second.ref)

    run(pve.driver(), test)


def test_changes_by_other_clients_are_reported(pve: Cluster) -> None:
    async def test(driver: ProxmoxDriver) -> None:
        web = other_client(pve)
        web.snapshot.post(snapname="byhand", description="of another\n", vmstate=1)
        pve.do("set_snapshot", 100, "byhand", snaptime=1_700_000_000)
        other = ReportedSnapshot(
            ref="byhand@1700000000",
            name="byhand",
            created_at=datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC),
            description="of another",
            memory=True,
        )
        assert await driver.snapshots("100") == ReportedSnapshots([other], other.ref)
        ours = await create("ours")(driver)
        web.snapshot("byhand").rollback.post()
        assert await driver.snapshots("100") == ReportedSnapshots([other, ours], other.ref)
        assert (await driver.machine("100")).power_state is PowerState.OFF
        web.snapshot("byhand").delete()
        assert [each.ref for each in (await driver.snapshots("100")).snapshots] == [ours.ref]
        web.snapshot.post(snapname="byhand")  # a new snapshot with a used name
        before = await driver.snapshots("100")
        for _ in range(2):
            with pytest.raises(ProviderMissing):
                await driver.revert(Work("r"), RevertCommand("100", other.ref))
            with pytest.raises(ProviderMissing):
                await driver.delete(Work("d"), DeleteCommand("100", other.ref))
        assert await driver.snapshots("100") == before

    run(pve.driver(), test)


def test_incomplete_snapshots_are_not_ready_and_can_be_deleted(pve: Cluster) -> None:
    async def test(driver: ProxmoxDriver) -> None:
        made = [await create(name, token=name)(driver) for name in ("whole", "half", "deleted")]
        pve.do("set_snapshot", 100, "half", snapstate="prepare")
        pve.do("set_snapshot", 100, "deleted", snapstate="delete")
        assert [each.ready for each in (await driver.snapshots("100")).snapshots] == [True, False, False]
        with pytest.raises(ProviderRefused) as raised:
            await driver.revert(Work("r"), RevertCommand("100", made[1].ref))
        assert raised.value.provider_message == "unable to rollback to incomplete snapshot (snapstate = prepare)"
        for snapshot in made:
            await driver.delete(Work("d"), DeleteCommand("100", snapshot.ref))
        assert pve.do("get", "forced") == [False, True, False]
        assert await driver.snapshots("100") == ReportedSnapshots([])

    run(pve.driver(), test)


def test_a_cycle_of_parents_is_not_followed_endlessly(pve: Cluster) -> None:
    async def test(driver: ProxmoxDriver) -> None:
        a, b = [await create(name, token=name)(driver) for name in ("aa", "bb")]
        pve.do("set_snapshot", 100, "aa", parent="bb")
        reported = (await driver.snapshots("100")).snapshots
        assert {snapshot.ref: snapshot.parent_ref for snapshot in reported} == {a.ref: b.ref, b.ref: a.ref}

    run(pve.driver(), test)


# ---- odd data


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *[(value, True) for value in (1, "1", True, "yes", "on", "True")],
        *[(value, False) for value in (0, "0", False, "no", "off", "false", "", None)],
    ],
    ids=repr,
)
def test_booleans_in_all_of_their_forms(value: object, expected: bool) -> None:
    machine = {"type": "qemu", "vmid": 1, "node": "n0", "name": "a", "template": value}
    answers = {
        "cluster/resources": [machine],
        "nodes/n0/qemu": [machine],
        "nodes/n0/qemu/1/snapshot": [{"name": "s", "snaptime": 1, "vmstate": value}, {"name": "current"}],
    }

    async def test(driver: ProxmoxDriver) -> None:
        [found] = await driver.machines()
        assert (found.snapshot_blocker is not None, found.problem) == (expected, None)
        reported = await driver.snapshots("1")
        assert ([each.memory for each in reported.snapshots], reported.problem) == ([expected], None)

    run(ProxmoxDriver(Answering(answers), Threads(1), Threads(1)), test)


def test_a_machine_keeps_its_name_while_its_node_is_offline() -> None:
    """As in issue 46633 of Ansible: its entry then has no name. It is unknown to a gateway that was started since."""
    machine = {"type": "qemu", "vmid": 1, "node": "n0", "name": "web", "status": "running"}
    nameless = {"type": "qemu", "vmid": 1, "node": "n0", "status": "unknown"}
    answers: dict[str, Any] = {"cluster/resources": [machine], "nodes/n0/qemu": [machine]}
    offline = [nameless, {"type": "node", "node": "n0", "status": "offline"}]

    async def test(driver: ProxmoxDriver) -> None:
        assert [each.name for each in await driver.machines()] == ["web"]
        answers["cluster/resources"] = offline
        for _ in range(2):
            assert [(each.name, each.power_state, each.problem) for each in await driver.machines()] == [
                ("web", PowerState.UNKNOWN, None)
            ]

    run(ProxmoxDriver(Answering(answers), Threads(1), Threads(1)), test)

    async def restarted(driver: ProxmoxDriver) -> None:
        assert [each.name for each in await driver.machines()] == ["VM 1"]

    run(ProxmoxDriver(Answering(answers), Threads(1), Threads(1)), restarted)


def test_a_snapshot_whose_parent_was_deleted_is_a_root() -> None:
    """As in pull request 346 of cv4pve-admin: Proxmox VE keeps the name of the parent. It is no problem."""
    entries = [{"name": "b", "snaptime": 2, "parent": "rotated"}, {"name": "c", "snaptime": 3, "parent": "b"}]
    answers = {
        "cluster/resources": [{"type": "qemu", "vmid": 1, "node": "n0"}],
        "nodes/n0/qemu/1/snapshot": [*entries, {"name": "current", "parent": "c"}],
    }

    async def test(driver: ProxmoxDriver) -> None:
        reported = await driver.snapshots("1")
        assert [(each.ref, each.parent_ref) for each in reported.snapshots] == [("b@2", None), ("c@3", "b@2")]
        assert (reported.current_ref, reported.problem) == ("c@3", None)

    run(ProxmoxDriver(Answering(answers), Threads(1), Threads(1)), test)


@pytest.mark.parametrize("vmid", [138, "138"], ids=repr)
def test_a_vmid_is_a_number_or_text(vmid: int | str) -> None:
    """As in issue 47 of proxmox-exporter: it differs between versions."""
    answers = {"cluster/resources": [{"type": "qemu", "vmid": vmid, "node": "n0"}], "nodes/n0/qemu": [{"vmid": vmid}]}

    async def test(driver: ProxmoxDriver) -> None:
        assert [(each.ref, each.name) for each in await driver.machines()] == [("138", "VM 138")]

    run(ProxmoxDriver(Answering(answers), Threads(1), Threads(1)), test)


@pytest.mark.parametrize("entry", [{"name": "s", "snaptime": 1, "description": {}}, {"name": [1]}])
def test_a_create_is_unknown_while_a_snapshot_may_be_its_own(entry: dict[str, Any]) -> None:
    machine = {"type": "qemu", "vmid": 1, "node": "n0", "name": "a"}
    answers = {
        "cluster/resources": [machine],
        "nodes/n0/tasks": [],
        "nodes/n0/qemu/1/snapshot": [entry, {"name": "current"}],
    }
    driver = ProxmoxDriver(Answering(answers), Threads(1), Threads(1))
    command = CreateCommand("1", "s", None, False)
    assert type(failure(driver, lambda driver: driver.recover(Work("t"), command))) is OutcomeUnknown


# ---- login


class Answering(Client):
    """A client whose reads return these values, by path."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self._answers = answers

    def call(self, change: bool, method: str, path: str, parameters: dict[str, Any]) -> Any:
        return self._answers[path]

    def close(self) -> None:
        pass


def _machines(number: int, nodes: int) -> list[dict[str, Any]]:
    return [{"type": "qemu", "vmid": vmid, "node": f"n{vmid % nodes}"} for vmid in range(1, number + 1)]


@pytest.mark.parametrize(
    ("machines", "snapshots", "message"),
    [
        (_machines(50_001, 1), 0, "The provider lists more than 50,000 machines or snapshots."),
        (_machines(1_001, 1_001), 0, "The provider lists more than 1,000 nodes."),
        (_machines(1, 1), 50_001, "The provider lists more than 50,000 machines or snapshots."),
    ],
)
def test_endless_listings_are_refused(machines: list[dict[str, Any]], snapshots: int, message: str) -> None:
    entries = [{"name": f"s{number}", "snaptime": 1} for number in range(snapshots)]
    answers = {
        "cluster/resources": machines,
        "nodes/n0/qemu": [],
        "nodes/n0/qemu/1/snapshot": [*entries, {"name": "current"}],
    }
    answers |= {f"nodes/n{number}/qemu": [] for number in range(1_001)}

    async def read(driver: ProxmoxDriver) -> None:
        await driver.machines()
        await driver.snapshots("1")

    error = failure(ProxmoxDriver(Answering(answers), Threads(4), Threads(4)), read)
    assert (type(error), error.message) == (ProviderUnavailable, message)


def test_an_expired_login_is_renewed(pve: Cluster) -> None:
    async def test(driver: ProxmoxDriver) -> None:
        await driver.health()
        pve.do("revoke_tickets")
        await create()(driver)
        pve.do("revoke_tickets")
        pve.do("set", password="changed")
        for _ in range(2):
            with pytest.raises(ProviderDenied, match="does not accept the gateway's credentials"):
                await driver.machines()

    run(pve.driver(), test)


def test_an_api_token_is_accepted(pve: Cluster) -> None:
    async def test(driver: ProxmoxDriver) -> None:
        await driver.health()
        assert (await create()(driver)).name == "before"
        assert pve.do("paths", "POST") == ["nodes/pve1/qemu/100/snapshot"]  # and no login

    run(pve.driver(token_name="snapshots", token_value=Secret("token")), test)


@pytest.mark.parametrize(
    "options",
    [{"password": Secret("wrong")}, {"token_name": "snapshots", "token_value": Secret("wrong")}, {"user": "no@pve"}],
)
def test_wrong_credentials_are_denied(pve: Cluster, options: dict[str, Any]) -> None:
    error = failure(pve.driver(**options), lambda driver: driver.machines())
    assert (type(error), error.message) == (ProviderDenied, "The provider does not accept the gateway's credentials.")
    assert "wrong" not in repr(error.__dict__)
    assert len(pve.do("get", "requests")) == 1  # repeated attempts could lock the account


def test_a_second_factor_is_denied(pve: Cluster) -> None:
    pve.do("set", tfa=True)
    assert type(failure(pve.driver(), lambda driver: driver.health())) is ProviderDenied


def test_missing_rights_are_not_missing_machines(pve: Cluster) -> None:
    pve.do("grant", "other@pve", "/vms", "VM.Audit")
    for call in (ProxmoxDriver.machines, ProxmoxDriver.health, lambda driver: driver.machine("100")):
        error = failure(pve.driver(), call)
        assert (type(error), error.message[-32:]) == (ProviderDenied, "it lacks the privilege VM.Audit.")
    pve.do("grant", "gateway@pve", "/vms", "VM.Audit")
    error = failure(pve.driver(), create())
    assert (type(error), error.provider_message) == (ProviderDenied, "Permission check failed (/vms/100, VM.Snapshot)")


# ---- lost and malformed responses


CLOSED_PORT = 1  # a privileged one, which the kernel gives to no other process


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"address": f"https://127.0.0.1:{CLOSED_PORT}"}, "The provider cannot be reached or does not answer."),
        ({"ca_file": None}, "The provider's certificate is not trusted. Check the option 'ca_file'."),
        ({"ca_file": "/nowhere/ca.pem"}, "The file of the option 'ca_file' cannot be read, or is not a PEM file."),
        ({"ca_file": __file__}, "The file of the option 'ca_file' cannot be read, or is not a PEM file."),
    ],
)
def test_an_unreachable_provider_is_unavailable(pve: Cluster, options: dict[str, Any], message: str) -> None:
    for call in (lambda driver: driver.health(), lambda driver: driver.snapshots("100"), create()):
        error = failure(pve.driver(**options), call)
        assert (type(error), error.message, error.provider_message) == (ProviderUnavailable, message, None)


def test_a_change_that_cannot_be_sent_is_unavailable() -> None:
    def log_in() -> Backend:
        token = {"user": "root@pam", "token_name": "snapshots", "token_value": "token"}
        return Backend("127.0.0.1", port=CLOSED_PORT, verify_ssl=True, timeout=10.0, **token)

    client = Client(log_in, 1, login_expires=False)
    with pytest.raises(ProviderUnavailable):
        client.call(True, "post", "nodes/pve1/qemu/100/snapshot", {"snapname": "before"})


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("/cluster/resources", {"status": 200, "message": "<html>welcome</html>", "html": True}),
        ("/cluster/resources", {"status": 200, "message": "no data"}),
        ("/cluster/resources", {"status": 500, "message": "boom"}),
        ("/cluster/resources", {"status": 502, "message": "Bad Gateway", "html": True}),
        ("/qemu/100/snapshot", {"status": 200, "message": "no data"}),
        ("/qemu/100/snapshot", {"error": "no_route_to_host"}),
        ("/qemu/100/snapshot", {"error": "hostname_lookup_failed"}),
    ],
)
def test_malformed_responses_are_unavailable(pve: Cluster, path: str, fault: dict[str, Any]) -> None:
    pve.do("fail", "GET", path, **fault)
    for call in (lambda driver: driver.snapshots("100"), create()):
        assert type(failure(pve.driver(), call)) is ProviderUnavailable
    assert "nodes/pve1/qemu/100/snapshot" not in pve.do("paths", "POST")


def test_lost_and_late_responses(pve: Cluster) -> None:
    pve.do("flaky_network", drop_rate=1)
    assert type(failure(pve.driver(), lambda driver: driver.machines())) is ProviderUnavailable
    pve.do("reset")
    pve.do("ignore", "GET", "/cluster/resources")
    assert type(failure(pve.driver(timeout=0.2), lambda driver: driver.machines())) is ProviderUnavailable
    pve.do("ignore", "POST", "/access/ticket")
    assert type(failure(pve.driver(timeout=0.2), lambda driver: driver.machines())) is ProviderUnavailable
    pve.do("fail", "POST", "/access/ticket", 503, "Service Unavailable")
    assert type(failure(pve.driver(), lambda driver: driver.machines())) is ProviderUnavailable
    pve.do("reset")
    pve.do("ignore", "POST", "/snapshot")
    assert type(failure(pve.driver(timeout=1.0), create())) is OutcomeUnknown


# ---- errors of the call and of the task


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ({"error": "permission_denied"}, ProviderDenied),
        ({"error": "invalid_ticket"}, ProviderDenied),
        ({"error": "config_lock_timeout"}, ProviderBusy),
        ({"error": "no_quorum"}, ProviderUnavailable),
        ({"error": "no_route_to_host"}, ProviderUnavailable),
        ({"error": "configuration_file_does_not_exist"}, ProviderUnavailable),  # the machine is still in the cluster
        ({"error": "cannot_live_migrate_snapshot_ram"}, ProviderRefused),
        ({"status": 503, "message": "Service Unavailable"}, ProviderUnavailable),
        ({"status": 504, "message": "Gateway Timeout"}, OutcomeUnknown),
        ({"status": 596, "message": "Connection timed out"}, OutcomeUnknown),
        ({"status": 200, "message": "<html>welcome</html>", "html": True}, OutcomeUnknown),
        ({"status": 200, "message": "no data"}, OutcomeUnknown),
    ],
)
def test_errors_of_the_call(pve: Cluster, fault: dict[str, Any], expected: type[ProviderError]) -> None:
    pve.do("fail", "POST", "/snapshot", **fault)
    assert type(failure(pve.driver(), create())) is expected
    assert pve.do("get", "tasklog") == []


FULL = "lvcreate snapshot error: Cannot create new thin volume, free space in thin pool pve/data reached threshold."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("VM is locked (backup)", ProviderBusy),
        ("can't lock file '/var/lock/qemu-server/lock-100.conf' - got timeout", ProviderBusy),
        ("error writing config: cluster not ready - no quorum?", ProviderUnavailable),
        (FULL, ProviderFull),
        ("zfs error: cannot create snapshot: out of space", ProviderFull),
        ("write failed: No space left on device", ProviderFull),
        ("snapshot feature is not available", ProviderRefused),
        ("unexpected status", ProviderRefused),
    ],
)
def test_errors_of_the_task(pve: Cluster, text: str, expected: type[ProviderError]) -> None:
    pve.do("end", "qmsnapshot", text)
    error = failure(pve.driver(), create())
    assert (type(error), error.provider_message) == (expected, text)
    assert "/" not in error.message


@pytest.mark.parametrize(
    ("machine", "text"),
    [("103", "VM is locked (suspended)"), ("104", "you can't take a snapshot if it's a template")],
)
def test_machines_with_a_snapshot_blocker_are_refused(pve: Cluster, machine: str, text: str) -> None:
    error = failure(pve.driver(), create(machine=machine))
    assert (type(error), error.provider_message) == (ProviderRefused, text)
