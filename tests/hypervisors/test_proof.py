"""Proof by content, through GraphQL alone: a guest counts in its memory and on its disk, and both are taken back."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from gateway.config import Settings
from tests.databases import Databases
from tests.graphql.asking import CREATE, DELETE, REFRESH, REVERT
from tests.hypervisors.guest import LibvirtConnection
from tests.hypervisors.libvirtd import Libvirtd, await_true
from tests.hypervisors.looking import Looking, providers_file
from tests.serving import served


@pytest.fixture
def gateway(daemon: Libvirtd, databases: Databases, tmp_path: Path) -> Iterator[Looking]:
    settings = Settings(database_url=databases.new("sqlite"), providers_file=providers_file(daemon, tmp_path))
    with served(settings) as gateway:
        yield Looking(gateway)


def booted(daemon: Libvirtd, name: str) -> LibvirtConnection:
    """The first line that a guest says when it is started."""
    said = len(daemon.said(name))
    daemon.virsh("start", name)
    return daemon.await_line(name, bool, since=said)


def test_memory_and_disk_are_back(daemon: Libvirtd, gateway: Looking) -> None:
    daemon.add("running")
    vm = gateway.vm("running")["id"]
    await_true(lambda: gateway.power("running") == "ON")  # it may have met the machine before it was started
    before = daemon.said("running")[-1]
    gateway.do(CREATE, machineId=vm, name="with memory", memory=True)
    after = daemon.said("running")[-1]
    later = daemon.await_line("running", lambda line: line.memory >= after.memory + 10)
    assert (later.boot, later.disk) == (before.boot, later.memory)

    snapshot = gateway.snapshot("running", "with memory")
    for _ in range(2):
        said = len(daemon.said("running"))
        gateway.do(REVERT, snapshotId=snapshot)
        daemon.await_line("running", bool)
        said_before, lines = daemon.said("running")[said - 1 :], daemon.said("running")
        first = next(b for a, b in pairwise(said_before) if b.memory <= a.memory)
        assert before.memory < first.memory <= after.memory + 1
        assert (first.boot, first.disk) == (before.boot, first.memory)
        assert first in lines[:said]  # it has said that before
        await_true(lambda: gateway.power("running") == "ON")
        daemon.await_line("running", lambda line: line.memory >= after.memory + 10)
    gateway.do(DELETE, ids=[snapshot])
    assert (gateway.tree("running"), daemon.tags("running")) == ([], [])


def test_the_disk_of_a_stopped_guest_is_back(daemon: Libvirtd, gateway: Looking) -> None:
    daemon.add("stopped")
    vm = gateway.vm("stopped")["id"]
    daemon.await_line("stopped", lambda line: line.disk >= 5)
    daemon.virsh("destroy", "stopped")
    gateway.do(REFRESH, machineId=vm)
    gateway.do(CREATE, machineId=vm, name="without memory")
    then = daemon.disk("stopped")
    assert then >= 5

    snapshot = gateway.snapshot("stopped", "without memory")
    for _ in range(2):
        first = booted(daemon, "stopped")
        assert (first.memory, first.disk) == (1, then + 1)
        daemon.await_line("stopped", lambda line: line.disk >= then + 10)
        gateway.do(REVERT, snapshotId=snapshot)
        assert daemon.virsh("domstate", "stopped") == "shut off"
        assert daemon.disk("stopped") == then
    assert booted(daemon, "stopped").disk == then + 1
