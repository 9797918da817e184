"""Tests recovery in the proxmox driver: interruption at each point, concurrent clients, and tasks that fail."""

import asyncio
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
from gateway.drivers.proxmox.driver import ProxmoxDriver
from gateway.errors import (
    OutcomeUnknown,
    ProviderBusy,
    ProviderError,
    ProviderFull,
    ProviderMissing,
    ProviderRefused,
    ProviderUnavailable,
)
from tests.drivers.worlds.proxmox import Cluster

pytestmark = pytest.mark.thorough

CREATE = CreateCommand("100", "before", "why", False)
NOT_STARTED, DONE = Recovery.NOT_STARTED, Recovery.DONE


class Killed(Exception):
    """The gateway was killed."""


class RecordedWork:
    """A Work that records its checkpoints and progress. `dies_at`: number of the checkpoint that raises Killed."""

    def __init__(self, token: str = "t0k3n", *, dies_at: int = 0, cancel_requested: bool = False) -> None:
        self.checkpoints: list[str] = []
        self.progress: list[tuple[int | None, str | None]] = []
        self.work = Work(token, None, self._checkpoint, self._progress, lambda: cancel_requested)
        self._dies_at = dies_at

    async def _checkpoint(self, task_ref: str) -> None:
        self.checkpoints.append(task_ref)
        if len(self.checkpoints) == self._dies_at:
            raise Killed

    async def _progress(self, percent: int | None, phase: str | None) -> None:
        self.progress.append((percent, phase))

    @property
    def after_a_restart(self) -> Work:
        """The Work of another process: the same token, and the last checkpoint."""
        return Work(self.work.token, self.checkpoints[-1] if self.checkpoints else None)


def made(pve: Cluster, token: str = "t0k3n", name: str = "before") -> ReportedSnapshot:
    """Creates a snapshot before the test."""
    snapshot: ReportedSnapshot = execute(pve, CreateCommand("100", name, "why", False), RecordedWork(token))
    return snapshot


def execute(pve: Cluster, command: RecoverableCommand, recorded: RecordedWork) -> Any:
    """Executes a command. Returns what the driver returns or raises."""

    async def inside() -> Any:
        driver = pve.driver()
        try:
            return await _begin(driver, command, recorded.work)
        except (ProviderError, Killed) as error:
            return error
        finally:
            await driver.close()

    return asyncio.run(inside())


async def _begin(driver: ProxmoxDriver, command: RecoverableCommand, work: Work) -> Any:
    match command:
        case CreateCommand():
            return await driver.create(work, command)
        case RevertCommand():
            return await driver.revert(work, command)
        case DeleteCommand():
            return await driver.delete(work, command)


def recover(pve: Cluster, command: RecoverableCommand, work: Work) -> Any:
    """Recovers a command twice, and asserts that both end the same. Returns what the driver returns or raises."""

    async def once(driver: ProxmoxDriver) -> Any:
        try:
            return await driver.recover(work, command)
        except ProviderError as error:
            return error

    async def inside() -> list[Any]:
        driver = pve.driver()
        try:
            return [await once(driver), await once(driver)]
        finally:
            await driver.close()

    first, second = asyncio.run(inside())
    assert first == second or (type(first), str(first)) == (type(second), str(second))
    return first


def refs(pve: Cluster) -> list[str]:
    async def inside() -> list[str]:
        driver = pve.driver()
        try:
            return [each.ref for each in (await driver.snapshots("100")).snapshots]
        finally:
            await driver.close()

    return asyncio.run(inside())


def commands(pve: Cluster) -> list[tuple[RecoverableCommand, str]]:
    """A command of each kind, and the end of the path of its request."""
    there = made(pve, "other", "there")
    return [
        (RevertCommand("100", there.ref), "/rollback"),
        (CREATE, "/snapshot"),
        (DeleteCommand("100", there.ref), "/snapshot/there"),
    ]


METHODS = {CreateCommand: "POST", RevertCommand: "POST", DeleteCommand: "DELETE"}
KINDS = {CreateCommand: "qmsnapshot", RevertCommand: "qmrollback", DeleteCommand: "qmdelsnapshot"}


