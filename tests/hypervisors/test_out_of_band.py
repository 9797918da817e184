"""What `virsh` does behind the gateway's back is shown: at once where libvirt tells of it, else when it is asked."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.config import Settings
from tests.databases import Databases
from tests.graphql.asking import CREATE, REFRESH
from tests.hypervisors.libvirtd import Libvirtd, await_true
from tests.hypervisors.looking import Looking, providers_file
from tests.serving import served


@pytest.fixture
def gateway(daemon: Libvirtd, databases: Databases, tmp_path: Path) -> Iterator[Looking]:
    """It has read the provider at its start, listens, and does not read again by itself for a long time."""
    daemon.add("vm")
    settings = Settings(
        database_url=databases.new("sqlite"), providers_file=providers_file(daemon, tmp_path), refresh_interval=1e6
    )
    with served(settings) as gateway:
        looking = Looking(gateway)
        looking.vm("vm")

        def is_heard() -> bool:
            daemon.virsh("suspend", "vm")
            daemon.virsh("resume", "vm")
            daemon.virsh("suspend", "vm")
            return looking.power("vm") == "SUSPENDED"

        await_true(is_heard)
        daemon.virsh("resume", "vm")
        await_true(lambda: looking.power("vm") == "ON")
        yield looking
    daemon.remove("vm")


def test_what_a_running_machine_goes_through_is_shown_at_once(daemon: Libvirtd, gateway: Looking) -> None:
    daemon.virsh("snapshot-create-as", "vm", "one")
    await_true(lambda: gateway.tree("vm") == [("*one", None)])
    daemon.virsh("snapshot-create-as", "vm", "two", "with words")
    await_true(lambda: gateway.tree("vm") == [("one", None), ("*two", "one")])
    daemon.virsh("snapshot-revert", "vm", "one")
    await_true(lambda: gateway.tree("vm") == [("*one", None), ("two", "one")])
    daemon.virsh("destroy", "vm")
    await_true(lambda: gateway.power("vm") == "OFF")


def test_what_libvirt_does_not_tell_of_is_shown_when_asked(daemon: Libvirtd, gateway: Looking) -> None:
    vm = gateway.vm("vm")["id"]
    gateway.do(CREATE, machineId=vm, name="ours", memory=True)
    daemon.virsh("snapshot-create-as", "vm", "theirs")
    await_true(lambda: gateway.tree("vm") == [("ours", None), ("*theirs", "ours")])
    daemon.virsh("snapshot-delete", "vm", "ours")
    assert gateway.tree("vm") == [("ours", None), ("*theirs", "ours")]  # it cannot know
    gateway.do(REFRESH, machineId=vm)
    assert gateway.tree("vm") == [("*theirs", None)]
    daemon.virsh("destroy", "vm")
    await_true(lambda: gateway.power("vm") == "OFF")
    daemon.virsh("snapshot-create-as", "vm", "off")
    gateway.do(REFRESH, machineId=vm)
    assert gateway.tree("vm") == [("theirs", None), ("*off", "theirs")]


def test_a_snapshot_of_the_same_name_and_another_time_is_another(daemon: Libvirtd, gateway: Looking) -> None:
    daemon.virsh("snapshot-create-as", "vm", "name")
    await_true(lambda: gateway.tree("vm") == [("*name", None)])
    first = gateway.snapshot("vm", "name")
    made = int(time.time())
    daemon.virsh("snapshot-delete", "vm", "name")
    await_true(lambda: time.time() > made + 2)  # libvirt's times are whole seconds
    daemon.virsh("snapshot-create-as", "vm", "name")
    await_true(lambda: gateway.snapshot("vm", "name") != first)
    assert gateway.tree("vm") == [("*name", None)]


def test_a_machine_that_is_undefined_is_gone(daemon: Libvirtd, gateway: Looking) -> None:
    daemon.add("brief")
    await_true(lambda: "brief" in gateway.vms())
    daemon.remove("brief")
    await_true(lambda: "brief" not in gateway.vms())
