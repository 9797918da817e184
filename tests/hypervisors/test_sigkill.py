"""SIGKILL of the gateway, of libvirtd and of QEMU in the middle of a long save or load of a machine's memory.

The table that `pytest -s` shows: what was left, and what the gateway made of it.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cli.programs import Program, serving
from tests.databases import Databases
from tests.graphql.asking import CREATE, REVERT
from tests.hypervisors.libvirtd import Libvirtd, await_true, kill
from tests.hypervisors.looking import Looking, providers_file

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
    """Of a gateway whose only machine is big."""
    daemon.add("big", touched=MEMORY)
    yield {
        "database_url": databases.new("sqlite"),
        "providers_file": providers_file(daemon, tmp_path),
        "operation_lease": 1.0,
    }
    daemon.remove("big")


@contextmanager
def gateway(settings: dict[str, Any]) -> Iterator[tuple[Program, Looking]]:
    with serving(**settings) as program:
        yield program, Looking(program)


def left(daemon: Libvirtd) -> tuple[str, str, str]:
    """Snapshots that libvirt knows, those on the disk, and how the machine stands."""
    known = daemon.virsh("snapshot-list", "big", "--name").split()
    return ", ".join(known) or "-", ", ".join(daemon.tags("big")) or "-", daemon.virsh("domstate", "--reason", "big")


def save(daemon: Libvirtd, client: Looking) -> str:
    """Asks for a snapshot, and is back in the middle of it."""
    operation = client.begin(CREATE, machineId=client.vm("big")["id"], name="new", memory=True)
    daemon.stop_in_the_middle("big", "SAVE")
    return operation


def load(daemon: Libvirtd, client: Looking) -> str:
    """Asks for a revert to the first of two snapshots, and is back in the middle of it."""
    operation = client.begin(REVERT, snapshotId=client.snapshot("big", "old"))
    daemon.stop_in_the_middle("big", "STARTING_UP")
    return operation


def make_two(daemon: Libvirtd) -> None:
    for name in ("old", "new"):
        daemon.virsh("snapshot-create-as", "big", name)


def shown(client: Looking, power: str) -> tuple[str, str]:
    """What the gateway shows when it has looked again: power and snapshots."""
    await_true(lambda: client.power("big") == power)
    return power, ", ".join(name for name, _ in client.tree("big"))


def test_the_gateway_while_memory_is_saved(
    daemon: Libvirtd, settings: dict[str, Any], table: list[tuple[str, ...]]
) -> None:
    with gateway(settings) as (program, client):
        operation = save(daemon, client)
        program.kill()
    daemon.go_on("big")
    await_true(lambda: left(daemon)[2] == "running (unpaused)")
    found = left(daemon)
    with gateway(settings) as (_, client):
        assert client.end(operation) == ("SUCCEEDED", None)
        seen = shown(client, "ON")
    assert (found, seen, daemon.tags("big")) == (("new", "new", "running (unpaused)"), ("ON", "*new"), ["new"])
    table.append(("gateway", "saved", *found, "SUCCEEDED", *seen))


def test_the_gateway_comes_back_before_the_memory_is_saved(
    daemon: Libvirtd, settings: dict[str, Any], table: list[tuple[str, ...]]
) -> None:
    """It waits for what its predecessor has begun, and does not begin it again."""
    with gateway(settings) as (program, client):
        operation = save(daemon, client)
        program.kill()
    with gateway(settings) as (_, client):
        await_true(lambda: client.tree("big") == [("?new", None)])
        found = left(daemon)
        daemon.go_on("big")
        assert client.end(operation) == ("SUCCEEDED", None)
        seen = shown(client, "ON")
    assert (found, seen, daemon.tags("big")) == (("new", "-", "paused (saving)"), ("ON", "*new"), ["new"])
    table.append(("gateway", "saved (early)", *found, "SUCCEEDED", *seen))


def test_libvirtd_while_memory_is_saved(
    daemon: Libvirtd, settings: dict[str, Any], table: list[tuple[str, ...]]
) -> None:
    """The machine is left paused, its snapshot lost: it goes on, and the snapshot is made in the place of the old."""
    with gateway(settings) as (program, client):
        operation = save(daemon, client)
        program.process.send_signal(signal.SIGSTOP)  # so that it can be seen what is left
        daemon.kill()
        daemon.go_on("big")
        await_true(lambda: daemon.tags("big") == ["new"])
        daemon.start()
        found = left(daemon)
        program.process.send_signal(signal.SIGCONT)
        assert client.end(operation) == ("SUCCEEDED", None)
        seen = shown(client, "ON")
        daemon.await_line("big", bool)
    assert (found, seen, daemon.tags("big")) == (("-", "new", "paused (saving)"), ("ON", "*new"), ["new"])
    table.append(("libvirtd", "saved", *found, "SUCCEEDED", *seen))


def test_qemu_while_memory_is_saved(daemon: Libvirtd, settings: dict[str, Any], table: list[tuple[str, ...]]) -> None:
    with gateway(settings) as (_, client):
        operation = save(daemon, client)
        kill(daemon.qemu("big"))
        state, error = client.end(operation)
        assert (state, error["code"], error["message"]) == (
            "FAILED",
            "PROVIDER_FAILED",
            "the provider reported an error",
        )
        found, seen = left(daemon), shown(client, "OFF")
    assert (found, seen) == (("-", "-", "shut off (crashed)"), ("OFF", "!new"))
    table.append(("QEMU", "saved", *found, error["code"], *seen))


def test_the_gateway_while_memory_is_loaded(
    daemon: Libvirtd, settings: dict[str, Any], table: list[tuple[str, ...]]
) -> None:
    make_two(daemon)
    with gateway(settings) as (program, client):
        operation = load(daemon, client)
        program.kill()
    daemon.go_on("big")
    await_true(lambda: left(daemon)[2] == "running (from snapshot)")
    found = left(daemon)
    with gateway(settings) as (_, client):
        assert client.end(operation) == ("SUCCEEDED", None)
        seen = shown(client, "ON")
    assert (found[2], seen) == ("running (from snapshot)", ("ON", "*old, new"))
    table.append(("gateway", "loaded", *found, "SUCCEEDED", *seen))


def test_libvirtd_while_memory_is_loaded(
    daemon: Libvirtd, settings: dict[str, Any], table: list[tuple[str, ...]]
) -> None:
    """It kills the machine that it finds half started. What is on the disk then is not for the gateway to guess."""
    make_two(daemon)
    with gateway(settings) as (_, client):
        operation = load(daemon, client)
        daemon.kill()
        daemon.go_on("big")
        daemon.start()
        state, error = client.end(operation)
        assert (state, error["code"]) == ("FAILED", "OUTCOME_UNKNOWN")
        found, seen = left(daemon), shown(client, "OFF")
    assert (found[2], seen) == ("shut off (daemon)", ("OFF", "old, *new"))
    table.append(("libvirtd", "loaded", *found, error["code"], *seen))


def test_qemu_while_memory_is_loaded(daemon: Libvirtd, settings: dict[str, Any], table: list[tuple[str, ...]]) -> None:
    """Its disk may be that of the snapshot by then, or not."""
    make_two(daemon)
    with gateway(settings) as (_, client):
        operation = load(daemon, client)
        kill(daemon.qemu("big"))
        state, error = client.end(operation)
        assert (state, error["code"]) == ("FAILED", "OUTCOME_UNKNOWN")
        found, seen = left(daemon), shown(client, "OFF")
    assert (found[2], seen) == ("shut off (failed)", ("OFF", "old, *new"))
    table.append(("QEMU", "loaded", *found, error["code"], *seen))