def is_done(pve: Cluster, command: RecoverableCommand, found: Any) -> bool:
    if not isinstance(command, CreateCommand):
        return found is DONE
    return isinstance(found, ReportedSnapshot) and found.ready and found.ref in refs(pve) and found.token == "t0k3n"


# ---- interruption


def test_killed_before_the_command(pve: Cluster) -> None:
    for command, _ in commands(pve):
        before = refs(pve)
        assert recover(pve, command, Work("t0k3n")) is NOT_STARTED
        assert refs(pve) == before


def test_killed_after_the_checkpoint_of_the_latest_revert(pve: Cluster) -> None:
    there = made(pve)
    command = RevertCommand("100", there.ref)
    for earlier in range(2):
        recorded = RecordedWork(dies_at=1)
        assert isinstance(execute(pve, command, recorded), Killed)
        assert [ref.startswith("after:pve1:UPID") for ref in recorded.checkpoints] == [earlier == 1]
        assert recover(pve, command, recorded.after_a_restart) is NOT_STARTED
        assert execute(pve, command, RecordedWork()) is None


def test_killed_before_the_task_was_checkpointed(pve: Cluster) -> None:
    for command, path in commands(pve):
        recorded = RecordedWork()
        pve.do("lose", METHODS[type(command)], path)
        assert isinstance(execute(pve, command, recorded), OutcomeUnknown)
        assert not any(ref.startswith("UPID:") for ref in recorded.checkpoints)
        assert is_done(pve, command, recover(pve, command, recorded.after_a_restart))
        assert is_done(pve, command, recover(pve, command, recorded.work))  # without a restart


def test_killed_before_the_running_task_was_checkpointed(pve: Cluster) -> None:
    for command, path in commands(pve):
        recorded = RecordedWork()
        pve.do("hold", KINDS[type(command)], until="/status")
        pve.do("lose", METHODS[type(command)], path)
        assert isinstance(execute(pve, command, recorded), OutcomeUnknown)
        assert is_done(pve, command, recover(pve, command, recorded.after_a_restart))


def test_killed_while_the_task_runs(pve: Cluster) -> None:
    for command, _ in commands(pve):
        recorded = RecordedWork(dies_at=2 if isinstance(command, RevertCommand) else 1)
        pve.do("hold", KINDS[type(command)], until="/status")
        assert isinstance(execute(pve, command, recorded), Killed)
        assert is_done(pve, command, recover(pve, command, recorded.after_a_restart))


def test_killed_while_the_snapshot_is_incomplete(pve: Cluster) -> None:
    for answer_lost in (True, False):
        pve.do("reset")
        pve.do("hold", "disks", until="/status")
        recorded = RecordedWork(dies_at=1)
        if answer_lost:
            pve.do("lose", "POST", "/snapshot")
        execute(pve, CREATE, recorded)
        assert len(recorded.checkpoints) == (not answer_lost)
        assert is_done(pve, CREATE, recover(pve, CREATE, recorded.after_a_restart))


def test_a_task_that_no_longer_exists(pve: Cluster) -> None:
    for command, _ in commands(pve):
        recorded = RecordedWork()
        execute(pve, command, recorded)
        pve.do("forget_tasks")
        found = recover(pve, command, recorded.after_a_restart)
        assert isinstance(found, OutcomeUnknown) if isinstance(command, RevertCommand) else is_done(pve, command, found)


def test_recovery_without_access_to_the_provider_has_no_outcome(pve: Cluster) -> None:
    for command, _ in commands(pve):
        recorded = RecordedWork()
        execute(pve, command, recorded)
        for work in (recorded.after_a_restart, Work("t0k3n", recorded.checkpoints[0])):
            pve.do("set_node_offline", "pve1")
            assert type(recover(pve, command, work)) is ProviderUnavailable
            pve.do("set_node_offline", "pve1", offline=False)
            pve.do("set", password="changed")
            assert type(recover(pve, command, work)) is OutcomeUnknown
            pve.do("set", password="secret")


