"""Tests the qcow2 driver behind a gateway, through GraphQL only, and checks the content of the disks.

With `pytest -s`, the last test prints a table: when the gateway was killed, and the final state of each operation.
"""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from gateway.columns import now
from gateway.config import Settings
from tests.cli.programs import Program, run, serving
from tests.databases import Databases, required
from tests.drivers import image_files
from tests.graphql.client import CREATE, DELETE, REFRESH, REVERT, mutate
from tests.serving import Served, served
from tests.waiting import within

pytestmark = pytest.mark.thorough

image_files.skip_without_qemu()

QEMU = "qemu-system-x86_64"

MACHINES = (
    "{ vms { nodes { id name provider providerRef powerState capabilities { action supported reason } currentSnapshot"
    " { id } snapshots(sort: [{field: CREATED_AT}]) { nodes { id name description memory state providerRef"
    " parent { id } } } } } }"
)


def configured(folder: Path, databases: Databases, **options: str) -> Settings:
    """Settings with one provider, `lab`, which has been refreshed once."""
    lines = ["[lab]", 'driver = "qcow2"', *(f'{name} = "{value}"' for name, value in options.items())]
    file = folder.parent / "providers.toml"
    file.write_text("\n".join([*lines, f'directory = "{folder}"']))
    settings = Settings(database_url=databases.new("sqlite"), providers_file=str(file), operation_lease=1.0)
    code, output, _ = run("refresh", "lab", database_url=settings.database_url, providers_file=file)
    assert (code, output) == (0, output)
    return settings


@pytest.fixture
def vm(tmp_path: Path) -> Path:
    """An image in its own directory; its disk holds 0x11."""
    (tmp_path / "images").mkdir()
    path = image_files.create_image(tmp_path / "images" / "web.qcow2")
    image_files.write(path, 0x11)
    return path


@pytest.fixture
def gateway(vm: Path, databases: Databases) -> Iterator[Served]:
    with refreshed_gateway(configured(vm.parent, databases)) as gateway:
        yield gateway


@contextmanager
def refreshed_gateway(settings: Settings) -> Iterator[Served]:
    """Serves a gateway, and yields it after its initial refresh; the next periodic refresh is minutes away."""
    start = now()
    with served(settings) as gateway:
        for _ in range(10_000):
            (provider,) = gateway.ask("{ providers { observedAt } }")["providers"]
            if provider["observedAt"] and datetime.fromisoformat(provider["observedAt"]) >= start:
                yield gateway
                return
    raise AssertionError("the provider was not refreshed")


def machine(gateway: Served | Program) -> dict[str, Any]:
    """The only machine."""
    (found,) = gateway.ask(MACHINES)["vms"]["nodes"]
    result: dict[str, Any] = found
    return result


def snapshots(gateway: Served | Program) -> dict[str, str]:
    """The id of each snapshot by name, oldest first. Asserts that all are READY."""
    nodes = machine(gateway)["snapshots"]["nodes"]
    assert {node["state"] for node in nodes} <= {"READY"}
    return {node["name"]: node["id"] for node in nodes}


def succeed(gateway: Served, mutation: str, **given: Any) -> None:
    """Sends a mutation, and asserts that its operation succeeds."""
    payload = mutate(gateway, mutation, **given)
    (accepted,) = payload.get("results", [payload])
    assert accepted["errors"] == []
    operation = gateway.await_operation(accepted["operation"]["id"])
    assert (operation["state"], operation["error"]) == ("SUCCEEDED", None)


def refresh(gateway: Served) -> None:
    succeed(gateway, REFRESH, machineId=machine(gateway)["id"])


def write(gateway: Served, vm: Path, pattern: int) -> None:
    """The machine writes and is off again. Refreshes the machine until the gateway reports it as OFF.

    The gateway's own refresh after a revert may have read the machine while it ran.
    """
    image_files.write(vm, pattern)
    for _ in range(10):
        refresh(gateway)
        if machine(gateway)["powerState"] == "OFF":
            return
    raise AssertionError("the machine is still reported as running")


