"""A folder of images behind a gateway: what is on the disks, through GraphQL alone.

The table that `pytest -s` shows: how each operation was found after the gateway was killed, and how it ended.
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
from tests.graphql.asking import CREATE, DELETE, REFRESH, REVERT, wish
from tests.serving import Served, served

pytestmark = pytest.mark.thorough

image_files.need()

QEMU = "qemu-system-x86_64"

SEEN = (
    "{ vms { nodes { id name provider providerRef powerState capabilities { action supported reason } currentSnapshot"
    " { id } snapshots(sort: [{field: CREATED_AT}]) { nodes { id name description memory state providerRef"
    " parent { id } } } } } }"
)


def configured(folder: Path, databases: Databases, **options: str) -> Settings:
    """Settings with one provider, `lab`, whose machines have been met."""
    lines = ["[lab]", 'driver = "qcow2"', *(f'{name} = "{value}"' for name, value in options.items())]
    file = folder.parent / "providers.toml"
    file.write_text("\n".join([*lines, f'directory = "{folder}"']))
    settings = Settings(database_url=databases.new("sqlite"), providers_file=str(file), operation_lease=1.0)
    code, said, _ = run("refresh", "lab", database_url=settings.database_url, providers_file=file)
    assert (code, said) == (0, said)
    return settings


@pytest.fixture
def vm(tmp_path: Path) -> Path:
    """An image in a folder of its own; it holds 0x11."""
    (tmp_path / "images").mkdir()
    path = image_files.image(tmp_path / "images" / "web.qcow2")
    image_files.write(path, 0x11)
    return path


@pytest.fixture
def gateway(vm: Path, databases: Databases) -> Iterator[Served]:
    with looked_through(configured(vm.parent, databases)) as gateway:
        yield gateway


@contextmanager
def looked_through(settings: Settings) -> Iterator[Served]:
    """A gateway that has read everything once, as it does at the start, and does not again for a while."""
    begun = now()
    with served(settings) as gateway:
        for _ in range(10_000):
            (provider,) = gateway.ask("{ providers { observedAt } }")["providers"]
            if provider["observedAt"] and datetime.fromisoformat(provider["observedAt"]) >= begun:
                yield gateway
                return
    raise AssertionError("the provider is not read")


def machine(gateway: Served | Program) -> dict[str, Any]:
    """The only one there is."""
    (found,) = gateway.ask(SEEN)["vms"]["nodes"]
    result: dict[str, Any] = found
    return result


def snapshots(gateway: Served | Program) -> dict[str, str]:
    """The id of each of its snapshots that are as they should be, by name, oldest first."""
    nodes = machine(gateway)["snapshots"]["nodes"]
    assert {node["state"] for node in nodes} <= {"READY"}
    return {node["name"]: node["id"] for node in nodes}


def done(gateway: Served, mutation: str, **given: Any) -> None:
    """Asks for something, and sees it come to a good end."""
    payload = wish(gateway, mutation, **given)
    (accepted,) = payload.get("results", [payload])
    assert accepted["errors"] == []
    operation = gateway.await_operation(accepted["operation"]["id"])
    assert (operation["state"], operation["error"]) == ("SUCCEEDED", None)


def refresh(gateway: Served) -> None:
    done(gateway, REFRESH, machineId=machine(gateway)["id"])


def write(gateway: Served, vm: Path, pattern: int) -> None:
    """The machine writes, and is off again. The gateway looks by itself after a revert, and may have seen it run."""
    image_files.write(vm, pattern)
    for _ in range(10):
        refresh(gateway)
        if machine(gateway)["powerState"] == "OFF":
            return
    raise AssertionError("it is still seen running")


def supported(gateway: Served) -> dict[str, str | None]:
    """The reason against each action; None for what can be done."""
    return {each["action"]: each["reason"] for each in machine(gateway)["capabilities"]}


def test_what_was_on_the_disk_is_back(gateway: Served, vm: Path) -> None:
    at = machine(gateway)["id"]
    done(gateway, CREATE, machineId=at, name="before: ☃", description="the first")
    write(gateway, vm, 0x22)
    done(gateway, CREATE, machineId=at, name="after")
    write(gateway, vm, 0x33)
    made = snapshots(gateway)
    assert list(made) == ["before: ☃", "after"]
    done(gateway, REVERT, snapshotId=made["before: ☃"])
    assert image_files.holds(vm, 0x11)
    done(gateway, REVERT, snapshotId=made["after"])
    assert image_files.holds(vm, 0x22)
    done(gateway, DELETE, ids=[made["before: ☃"]])
    assert image_files.holds(vm, 0x22)
    write(gateway, vm, 0x44)
    done(gateway, REVERT, snapshotId=made["after"])
    assert image_files.holds(vm, 0x22)
    assert snapshots(gateway) == {"after": made["after"]}
    done(gateway, DELETE, ids=[made["after"]])
    assert (snapshots(gateway), image_files.tags(vm), image_files.holds(vm, 0x22)) == ({}, [], True)
    assert image_files.is_whole(vm)


def test_a_refresh_keeps_what_the_image_has_no_room_for(gateway: Served, vm: Path) -> None:
    done(gateway, CREATE, machineId=machine(gateway)["id"], name="n" * 255, description="why")
    before = machine(gateway)
    assert before["snapshots"]["nodes"][0]["name"] == "n" * 255
    refresh(gateway)
    assert machine(gateway) == before
    (node,) = before["snapshots"]["nodes"]
    assert (node["description"], node["memory"], node["parent"]) == ("why", False, None)
    assert before["currentSnapshot"] is None
    assert image_files.tags(vm)[0].startswith("n" * 200)


def test_what_qemu_img_does_beside_the_gateway_is_seen(gateway: Served, vm: Path) -> None:
    done(gateway, CREATE, machineId=machine(gateway)["id"], name="ours")
    ours = snapshots(gateway)
    write(gateway, vm, 0x22)
    image_files.qemu_img("snapshot", "-c", "theirs", vm)
    refresh(gateway)
    both = snapshots(gateway)
    assert (list(both), both["ours"]) == (["ours", "theirs"], ours["ours"])
    image_files.qemu_img("snapshot", "-a", image_files.tags(vm)[0], vm)
    refresh(gateway)
    assert snapshots(gateway) == both
    done(gateway, REVERT, snapshotId=both["theirs"])
    assert image_files.holds(vm, 0x22)
    image_files.qemu_img("snapshot", "-d", image_files.tags(vm)[0], vm)
    refresh(gateway)
    assert snapshots(gateway) == {"theirs": both["theirs"]}
    image_files.qemu_img("snapshot", "-d", "theirs", vm)
    image_files.qemu_img("snapshot", "-c", "theirs", vm)  # another one, with the same name and number
    refresh(gateway)
    (again,) = snapshots(gateway).values()
    assert again != both["theirs"]
    done(gateway, DELETE, ids=[again])
    assert image_files.tags(vm) == []


@contextmanager
def booted(vm: Path) -> Iterator["subprocess.Popen[str]"]:
    """A real QEMU that has the image as its disk; its monitor is asked by standard input."""
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
        assert "QEMU" in process.stdout.readline()  # it has the disk by now
        try:
            yield process
        finally:
            process.kill()


def test_a_machine_that_runs_can_only_be_read(gateway: Served, vm: Path) -> None:
    at = machine(gateway)["id"]
    done(gateway, CREATE, machineId=at, name="a")
    made = snapshots(gateway)
    assert supported(gateway) == {
        "READ": None,
        "CREATE": None,
        "CREATE_WITH_MEMORY": "only disks can be saved here, not memory",
        "REVERT": None,
        "DELETE": None,
    }
    with booted(vm) as process:
        refresh(gateway)
        reason = "the machine is running, and its image can be changed only while it is off; shut it down first"
        assert machine(gateway)["powerState"] == "ON"
        assert {name: why for name, why in supported(gateway).items() if why == reason}.keys() == {
            "CREATE",
            "REVERT",
            "DELETE",
        }
        (error,) = wish(gateway, CREATE, machineId=at, name="b")["errors"]
        assert (error["code"], error["message"]) == ("UNSUPPORTED", reason)
        out, _ = process.communicate("savevm with-memory\nquit\n", timeout=30)
        assert "Error" not in out
    refresh(gateway)
    assert machine(gateway)["powerState"] == "OFF"
    shown = [(node["name"], node["memory"]) for node in machine(gateway)["snapshots"]["nodes"]]
    assert shown == [("a", False), ("with-memory", True)]
    done(gateway, REVERT, snapshotId=made["a"])
    done(gateway, DELETE, ids=[snapshots(gateway)["with-memory"]])
    assert snapshots(gateway) == made


def test_a_revert_that_is_cut_off_is_finished_before_it_is_called_done(vm: Path, databases: Databases) -> None:
    """The disk is back when `qemu-img` is killed, but what is written next would harm the snapshot."""
    image_files.qemu_img("snapshot", "-c", "a", vm)
    image_files.write(vm, 0x22)
    once = f'[ -e {vm}.cut ] && exec $QEMU_IMG "$@"; : >{vm}.cut; $QEMU_IMG "$@"; {image_files.tearing(vm)}; kill -9 $$'
    program = image_files.script(vm.parent.parent / "cut-off", once)
    with looked_through(configured(vm.parent, databases, program=program)) as gateway:
        done(gateway, REVERT, snapshotId=snapshots(gateway)["a"])
        for _ in range(2):
            assert image_files.holds(vm, 0x11)
            write(gateway, vm, 0x33)
            done(gateway, REVERT, snapshotId=snapshots(gateway)["a"])
    assert image_files.is_whole(vm)


def test_a_bad_image_is_told_of_and_hides_no_other(vm: Path, databases: Databases) -> None:
    vm.with_name("bad.qcow2").write_text("not an image")
    file = vm.parent.parent / "providers.toml"
    file.write_text(f'[lab]\ndriver = "qcow2"\ndirectory = "{vm.parent}"\n')
    with served(Settings(database_url=databases.new("sqlite"), providers_file=str(file))) as gateway:
        gateway.run(gateway.gateway.inventory.refresh_provider("lab"))
        assert machine(gateway)["name"] == "web"
        (provider,) = gateway.ask("{ providers { name problem } }")["providers"]
        assert provider == {"name": "lab", "problem": "1 of 2 machines: the file is not a qcow2 image"}


# ---- the gateway is killed

KINDS = ("create", "revert", "delete")


@pytest.fixture(scope="module")
def table() -> Iterator[list[tuple[str, ...]]]:
    lines: list[tuple[str, ...]] = [("killed when", "operation", "ended")]
    yield lines
    print()
    for line in lines:
        print(" ".join(f"{cell:{width}}" for cell, width in zip(line, (41, 10, 10), strict=True)))


def follow(gateway: Program, id_: str) -> tuple[str, Any]:
    """State and error of an operation that has ended."""
    query = "subscription ($id: ID!) { operationUpdated(id: $id) { state isDone error { code message } } }"
    body = {"query": query, "variables": {"id": id_}}
    last: dict[str, Any] = {}
    with gateway.http.stream("POST", "/graphql", json=body, headers={"accept": "text/event-stream"}) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                last = json.loads(line.removeprefix("data: "))["data"]["operationUpdated"]
    assert last["isDone"]
    return last["state"], last["error"]


def asked(gateway: Program) -> dict[str, str]:
    """One operation of each kind, on the machine of its name: its id."""
    found = {}
    for vm in gateway.ask(SEEN)["vms"]["nodes"]:
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
    ("when", "words"),
    [
        ("before", "qemu-img was about to begin"),
        ("after", "qemu-img had done its work"),
        ("with it", "qemu-img was to begin, and killed as well"),
    ],
)
def test_a_gateway_that_is_killed_finishes_later(
    when: str, words: str, tmp_path: Path, databases: Databases, table: list[tuple[str, ...]]
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    vms = {kind: image_files.image(folder / f"{kind}.qcow2") for kind in KINDS}
    for vm in vms.values():
        image_files.write(vm, 0x11)
        image_files.qemu_img("snapshot", "-c", "a", vm)
        image_files.write(vm, 0x22)
    with image_files.Gate(tmp_path, "after" if when == "after" else "before") as gate:
        settings = configured(folder, databases, program=gate.program)
        known = {name: getattr(settings, name) for name in ("database_url", "providers_file", "operation_lease")}
        with serving(**known) as gateway:
            ids = asked(gateway)
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
            ends = {kind: follow(gateway, id_) for kind, id_ in ids.items()}
            assert ends == dict.fromkeys(KINDS, ("SUCCEEDED", None))
            shown = {vm["name"]: vm["snapshots"]["nodes"] for vm in gateway.ask(SEEN)["vms"]["nodes"]}
    names = {kind: [(node["name"], node["state"]) for node in nodes] for kind, nodes in shown.items()}
    a, b = ("a", "READY"), ("b", "READY")
    assert names == {"create": [a, b], "revert": [a], "delete": []}
    assert {kind: len(image_files.tags(vm)) for kind, vm in vms.items()} == {"create": 2, "revert": 1, "delete": 0}
    assert [image_files.holds(vm, 0x11) for vm in vms.values()] == [False, True, False]
    assert all(image_files.is_whole(vm) for vm in vms.values())
    table += [(words, kind, state) for kind, (state, _) in ends.items()]