@pytest.mark.parametrize("fault", ["node", "rights"])
def test_a_provider_that_becomes_unreachable_while_the_task_runs(pve: Cluster, fault: str) -> None:
    for command, _ in commands(pve):
        if fault == "node":
            pve.do("fail", "GET", "/status", error="no_route_to_host")
        else:
            pve.do("fail", "GET", "/status", 403, "Permission check failed")
        recorded = RecordedWork()
        assert type(execute(pve, command, recorded)) is OutcomeUnknown
        pve.do("set", failures={})
        assert is_done(pve, command, recover(pve, command, recorded.after_a_restart))


# ---- reverts by other clients


def test_a_revert_that_may_be_another_clients_is_unknown(pve: Cluster) -> None:
    a, b = made(pve, "a", "aa"), made(pve, "b", "bb")
    recorded = RecordedWork(dies_at=1)
    assert isinstance(execute(pve, RevertCommand("100", a.ref), recorded), Killed)
    assert execute(pve, RevertCommand("100", b.ref), RecordedWork()) is None
    assert type(recover(pve, RevertCommand("100", a.ref), recorded.after_a_restart)) is OutcomeUnknown
    assert recover(pve, RevertCommand("100", b.ref), recorded.after_a_restart) is DONE
    assert execute(pve, RevertCommand("100", a.ref), RecordedWork()) is None
    # Two tasks could be this revert.
    assert type(recover(pve, RevertCommand("100", a.ref), recorded.after_a_restart)) is OutcomeUnknown


@pytest.mark.parametrize(
    ("exit_status", "expected"), [("VM is locked (backup)", NOT_STARTED), ("boom", OutcomeUnknown)]
)
def test_a_failed_revert_that_may_be_another_clients(pve: Cluster, exit_status: str, expected: Any) -> None:
    command = RevertCommand("100", made(pve).ref)
    recorded = RecordedWork(dies_at=1)
    execute(pve, command, recorded)
    pve.do("end", "qmrollback", exit_status)
    execute(pve, command, RecordedWork())
    found = recover(pve, command, recorded.after_a_restart)
    assert found is expected or type(found) is expected


# ---- exit statuses


@pytest.mark.parametrize(
    ("exit_status", "expected", "recovered"),
    [
        ("VM is locked (backup)", ProviderBusy, NOT_STARTED),
        ("cluster not ready - no quorum?", ProviderUnavailable, NOT_STARTED),
        ("disk quota exceeded", ProviderFull, ProviderFull),
        ("rbd error: no such pool", ProviderRefused, ProviderRefused),
    ],
)
def test_a_failed_task(pve: Cluster, exit_status: str, expected: type[ProviderError], recovered: Any) -> None:
    for command, _ in commands(pve):
        before = refs(pve)
        pve.do("end", KINDS[type(command)], exit_status)
        recorded = RecordedWork()
        error = execute(pve, command, recorded)
        assert (type(error), error.provider_message) == (expected, exit_status)
        found = recover(pve, command, recorded.after_a_restart)
        assert found is recovered or type(found) is recovered
        assert refs(pve) == before
        pve.do("set", ending=None)
        assert is_done(pve, command, execute(pve, command, RecordedWork()) or DONE)  # a retry succeeds


@pytest.mark.parametrize("exit_status", ["WARNINGS: 1", "unexpected status", "snapshot 'there' does not exist"])
def test_the_snapshot_decides_over_the_exit_status(pve: Cluster, exit_status: str) -> None:
    for command, _ in commands(pve):
        pve.do("end", KINDS[type(command)], exit_status, after=True)
        recorded = RecordedWork()
        found = execute(pve, command, recorded)
        if isinstance(command, RevertCommand) and exit_status != "WARNINGS: 1":  # a revert has no visible effect
            assert type(found) is (OutcomeUnknown if exit_status == "unexpected status" else ProviderMissing)
            continue
        assert is_done(pve, command, found or DONE)
        assert is_done(pve, command, recover(pve, command, recorded.after_a_restart))