def supported(gateway: Served) -> dict[str, str | None]:
    """The reason why each action is not supported; None for supported actions."""
    return {each["action"]: each["reason"] for each in machine(gateway)["capabilities"]}


def test_revert_restores_the_disk(gateway: Served, vm: Path) -> None:
    at = machine(gateway)["id"]
    succeed(gateway, CREATE, machineId=at, name="before: ☃", description="the first")
    write(gateway, vm, 0x22)
    succeed(gateway, CREATE, machineId=at, name="after")
    write(gateway, vm, 0x33)
    made = snapshots(gateway)
    assert list(made) == ["before: ☃", "after"]
    succeed(gateway, REVERT, snapshotId=made["before: ☃"])
    assert image_files.contains(vm, 0x11)
    succeed(gateway, REVERT, snapshotId=made["after"])
    assert image_files.contains(vm, 0x22)
    succeed(gateway, DELETE, ids=[made["before: ☃"]])
    assert image_files.contains(vm, 0x22)
    write(gateway, vm, 0x44)
    succeed(gateway, REVERT, snapshotId=made["after"])
    assert image_files.contains(vm, 0x22)
    assert snapshots(gateway) == {"after": made["after"]}
    succeed(gateway, DELETE, ids=[made["after"]])
    assert (snapshots(gateway), image_files.tags(vm), image_files.contains(vm, 0x22)) == ({}, [], True)
    assert image_files.is_intact(vm)


def test_a_refresh_keeps_names_and_descriptions_that_do_not_fit_into_the_tag(gateway: Served, vm: Path) -> None:
    succeed(gateway, CREATE, machineId=machine(gateway)["id"], name="n" * 255, description="why")
    before = machine(gateway)
    assert before["snapshots"]["nodes"][0]["name"] == "n" * 255
    refresh(gateway)
    assert machine(gateway) == before
    (node,) = before["snapshots"]["nodes"]
    assert (node["description"], node["memory"], node["parent"]) == ("why", False, None)
    assert before["currentSnapshot"] is None
    assert image_files.tags(vm)[0].startswith("n" * 200)


def test_out_of_band_changes_appear_after_a_refresh(gateway: Served, vm: Path) -> None:
    succeed(gateway, CREATE, machineId=machine(gateway)["id"], name="ours")
    ours = snapshots(gateway)
    write(gateway, vm, 0x22)
    image_files.qemu_img("snapshot", "-c", "theirs", vm)
    refresh(gateway)
    both = snapshots(gateway)
    assert (list(both), both["ours"]) == (["ours", "theirs"], ours["ours"])
    image_files.qemu_img("snapshot", "-a", image_files.tags(vm)[0], vm)
    refresh(gateway)
    assert snapshots(gateway) == both
    succeed(gateway, REVERT, snapshotId=both["theirs"])
    assert image_files.contains(vm, 0x22)
    image_files.qemu_img("snapshot", "-d", image_files.tags(vm)[0], vm)
    refresh(gateway)
    assert snapshots(gateway) == {"theirs": both["theirs"]}
    image_files.qemu_img("snapshot", "-d", "theirs", vm)
    image_files.qemu_img("snapshot", "-c", "theirs", vm)  # a new snapshot with the same name and id
    refresh(gateway)
    (again,) = snapshots(gateway).values()
    assert again != both["theirs"]
    succeed(gateway, DELETE, ids=[again])
    assert image_files.tags(vm) == []


