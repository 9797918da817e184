"""The contents of snapshots: a guest counts in its memory and on its disk, and a revert restores both counts."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from gateway.config import Settings
from tests.databases import Databases
from tests.graphql.client import CREATE, DELETE, REFRESH, REVERT
from tests.hypervisors.gateway_client import GatewayClient, providers_file
from tests.hypervisors.guest import GuestLine
from tests.hypervisors.libvirtd import Libvirtd
from tests.serving import served
from tests.waiting import until


@pytest.fixture
def gateway(daemon: Libvirtd, databases: Databases, tmp_path: Path) -> Iterator[GatewayClient]:
    settings = Settings(database_url=databases.new("sqlite"), providers_file=providers_file(daemon, tmp_path))
    with served(settings) as gateway:
        yield GatewayClient(gateway)


def boot(daemon: Libvirtd, name: str) -> GuestLine:
    """Starts a guest. Returns its first line."""
    line_count = len(daemon.guest_lines(name))
    daemon.virsh("start", name)
    return daemon.await_line(name, bool, since=line_count)


def test_revert_restores_memory_and_disk(daemon: Libvirtd, gateway: GatewayClient) -> None:
    daemon.add("running")
    vm = gateway.vm("running")["id"]
    until(lambda: gateway.power("running") == "ON")  # the gateway may have imported the machine before its start
    before = daemon.guest_lines("running")[-1]
    gateway.run_operation(CREATE, machineId=vm, name="with memory", memory=True)
    after = daemon.guest_lines("running")[-1]
    later = daemon.await_line("running", lambda line: line.memory >= after.memory + 5)
    assert (later.boot, later.disk) == (before.boot, later.memory)

    snapshot = gateway.snapshot("running", "with memory")
    for _ in range(2):
        line_count = len(daemon.guest_lines("running"))
        gateway.run_operation(REVERT, snapshotId=snapshot)
        daemon.await_line("running", bool)
        after_revert, lines = daemon.guest_lines("running")[line_count - 1 :], daemon.guest_lines("running")
        first = next(b for a, b in pairwise(after_revert) if b.memory <= a.memory)
        assert before.memory < first.memory <= after.memory + 1
        assert (first.boot, first.disk) == (before.boot, first.memory)
        assert first in lines[:line_count]  # the guest repeats a line from before the revert
        until(lambda: gateway.power("running") == "ON")
        daemon.await_line("running", lambda line: line.memory >= after.memory + 5)
    gateway.run_operation(DELETE, ids=[snapshot])
    assert (gateway.tree("running"), daemon.tags("running")) == ([], [])


@pytest.mark.thorough  # boots a guest five times; memory and disk are tested by default
def test_revert_restores_the_disk_of_a_stopped_guest(daemon: Libvirtd, gateway: GatewayClient) -> None:
    daemon.add("stopped")
    vm = gateway.vm("stopped")["id"]
    daemon.await_line("stopped", lambda line: line.disk >= 5)
    daemon.virsh("destroy", "stopped")
    gateway.run_operation(REFRESH, machineId=vm)
    gateway.run_operation(CREATE, machineId=vm, name="without memory")
    count = daemon.disk("stopped")
    assert count >= 5

    snapshot = gateway.snapshot("stopped", "without memory")
    for _ in range(2):
        first = boot(daemon, "stopped")
        assert (first.memory, first.disk) == (1, count + 1)
        daemon.await_line("stopped", lambda line: line.disk >= count + 10)
        gateway.run_operation(REVERT, snapshotId=snapshot)
        assert daemon.virsh("domstate", "stopped") == "shut off"
        assert daemon.disk("stopped") == count
    assert boot(daemon, "stopped").disk == count + 1
