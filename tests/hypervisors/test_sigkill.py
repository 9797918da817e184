"""SIGKILL of the gateway, of libvirtd and of QEMU while a machine's memory is saved or loaded.

`pytest -s` prints a table with the state that each crash left, and the outcome that the gateway reports.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cli.programs import Program, serving
from tests.databases import Databases
from tests.graphql.client import CREATE, REVERT
from tests.hypervisors.gateway_client import GatewayClient, providers_file
from tests.hypervisors.libvirtd import Libvirtd, kill
from tests.waiting import until

pytestmark = pytest.mark.thorough

MEMORY = 300  # MiB
HEAD = (
    "killed",
    "while memory is",
    "left: libvirt",
    "left: disk",
    "left: machine",
    "operation",
    "machine",
    "snapshots",
)
WIDTHS = (9, 16, 14, 13, 22, 26, 9, 9)


@pytest.fixture(scope="module")
def table() -> Iterator[list[tuple[str, ...]]]:
    lines: list[tuple[str, ...]] = [HEAD]
    yield lines
    print()
    for line in lines:
        print(" ".join(f"{cell:{width}}" for cell, width in zip(line, WIDTHS, strict=True)))


@pytest.fixture
def settings(daemon: Libvirtd, databases: Databases, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """The settings of a gateway whose only machine has much memory."""
    daemon.add("big", touched=MEMORY)
    yield {
        "database_url": databases.new("sqlite"),
        "providers_file": providers_file(daemon, tmp_path),
        "operation_lease": 1.0,
    }
    daemon.remove("big")


@contextmanager
def gateway(settings: dict[str, Any]) -> Iterator[tuple[Program, GatewayClient]]:
    with serving(**settings) as program:
        yield program, GatewayClient(program)


def provider_state(daemon: Libvirtd) -> tuple[str, str, str]:
    """The snapshots in libvirt, those on the disk, and the state of the machine."""
    known = daemon.virsh("snapshot-list", "big", "--name").split()
    return ", ".join(known) or "-", ", ".join(daemon.tags("big")) or "-", daemon.virsh("domstate", "--reason", "big")


def save(daemon: Libvirtd, client: GatewayClient) -> str:
    """Requests a snapshot. Returns the operation while QEMU is paused in the middle."""
    operation = client.start_operation(CREATE, machineId=client.vm("big")["id"], name="new", memory=True)
    daemon.pause_qemu("big", "SAVE")
    return operation


def load(daemon: Libvirtd, client: GatewayClient) -> str:
    """Requests a revert to the first of two snapshots. Returns the operation while QEMU is paused in the middle."""
    operation = client.start_operation(REVERT, snapshotId=client.snapshot("big", "old"))
    daemon.pause_qemu("big", "STARTING_UP")
    return operation


def create_two_snapshots(daemon: Libvirtd) -> None:
    for name in ("old", "new"):
        daemon.virsh("snapshot-create-as", "big", name)


def gateway_state(client: GatewayClient, power: str) -> tuple[str, str]:
    """The power state and the snapshots in the gateway, once the power state is `power`."""
    until(lambda: client.power("big") == power)
    return power, ", ".join(name for name, _ in client.tree("big"))


def test_gateway_killed_while_memory_is_saved(
    daemon: Libvirtd, settings: dict[str, Any], table: list[tuple[str, ...]]
) -> None:
    with gateway(settings) as (program, client):
        operation = save(daemon, client)
        program.kill()
    daemon.resume_qemu("big")
    until(lambda: provider_state(daemon)[2] == "running (unpaused)")
    found = provider_state(daemon)
    with gateway(settings) as (_, client):
        assert client.await_operation(operation) == ("SUCCEEDED", None)
        seen = gateway_state(client, "ON")
    assert (found, seen, daemon.tags("big")) == (("new", "new", "running (unpaused)"), ("ON", "*new"), ["new"])
    table.append(("gateway", "saved", *found, "SUCCEEDED", *seen))


def test_gateway_restarted_before_memory_is_saved(
    daemon: Libvirtd, settings: dict[str, Any], table: list[tuple[str, ...]]
) -> None:
    """The new process waits for the command of the killed one, and does not send it again."""
    with gateway(settings) as (program, client):
        operation = save(daemon, client)
        program.kill()
    with gateway(settings) as (_, client):
        until(lambda: client.tree("big") == [("?new", None)])
        found = provider_state(daemon)
        daemon.resume_qemu("big")
        assert client.await_operation(operation) == ("SUCCEEDED", None)
        seen = gateway_state(client, "ON")
    assert (found, seen, daemon.tags("big")) == (("new", "-", "paused (saving)"), ("ON", "*new"), ["new"])
    table.append(("gateway", "saved (early)", *found, "SUCCEEDED", *seen))


def test_libvirtd_killed_while_memory_is_saved(
    daemon: Libvirtd, settings: dict[str, Any], table: list[tuple[str, ...]]
) -> None:
    """The machine is left paused and the snapshot lost. The driver resumes it and creates the snapshot again."""
    with gateway(settings) as (program, client):
        operation = save(daemon, client)
        program.process.send_signal(signal.SIGSTOP)  # so that the test can read the state before the gateway changes it
        daemon.kill()
        daemon.resume_qemu("big")
        until(lambda: daemon.tags("big") == ["new"])
        daemon.start()
        found = provider_state(daemon)
        program.process.send_signal(signal.SIGCONT)
        assert client.await_operation(operation) == ("SUCCEEDED", None)
        seen = gateway_state(client, "ON")
        daemon.await_line("big", bool)
    assert (found, seen, daemon.tags("big")) == (("-", "new", "paused (saving)"), ("ON", "*new"), ["new"])
    table.append(("libvirtd", "saved", *found, "SUCCEEDED", *seen))


def test_qemu_killed_while_memory_is_saved(
    daemon: Libvirtd, settings: dict[str, Any], table: list[tuple[str, ...]]
) -> None:
    with gateway(settings) as (_, client):
        operation = save(daemon, client)
        kill(daemon.qemu("big"))
        state, error = client.await_operation(operation)
        assert (state, error["code"], error["message"]) == (
            "FAILED",
            "PROVIDER_FAILED",
            "The provider reported an error.",
        )
        found, seen = provider_state(daemon), gateway_state(client, "OFF")
    assert (found, seen) == (("-", "-", "shut off (crashed)"), ("OFF", "!new"))
    table.append(("QEMU", "saved", *found, error["code"], *seen))


def test_gateway_killed_while_memory_is_loaded(
    daemon: Libvirtd, settings: dict[str, Any], table: list[tuple[str, ...]]
) -> None:
    create_two_snapshots(daemon)
    with gateway(settings) as (program, client):
        operation = load(daemon, client)
        program.kill()
    daemon.resume_qemu("big")
    until(lambda: provider_state(daemon)[2] == "running (from snapshot)")
    found = provider_state(daemon)
    with gateway(settings) as (_, client):
        assert client.await_operation(operation) == ("SUCCEEDED", None)
        seen = gateway_state(client, "ON")
    assert (found[2], seen) == ("running (from snapshot)", ("ON", "*old, new"))
    table.append(("gateway", "loaded", *found, "SUCCEEDED", *seen))


def test_libvirtd_killed_while_memory_is_loaded(
    daemon: Libvirtd, settings: dict[str, Any], table: list[tuple[str, ...]]
) -> None:
    """After its restart, libvirtd kills the half-started machine. The state of the disk is unknown then."""
    create_two_snapshots(daemon)
    with gateway(settings) as (_, client):
        operation = load(daemon, client)
        daemon.kill()
        daemon.resume_qemu("big")
        daemon.start()
        state, error = client.await_operation(operation)
        assert (state, error["code"]) == ("FAILED", "OUTCOME_UNKNOWN")
        found, seen = provider_state(daemon), gateway_state(client, "OFF")
    assert (found[2], seen) == ("shut off (daemon)", ("OFF", "old, *new"))
    table.append(("libvirtd", "loaded", *found, error["code"], *seen))


def test_qemu_killed_while_memory_is_loaded(
    daemon: Libvirtd, settings: dict[str, Any], table: list[tuple[str, ...]]
) -> None:
    """The disk may or may not have been reverted by then."""
    create_two_snapshots(daemon)
    with gateway(settings) as (_, client):
        operation = load(daemon, client)
        kill(daemon.qemu("big"))
        state, error = client.await_operation(operation)
        assert (state, error["code"]) == ("FAILED", "OUTCOME_UNKNOWN")
        found, seen = provider_state(daemon), gateway_state(client, "OFF")
    assert (found[2], seen) == ("shut off (failed)", ("OFF", "old, *new"))
    table.append(("QEMU", "loaded", *found, error["code"], *seen))