@contextmanager
def running_qemu(vm: Path) -> Iterator["subprocess.Popen[str]"]:
    """Runs QEMU with the image as its disk. Its monitor reads standard input."""
    if shutil.which(QEMU) is None:
        (pytest.fail if required("qemu") else pytest.skip)(f"{QEMU} is not installed")
    command = [
        QEMU,
        "-machine",
        "pc,accel=tcg",
        "-m",
        "2",
        "-nodefaults",
        "-display",
        "none",
        "-S",
        "-monitor",
        "stdio",
    ]
    command += ["-drive", f"file={vm},format=qcow2,if=virtio"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "QEMU" in process.stdout.readline()  # QEMU has opened the disk
        try:
            yield process
        finally:
            process.kill()


def test_a_running_machine_is_read_only(gateway: Served, vm: Path) -> None:
    at = machine(gateway)["id"]
    succeed(gateway, CREATE, machineId=at, name="a")
    made = snapshots(gateway)
    assert supported(gateway) == {
        "READ": None,
        "CREATE": None,
        "CREATE_WITH_MEMORY": "This driver can save disks only, not memory.",
        "REVERT": None,
        "DELETE": None,
        "UPDATE": "qemu-img cannot rename a snapshot, and a qcow2 image has no descriptions of snapshots.",
    }
    with running_qemu(vm) as process:
        refresh(gateway)
        reason = "The machine is running, and its image can be changed only while it is off. Shut it down first."
        assert machine(gateway)["powerState"] == "ON"
        assert {name: why for name, why in supported(gateway).items() if why == reason}.keys() == {
            "CREATE",
            "REVERT",
            "DELETE",
        }
        (error,) = mutate(gateway, CREATE, machineId=at, name="b")["errors"]
        assert (error["code"], error["message"]) == ("UNSUPPORTED", reason)
        out, _ = process.communicate("savevm with-memory\nquit\n", timeout=30)
        assert "Error" not in out
    refresh(gateway)
    assert machine(gateway)["powerState"] == "OFF"
    shown = [(node["name"], node["memory"]) for node in machine(gateway)["snapshots"]["nodes"]]
    assert shown == [("a", False), ("with-memory", True)]
    succeed(gateway, REVERT, snapshotId=made["a"])
    succeed(gateway, DELETE, ids=[snapshots(gateway)["with-memory"]])
    assert snapshots(gateway) == made


def test_an_interrupted_revert_is_completed_before_it_succeeds(vm: Path, databases: Databases) -> None:
    """When `qemu-img` is killed, the disk has its content, but the next write to it would change the snapshot."""
    image_files.qemu_img("snapshot", "-c", "a", vm)
    image_files.write(vm, 0x22)
    interrupt = image_files.interrupted_revert(vm)
    once = f'[ -e {vm}.cut ] && exec $QEMU_IMG "$@"; : >{vm}.cut; $QEMU_IMG "$@"; {interrupt}; kill -9 $$'
    program = image_files.fake_qemu_img(vm.parent.parent / "cut-off", once)
    with refreshed_gateway(configured(vm.parent, databases, program=program)) as gateway:
        succeed(gateway, REVERT, snapshotId=snapshots(gateway)["a"])
        for _ in range(2):
            assert image_files.contains(vm, 0x11)
            write(gateway, vm, 0x33)
            succeed(gateway, REVERT, snapshotId=snapshots(gateway)["a"])
    assert image_files.is_intact(vm)


def test_a_damaged_image_is_reported_and_does_not_hide_others(vm: Path, databases: Databases) -> None:
    vm.with_name("bad.qcow2").write_text("not an image")
    file = vm.parent.parent / "providers.toml"
    file.write_text(f'[lab]\ndriver = "qcow2"\ndirectory = "{vm.parent}"\n')
    with served(Settings(database_url=databases.new("sqlite"), providers_file=str(file))) as gateway:
        gateway.run(gateway.gateway.inventory.refresh_provider("lab"))
        assert machine(gateway)["name"] == "web"
        (provider,) = gateway.ask("{ providers { name problem } }")["providers"]
        problem = "1 of 2 machines could not be read: Machine 'bad' ('bad.qcow2'): The file is not a qcow2 image."
        assert provider == {"name": "lab", "problem": problem}


# ---- the gateway is killed

KINDS = ("create", "revert", "delete")


@pytest.fixture(scope="module")
def table() -> Iterator[list[tuple[str, ...]]]:
    lines: list[tuple[str, ...]] = [("killed when", "operation", "ended")]
    yield lines
    print()
    for line in lines:
        print(" ".join(f"{cell:{width}}" for cell, width in zip(line, (41, 10, 10), strict=True)))


def await_end(gateway: Program, id_: str) -> tuple[str, Any]:
    """Waits until an operation has ended; its state and error."""
    query = "subscription ($id: ID!) { operationUpdated(id: $id) { state isDone error { code message } } }"
    body = {"query": query, "variables": {"id": id_}}
    last: dict[str, Any] = {}
    with gateway.http.stream("POST", "/graphql", json=body, headers={"accept": "text/event-stream"}) as answer:
        for line in within(answer.iter_lines()):
            if line.startswith("data: {"):
                last = json.loads(line.removeprefix("data: "))["data"]["operationUpdated"]
    assert last["isDone"]
    return last["state"], last["error"]


def start_operations(gateway: Program) -> dict[str, str]:
    """Starts one operation of each kind, on the machine with that name. The operation ids by kind."""
    found = {}
    for vm in gateway.ask(MACHINES)["vms"]["nodes"]:
        (a,) = vm["snapshots"]["nodes"]
        mutation, given = {
            "create": (CREATE, {"machineId": vm["id"], "name": "b"}),
            "revert": (REVERT, {"snapshotId": a["id"]}),
            "delete": (DELETE, {"ids": [a["id"]]}),
        }[vm["name"]]
        (payload,) = gateway.ask(mutation, input=given).values()
        (accepted,) = payload.get("results", [payload])
        assert accepted["errors"] == []
        found[vm["name"]] = accepted["operation"]["id"]
    return found


@pytest.mark.parametrize(
    ("when", "label"),
    [
        ("before", "before qemu-img started"),
        ("after", "after qemu-img finished"),
        ("with it", "before qemu-img started, with it"),
    ],
)
def test_a_killed_gateway_completes_its_operations_after_a_restart(
    when: str, label: str, tmp_path: Path, databases: Databases, table: list[tuple[str, ...]]
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    vms = {kind: image_files.create_image(folder / f"{kind}.qcow2") for kind in KINDS}
    for vm in vms.values():
        image_files.write(vm, 0x11)
        image_files.qemu_img("snapshot", "-c", "a", vm)
        image_files.write(vm, 0x22)
    with image_files.Gate(tmp_path, "after" if when == "after" else "before") as gate:
        settings = configured(folder, databases, program=gate.program)
        known = {name: getattr(settings, name) for name in ("database_url", "providers_file", "operation_lease")}
        with serving(**known) as gateway:
            ids = start_operations(gateway)
            programs = gate.wait(len(KINDS))
            gateway.kill()
        if when == "with it":
            for program in programs:
                os.killpg(program, signal.SIGKILL)
        with serving(**known) as gateway:
            for id_ in ids.values():
                found = gateway.ask("query ($id: ID!) { operation(id: $id) { isDone } }", id=id_)
                assert found == {"operation": {"isDone": False}}
            gate.open(len(KINDS))
            ends = {kind: await_end(gateway, id_) for kind, id_ in ids.items()}
            assert ends == dict.fromkeys(KINDS, ("SUCCEEDED", None))
            shown = {vm["name"]: vm["snapshots"]["nodes"] for vm in gateway.ask(MACHINES)["vms"]["nodes"]}
    names = {kind: [(node["name"], node["state"]) for node in nodes] for kind, nodes in shown.items()}
    a, b = ("a", "READY"), ("b", "READY")
    assert names == {"create": [a, b], "revert": [a], "delete": []}
    assert {kind: len(image_files.tags(vm)) for kind, vm in vms.items()} == {"create": 2, "revert": 1, "delete": 0}
    assert [image_files.contains(vm, 0x11) for vm in vms.values()] == [False, True, False]
    assert all(image_files.is_intact(vm) for vm in vms.values())
    table += [(label, kind, state) for kind, (state, _) in ends.items()]
