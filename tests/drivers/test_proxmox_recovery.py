"""Work on Proxmox VE that is cut off at each point, held up, overtaken, or ended in other words than OK."""

import asyncio
from collections.abc import Iterator
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
from tests.databases import required
from tests.drivers.worlds import proxmox
from tests.drivers.worlds.proxmox import Cluster

pytestmark = pytest.mark.thorough

CREATE = CreateCommand("100", "before", "why", False)
NOT_BEGUN, DONE = Recovery.NOT_BEGUN, Recovery.DONE


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if reason := proxmox.lacking():
        (pytest.fail if required(proxmox.PART) else pytest.skip)(reason)
    with proxmox.cluster(tmp_path_factory.mktemp("pve")) as cluster:
        yield cluster


@pytest.fixture
def pve(started: Cluster) -> Cluster:
    started.do("reset")
    return started


class Killed(Exception):
    """The gateway, in the middle of it."""


class Job:
    """Work whose checkpoints and progress are kept. `dies_at`: the checkpoint that is the last thing it does."""

    def __init__(self, token: str = "t0k3n", *, dies_at: int = 0, unwanted: bool = False) -> None:
        self.kept: list[str] = []
        self.told: list[tuple[int | None, str | None]] = []
        self.work = Work(token, None, self._keep, self._tell, lambda: unwanted)
        self._dies_at = dies_at

    async def _keep(self, task_ref: str) -> None:
        self.kept.append(task_ref)
        if len(self.kept) == self._dies_at:
            raise Killed

    async def _tell(self, percent: int | None, phase: str | None) -> None:
        self.told.append((percent, phase))

    @property
    def after_a_restart(self) -> Work:
        """What is left of it when another process takes over."""
        return Work(self.work.token, self.kept[-1] if self.kept else None)


def made(pve: Cluster, token: str = "t0k3n", name: str = "before") -> ReportedSnapshot:
    """A snapshot that is there before the test begins."""
    snapshot: ReportedSnapshot = hand_over(pve, CreateCommand("100", name, "why", False), Job(token))
    return snapshot


def hand_over(pve: Cluster, wish: DriverCommand, job: Job) -> Any:
    """What the driver returns, or raises."""

    async def inside() -> Any:
        driver = pve.driver()
        try:
            return await _begin(driver, wish, job.work)
        except (ProviderError, Killed) as error:
            return error
        finally:
            await driver.close()

    return asyncio.run(inside())


async def _begin(driver: ProxmoxDriver, wish: DriverCommand, work: Work) -> Any:
    match wish:
        case CreateCommand():
            return await driver.create(work, wish)
        case RevertCommand():
            return await driver.revert(work, wish)
        case DeleteCommand():
            return await driver.delete(work, wish)


def recover(pve: Cluster, wish: DriverCommand, work: Work) -> Any:
    """What two recoveries in a row say or raise, which is the same."""

    async def once(driver: ProxmoxDriver) -> Any:
        try:
            return await driver.recover(work, wish)
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
            return [seen.ref for seen in (await driver.snapshots("100")).snapshots]
        finally:
            await driver.close()

    return asyncio.run(inside())


def wishes(pve: Cluster) -> list[tuple[DriverCommand, str]]:
    """A wish of each kind, and the request that it is."""
    there = made(pve, "other", "there")
    return [
        (RevertCommand("100", there.ref), "/rollback"),
        (CREATE, "/snapshot"),
        (DeleteCommand("100", there.ref), "/snapshot/there"),
    ]


METHODS = {CreateCommand: "POST", RevertCommand: "POST", DeleteCommand: "DELETE"}
KINDS = {CreateCommand: "qmsnapshot", RevertCommand: "qmrollback", DeleteCommand: "qmdelsnapshot"}


def is_done(pve: Cluster, wish: DriverCommand, found: Any) -> bool:
    if not isinstance(wish, CreateCommand):
        return found is DONE
    return isinstance(found, ReportedSnapshot) and found.ready and found.ref in refs(pve) and found.token == "t0k3n"


# ---- cut off


def test_killed_before_anything_was_asked_for(pve: Cluster) -> None:
    for wish, _ in wishes(pve):
        before = refs(pve)
        assert recover(pve, wish, Work("t0k3n")) is NOT_BEGUN
        assert refs(pve) == before


def test_killed_after_writing_down_the_reverts_there_were(pve: Cluster) -> None:
    there = made(pve)
    wish = RevertCommand("100", there.ref)
    for earlier in range(2):
        job = Job(dies_at=1)
        assert isinstance(hand_over(pve, wish, job), Killed)
        assert [ref.startswith("after:pve1:UPID") for ref in job.kept] == [earlier == 1]
        assert recover(pve, wish, job.after_a_restart) is NOT_BEGUN
        assert hand_over(pve, wish, Job()) is None


def test_killed_before_the_task_was_written_down(pve: Cluster) -> None:
    for wish, path in wishes(pve):
        job = Job()
        pve.do("lose", METHODS[type(wish)], path)
        assert isinstance(hand_over(pve, wish, job), OutcomeUnknown)
        assert not any(ref.startswith("UPID:") for ref in job.kept)
        assert is_done(pve, wish, recover(pve, wish, job.after_a_restart))
        assert is_done(pve, wish, recover(pve, wish, job.work))  # as the gateway that lives on asks