def test_a_task_that_stopped_halfway_is_reported(pve: Cluster) -> None:
    there = made(pve)
    recorded = RecordedWork()
    pve.do("end", "qmrollback", "lvconvert failed")
    pve.do("snapshot_lock", 100, "rollback")
    for found in (
        execute(pve, RevertCommand("100", there.ref), recorded),
        recover(pve, RevertCommand("100", there.ref), recorded.after_a_restart),
    ):
        assert (type(found), found.provider_message) == (ProviderRefused, "lvconvert failed")
        assert (
            found.message
            == "The provider's task stopped halfway. An administrator of the provider must check the machine."
        )
    pve.do("unlock", 100)
    pve.do("set_snapshot", 100, "before", snapstate="prepare")
    assert "halfway" in recover(pve, CREATE, Work("t0k3n")).message
    pve.do("set_snapshot", 100, "before", snapstate="delete")
    pve.do("end", "qmdelsnapshot", "lvremove failed")
    recorded = RecordedWork()
    found = execute(pve, DeleteCommand("100", there.ref), recorded)
    assert ("halfway" in found.message, found.provider_message) == (True, "lvremove failed")
    assert recover(pve, DeleteCommand("100", there.ref), Work("t0k3n")) is NOT_STARTED


def test_a_snapshot_or_machine_that_was_deleted_before_recovery(pve: Cluster) -> None:
    recorded = RecordedWork()
    created = execute(pve, CREATE, recorded)
    assert execute(pve, DeleteCommand("100", created.ref), RecordedWork()) is None
    assert type(recover(pve, CREATE, recorded.after_a_restart)) is ProviderMissing
    assert recover(pve, CREATE, Work("t0k3n")) is NOT_STARTED
    pve.do("set", vms=[])
    assert type(recover(pve, CREATE, recorded.after_a_restart)) is ProviderMissing
    assert type(recover(pve, DeleteCommand("100", created.ref), Work("d"))) is ProviderMissing


# ---- names, memory and progress


def test_a_name_that_is_taken_during_the_create(pve: Cluster) -> None:
    pve.do("overtake", "before")
    recorded = RecordedWork()
    created = execute(pve, CREATE, recorded)
    assert (created.name, created.token, len({*recorded.checkpoints})) == ("before-t0k3n", "t0k3n", 2)
    assert [ref.split("@")[0] for ref in refs(pve)] == ["before", "before-t0k3n"]
    assert recover(pve, CREATE, recorded.after_a_restart) == created


def test_a_late_first_request_does_not_create_a_second_snapshot(pve: Cluster) -> None:
    pve.do("overtake", "before", description="why\n\n[snapshot-gateway:t0k3n]\n")
    created = execute(pve, CREATE, RecordedWork())
    assert (refs(pve), created.token) == ([created.ref], "t0k3n")


def test_a_late_first_request_that_still_runs_is_awaited(pve: Cluster) -> None:
    pve.do("hold", "disks", until="/tasks")
    pve.do("lose", "POST", "/snapshot")
    execute(pve, CREATE, RecordedWork())
    created = execute(pve, CREATE, RecordedWork())  # the first request has locked the machine
    assert (refs(pve), created.ready) == ([created.ref], True)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("x" * 40, "x" * 40),
        ("x" * 41, "x" * 31 + "-0123abcd"),
        ("x", "x-0123abcd"),
        ("Pending", "Pending-0123abcd"),
        ("currently", "currently"),
        ("vor dem Umzug: ☃", "vor-dem-Umzug-0123abcd"),
        ("-", "s-0123abcd"),
    ],
)
def test_names_that_proxmox_does_not_accept_are_replaced(pve: Cluster, name: str, expected: str) -> None:
    assert execute(pve, CreateCommand("100", name, None, False), RecordedWork("0123abcdef")).name == expected


@pytest.mark.parametrize("machine", ["100", "102"])
def test_memory_is_saved_unless_the_machine_is_off(pve: Cluster, machine: str) -> None:
    created = execute(pve, CreateCommand(machine, "before", None, True), RecordedWork())
    assert (created.memory, created.description) == (True, None)


def test_progress_is_read_from_the_log(pve: Cluster) -> None:
    pve.do("say", "saving VM state and RAM", "12.5% of 4 GiB")
    pve.do("hold", "qmsnapshot", until="/log")
    recorded = RecordedWork(cancel_requested=True)  # which the driver ignores
    assert isinstance(execute(pve, CREATE, recorded), ReportedSnapshot)
    assert recorded.progress == [(12, "12.5% of 4 GiB")]
