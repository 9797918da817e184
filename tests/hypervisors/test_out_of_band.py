"""Changes made with `virsh`: the gateway shows them at once if libvirt sends an event, else after a refresh."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.config import Settings
from tests.databases import Databases
from tests.graphql.client import CREATE, REFRESH
from tests.hypervisors.gateway_client import GatewayClient, providers_file
from tests.hypervisors.libvirtd import Libvirtd
from tests.serving import served
from tests.waiting import until


@pytest.fixture
def gateway(daemon: Libvirtd, databases: Databases, tmp_path: Path) -> Iterator[GatewayClient]:
    """A gateway that has imported the provider and receives its events. Periodic refreshes are effectively disabled."""
    daemon.add("vm")
    settings = Settings(
        database_url=databases.new("sqlite"), providers_file=providers_file(daemon, tmp_path), refresh_interval=1e6
    )
    with served(settings) as gateway:
        client = GatewayClient(gateway)
        client.vm("vm")

        def receives_events() -> bool:
            daemon.virsh("suspend", "vm")
            daemon.virsh("resume", "vm")
            daemon.virsh("suspend", "vm")
            return client.power("vm") == "SUSPENDED"

        until(receives_events)
        daemon.virsh("resume", "vm")
        until(lambda: client.power("vm") == "ON")
        yield client
    daemon.remove("vm")


@pytest.mark.thorough  # starts QEMU
def test_changes_of_a_running_machine_appear_at_once(daemon: Libvirtd, gateway: GatewayClient) -> None:
    daemon.virsh("snapshot-create-as", "vm", "one")
    until(lambda: gateway.tree("vm") == [("*one", None)])
    daemon.virsh("snapshot-create-as", "vm", "two", "with words")
    until(lambda: gateway.tree("vm") == [("one", None), ("*two", "one")])
    daemon.virsh("snapshot-revert", "vm", "one")
    until(lambda: gateway.tree("vm") == [("*one", None), ("two", "one")])
    daemon.virsh("destroy", "vm")
    until(lambda: gateway.power("vm") == "OFF")


@pytest.mark.thorough  # starts QEMU
def test_changes_without_events_appear_after_a_refresh(daemon: Libvirtd, gateway: GatewayClient) -> None:
    vm = gateway.vm("vm")["id"]
    gateway.run_operation(CREATE, machineId=vm, name="ours", memory=True)
    daemon.virsh("snapshot-create-as", "vm", "theirs")
    until(lambda: gateway.tree("vm") == [("ours", None), ("*theirs", "ours")])
    daemon.virsh("snapshot-delete", "vm", "ours")
    assert gateway.tree("vm") == [("ours", None), ("*theirs", "ours")]  # libvirt sends no event
    gateway.run_operation(REFRESH, machineId=vm)
    assert gateway.tree("vm") == [("*theirs", None)]
    daemon.virsh("destroy", "vm")
    until(lambda: gateway.power("vm") == "OFF")
    daemon.virsh("snapshot-create-as", "vm", "off")
    gateway.run_operation(REFRESH, machineId=vm)
    assert gateway.tree("vm") == [("theirs", None), ("*off", "theirs")]


@pytest.mark.thorough  # starts QEMU and waits for the next second
def test_a_snapshot_with_the_same_name_and_another_time_is_a_new_one(daemon: Libvirtd, gateway: GatewayClient) -> None:
    daemon.virsh("snapshot-create-as", "vm", "name")
    until(lambda: gateway.tree("vm") == [("*name", None)])
    first = gateway.snapshot("vm", "name")
    made = int(time.time())
    daemon.virsh("snapshot-delete", "vm", "name")
    until(lambda: time.time() > made + 2)  # libvirt's times are whole seconds
    daemon.virsh("snapshot-create-as", "vm", "name")
    until(lambda: gateway.snapshot("vm", "name") != first)
    assert gateway.tree("vm") == [("*name", None)]


@pytest.mark.thorough  # starts QEMU
def test_an_undefined_machine_disappears(daemon: Libvirtd, gateway: GatewayClient) -> None:
    daemon.add("brief")
    until(lambda: "brief" in gateway.vms())
    daemon.remove("brief")
    until(lambda: "brief" not in gateway.vms())