def test_killed_before_the_task_was_written_down_and_it_goes_on(pve: Cluster) -> None:
    for wish, path in wishes(pve):
        job = Job()
        pve.do("hold", KINDS[type(wish)], until="/status")
        pve.do("lose", METHODS[type(wish)], path)
        assert isinstance(hand_over(pve, wish, job), OutcomeUnknown)
        assert is_done(pve, wish, recover(pve, wish, job.after_a_restart))


def test_killed_while_the_task_works(pve: Cluster) -> None:
    for wish, _ in wishes(pve):
        job = Job(dies_at=2 if isinstance(wish, RevertCommand) else 1)
        pve.do("hold", KINDS[type(wish)], until="/status")
        assert isinstance(hand_over(pve, wish, job), Killed)
        assert is_done(pve, wish, recover(pve, wish, job.after_a_restart))


def test_killed_while_the_snapshot_is_half_made(pve: Cluster) -> None:
    for answer_lost in (True, False):
        pve.do("reset")
        pve.do("hold", "disks", until="/status")
        job = Job(dies_at=1)
        if answer_lost:
            pve.do("lose", "POST", "/snapshot")
        hand_over(pve, CREATE, job)
        assert len(job.kept) == (not answer_lost)
        assert is_done(pve, CREATE, recover(pve, CREATE, job.after_a_restart))


def test_a_task_that_is_forgotten(pve: Cluster) -> None:
    for wish, _ in wishes(pve):
        job = Job()
        hand_over(pve, wish, job)
        pve.do("forget_tasks")
        found = recover(pve, wish, job.after_a_restart)
        assert isinstance(found, OutcomeUnknown) if isinstance(wish, RevertCommand) else is_done(pve, wish, found)


def test_what_cannot_be_asked_about_is_neither_done_nor_undone(pve: Cluster) -> None:
    for wish, _ in wishes(pve):
        job = Job()
        hand_over(pve, wish, job)
        for works in (job.after_a_restart, Work("t0k3n", job.kept[0])):
            pve.do("set_node_offline", "pve1")
            assert type(recover(pve, wish, works)) is ProviderUnavailable
            pve.do("set_node_offline", "pve1", offline=False)
            pve.do("set", password="changed")
            assert type(recover(pve, wish, works)) is OutcomeUnknown
            pve.do("set", password="secret")


@pytest.mark.parametrize("trouble", ["node", "rights"])
def test_a_provider_that_goes_away_while_the_task_works(pve: Cluster, trouble: str) -> None:
    for wish, _ in wishes(pve):
        if trouble == "node":
            pve.do("fail", "GET", "/status", error="no_route_to_host")
        else:
            pve.do("fail", "GET", "/status", 403, "Permission check failed")
        job = Job()
        assert type(hand_over(pve, wish, job)) is OutcomeUnknown
        pve.do("set", failures={})
        assert is_done(pve, wish, recover(pve, wish, job.after_a_restart))


# ---- reverts of others


def test_a_revert_that_somebody_else_may_have_made(pve: Cluster) -> None:
    a, b = made(pve, "a", "aa"), made(pve, "b", "bb")
    job = Job(dies_at=1)
    assert isinstance(hand_over(pve, RevertCommand("100", a.ref), job), Killed)
    assert hand_over(pve, RevertCommand("100", b.ref), Job()) is None
    assert type(recover(pve, RevertCommand("100", a.ref), job.after_a_restart)) is OutcomeUnknown
    assert recover(pve, RevertCommand("100", b.ref), job.after_a_restart) is DONE
    assert hand_over(pve, RevertCommand("100", a.ref), Job()) is None
    assert type(recover(pve, RevertCommand("100", a.ref), job.after_a_restart)) is OutcomeUnknown  # which one was it?


@pytest.mark.parametrize(("words", "expected"), [("VM is locked (backup)", NOT_BEGUN), ("boom", OutcomeUnknown)])
def test_a_revert_that_failed_and_may_be_another(pve: Cluster, words: str, expected: Any) -> None:
    wish = RevertCommand("100", made(pve).ref)
    job = Job(dies_at=1)
    hand_over(pve, wish, job)
    pve.do("end", "qmrollback", words)
    hand_over(pve, wish, Job())
    found = recover(pve, wish, job.after_a_restart)
    assert found is expected or type(found) is expected


# ---- ends


@pytest.mark.parametrize(
    ("words", "expected", "recovered"),
    [
        ("VM is locked (backup)", ProviderBusy, NOT_BEGUN),
        ("cluster not ready - no quorum?", ProviderUnavailable, NOT_BEGUN),
        ("disk quota exceeded", ProviderFull, ProviderFull),
        ("rbd error: no such pool", ProviderRefused, ProviderRefused),
    ],
)
def test_a_task_that_fails(pve: Cluster, words: str, expected: type[ProviderError], recovered: Any) -> None:
    for wish, _ in wishes(pve):
        before = refs(pve)
        pve.do("end", KINDS[type(wish)], words)
        job = Job()
        error = hand_over(pve, wish, job)
        assert (type(error), error.provider_message) == (expected, words)
        found = recover(pve, wish, job.after_a_restart)
        assert found is recovered or type(found) is recovered
        assert refs(pve) == before
        pve.do("set", words=None)
        assert is_done(pve, wish, hand_over(pve, wish, Job()) or DONE)  # nothing stands in the way of another try


@pytest.mark.parametrize("words", ["WARNINGS: 1", "unexpected status", "snapshot 'there' does not exist"])
def test_what_can_be_seen_to_be_done_is_done(pve: Cluster, words: str) -> None:
    for wish, _ in wishes(pve):
        pve.do("end", KINDS[type(wish)], words, after=True)
        job = Job()
        found = hand_over(pve, wish, job)
        if isinstance(wish, RevertCommand) and words != "WARNINGS: 1":  # of which nothing can be seen
            assert type(found) is (OutcomeUnknown if words == "unexpected status" else ProviderMissing)
            continue
        assert is_done(pve, wish, found or DONE)
        assert is_done(pve, wish, recover(pve, wish, job.after_a_restart))


def test_half_way_is_said(pve: Cluster) -> None:
    there = made(pve)
    job = Job()
    pve.do("end", "qmrollback", "lvconvert failed")
    pve.do("snapshot_lock", 100, "rollback")
    for found in (
        hand_over(pve, RevertCommand("100", there.ref), job),
        recover(pve, RevertCommand("100", there.ref), job.after_a_restart),
    ):
        assert (type(found), found.provider_message) == (ProviderRefused, "lvconvert failed")
        assert found.message == "the provider stopped half-way, so its administrator has to look at the machine"
    pve.do("unlock", 100)
    pve.do("leave", 100, "before", snapstate="prepare")
    assert "half-way" in recover(pve, CREATE, Work("t0k3n")).message
    pve.do("leave", 100, "before", snapstate="delete")
    pve.do("end", "qmdelsnapshot", "lvremove failed")
    job = Job()
    found = hand_over(pve, DeleteCommand("100", there.ref), job)
    assert ("half-way" in found.message, found.provider_message) == (True, "lvremove failed")
    assert recover(pve, DeleteCommand("100", there.ref), Work("t0k3n")) is NOT_BEGUN


def test_what_is_gone_when_it_is_looked_for(pve: Cluster) -> None:
    job = Job()
    seen = hand_over(pve, CREATE, job)
    assert hand_over(pve, DeleteCommand("100", seen.ref), Job()) is None
    assert type(recover(pve, CREATE, job.after_a_restart)) is ProviderMissing
    assert recover(pve, CREATE, Work("t0k3n")) is NOT_BEGUN
    pve.do("set", vms=[])
    assert type(recover(pve, CREATE, job.after_a_restart)) is ProviderMissing
    assert type(recover(pve, DeleteCommand("100", seen.ref), Work("d"))) is ProviderMissing


# ---- the rest


def test_a_name_that_is_taken_meanwhile(pve: Cluster) -> None:
    pve.do("overtake", "before")
    job = Job()
    seen = hand_over(pve, CREATE, job)
    assert (seen.name, seen.token, len({*job.kept})) == ("before-t0k3n", "t0k3n", 2)
    assert [ref.split("@")[0] for ref in refs(pve)] == ["before", "before-t0k3n"]
    assert recover(pve, CREATE, job.after_a_restart) == seen


def test_a_request_that_was_late_is_not_made_twice(pve: Cluster) -> None:
    pve.do("overtake", "before", description="why\n\n[snapshot-gateway:t0k3n]\n")
    seen = hand_over(pve, CREATE, Job())
    assert (refs(pve), seen.token) == ([seen.ref], "t0k3n")


def test_a_request_that_is_late_and_at_work_is_waited_for(pve: Cluster) -> None:
    pve.do("hold", "disks", until="/tasks")
    pve.do("lose", "POST", "/snapshot")
    hand_over(pve, CREATE, Job())
    seen = hand_over(pve, CREATE, Job())  # finds the machine locked by the first
    assert (refs(pve), seen.ready) == ([seen.ref], True)


@pytest.mark.parametrize(
    ("name", "wire"),
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
def test_names(pve: Cluster, name: str, wire: str) -> None:
    assert hand_over(pve, CreateCommand("100", name, None, False), Job("0123abcdef")).name == wire


@pytest.mark.parametrize("machine", ["100", "102"])
def test_memory_is_saved_while_there_is_any(pve: Cluster, machine: str) -> None:
    seen = hand_over(pve, CreateCommand(machine, "before", None, True), Job())
    assert (seen.memory, seen.description) == (True, None)


def test_progress_is_what_the_log_says(pve: Cluster) -> None:
    pve.do("say", "saving VM state and RAM", "12.5% of 4 GiB")
    pve.do("hold", "qmsnapshot", until="/log")
    job = Job(unwanted=True)  # which nobody can help any more
    assert isinstance(hand_over(pve, CREATE, job), ReportedSnapshot)
    assert job.told == [(12, "12.5% of 4 GiB")]
