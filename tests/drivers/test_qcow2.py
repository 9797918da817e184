"""Tests the qcow2 driver on real images: disk contents, snapshot names, running machines and options."""

from pathlib import Path
from typing import Any

import pytest

from gateway.drivers.base import CreateCommand, DeleteCommand, RevertCommand, Work
from gateway.drivers.options import read_options
from gateway.drivers.qcow2.driver import Options, make
from gateway.errors import (
    ProviderBusy,
    ProviderMissing,
    ProviderRefused,
)
from gateway.models import MachineKind, PowerState, SnapshotAction
from tests.drivers import image_files
from tests.drivers.qcow2_calls import TOKEN, VM, all_changes, create, delete, driver, revert, run, snapshot_names

image_files.skip_without_qemu()


@pytest.fixture
def vm(tmp_path: Path) -> Path:
    """An image whose first bytes are 0x11."""
    path = image_files.create_image(tmp_path / VM)
    image_files.write(path, 0x11)
    return path


# ---- disk contents


def test_revert_restores_the_disk(vm: Path) -> None:
    a = create(vm, "a", "t1")
    image_files.write(vm, 0x22)
    b = create(vm, "b", "t2")
    image_files.write(vm, 0x33)
    revert(vm, a.ref)
    assert image_files.contains(vm, 0x11)
    revert(vm, b.ref)
    assert image_files.contains(vm, 0x22)
    delete(vm, a.ref)
    assert image_files.contains(vm, 0x22)
    image_files.write(vm, 0x44)
    revert(vm, b.ref)
    assert image_files.contains(vm, 0x22)
    delete(vm, b.ref)
    assert (image_files.contains(vm, 0x22), snapshot_names(vm)) == (True, {})
    assert image_files.is_intact(vm)


# ---- tags


@pytest.mark.parametrize(
    ("name", "tag", "shown"),
    [
        ("before the move", f"before the move [snapshot-gateway:{TOKEN}]", "before the move"),
        ("1", f"1 [snapshot-gateway:{TOKEN}]", "1"),
        ("-c", f"-c [snapshot-gateway:{TOKEN}]", "-c"),
        ("x" * 255, f"{'x' * 203} [snapshot-gateway:{TOKEN}]", "x" * 203),
        ("☃" * 255, f"{'☃' * 67} [snapshot-gateway:{TOKEN}]", "☃" * 67),
        ("a\tb\0c\x7f\ufffe", f"a b c [snapshot-gateway:{TOKEN}]", "a b c"),
        ("[snapshot-gateway:1]", f"[snapshot-gateway:1] [snapshot-gateway:{TOKEN}]", "[snapshot-gateway:1]"),
        ("\n", f" [snapshot-gateway:{TOKEN}]", ""),
    ],
)
def test_tag_consists_of_the_name_and_the_token(vm: Path, name: str, tag: str, shown: str) -> None:
    made = create(vm, name)
    assert image_files.tags(vm) == [tag]
    assert (made.name, made.token, made.memory, made.size_bytes, made.ready) == (shown, TOKEN, False, None, True)
    assert snapshot_names(vm) == {made.ref: shown}
    delete(vm, made.ref)
    assert image_files.tags(vm) == []


def test_tags_that_look_like_ids_are_not_mistaken_for_ids(vm: Path) -> None:
    for pattern, tag in ((0x11, "2"), (0x22, "1")):
        image_files.write(vm, pattern)
        image_files.qemu_img("snapshot", "-c", tag, vm)
    (first, named_2), (second, named_1) = snapshot_names(vm).items()
    assert (named_2, named_1) == ("2", "1")
    revert(vm, first)
    assert image_files.contains(vm, 0x11)
    revert(vm, second)
    assert image_files.contains(vm, 0x22)
    delete(vm, second)
    assert snapshot_names(vm) == {first: "2"}


@pytest.mark.parametrize("tag", ["same", "", "-d", b"\xff\xfe", "x" * 300])
def test_only_the_oldest_of_equal_tags_can_be_deleted(vm: Path, tag: str | bytes) -> None:
    for pattern in (0x11, 0x22):
        image_files.write(vm, pattern)
        image_files.qemu_img("snapshot", "-c", tag, vm)
    older, newer = snapshot_names(vm)
    with pytest.raises(ProviderRefused, match="qemu-img deletes that one first"):
        delete(vm, newer)
    assert list(snapshot_names(vm)) == [older, newer]
    revert(vm, older)
    assert image_files.contains(vm, 0x11)
    delete(vm, older)
    assert list(snapshot_names(vm)) == [newer]
    revert(vm, newer)
    assert image_files.contains(vm, 0x22)
    delete(vm, newer)
    assert snapshot_names(vm) == {}


def test_a_reused_id_is_another_snapshot(vm: Path) -> None:
    old = create(vm, "old", "t1")
    image_files.qemu_img("snapshot", "-d", image_files.tags(vm)[0], vm)
    image_files.write(vm, 0x22)
    image_files.qemu_img("snapshot", "-c", "new", vm)
    (new,) = snapshot_names(vm)
    assert (old.ref.split("@")[0], new.split("@")[0]) == ("1", "1")
    for call in all_changes(vm, old.ref)[1:]:
        with pytest.raises(ProviderMissing):
            call()
    assert (snapshot_names(vm), image_files.contains(vm, 0x22)) == ({new: "new"}, True)


# ---- other images


@pytest.mark.parametrize("change", ["create", "revert", "delete"])
def test_a_link_that_replaces_the_image_is_not_followed(vm: Path, tmp_path: Path, change: str) -> None:
    """It could lead to an image of another provider, which may have a snapshot with the same tag and id."""
    other = image_files.create_image(tmp_path / "other.img")
    for path in (vm, other):
        image_files.qemu_img("snapshot", "-c", "backup", path)
        image_files.write(path, 0x22)
    (ref,) = snapshot_names(vm)
    moved = tmp_path / "moved.img"

    def swap() -> None:
        vm.rename(moved)
        vm.symlink_to(other)

    async def replace(_: str) -> None:
        swap()

    work = Work(TOKEN, checkpoint=replace)
    match change:
        case "create":
            run(driver(vm.parent).create(work, CreateCommand(VM, "a", None, False)))
        case "revert":
            run(driver(vm.parent).revert(work, RevertCommand(VM, ref)))
        case _:
            run(driver(vm.parent).delete(work, DeleteCommand(VM, ref)))
    assert (image_files.tags(other), image_files.contains(other, 0x22)) == (["backup"], True)
    assert (len(image_files.tags(moved)), image_files.contains(moved, 0x22)) == {
        "create": (2, True),
        "revert": (1, False),
        "delete": (0, True),
    }[change]


@pytest.mark.parametrize("name", ["base.img", "a,b/base, with=commas.img"])
def test_base_images_with_relative_names(tmp_path: Path, name: str) -> None:
    base = tmp_path / name
    base.parent.mkdir(exist_ok=True)
    image_files.write(image_files.create_image(base), 0x11)
    vm = tmp_path / VM
    image_files.qemu_img("create", "-q", "-f", "qcow2", "-u", "-b", name, "-F", "qcow2", vm, "1M")
    made = create(vm)
    image_files.write(vm, 0x22)
    revert(vm, made.ref)
    assert image_files.contains(vm, 0x11)
    delete(vm, made.ref)
    assert snapshot_names(vm) == {}
    base.unlink()
    with pytest.raises(ProviderRefused) as raised:
        create(vm)
    reason = f"Could not open backing file: Could not open '{base}': No such file or directory"
    assert raised.value.provider_message == f"qemu-img: Could not open '{VM}': {reason}"


# ---- running machines


def test_a_running_machine_is_not_changed(vm: Path) -> None:
    made = create(vm)
    matrix = driver(vm.parent).matrix(MachineKind.VM)
    with image_files.held_open(vm):
        assert run(driver(vm.parent).machine(VM)).power_state is PowerState.ON
        for action, call in zip(("CREATE", "REVERT", "DELETE"), all_changes(vm, made.ref), strict=True):
            with pytest.raises(ProviderRefused, match="Shut it down first") as caught:
                call()
            assert caught.value.message == matrix.unsupported_reason(SnapshotAction(action), PowerState.ON)
        assert snapshot_names(vm) == {made.ref: "a"}
    assert run(driver(vm.parent).machine(VM)).power_state is PowerState.OFF
    for call in all_changes(vm, made.ref):
        call()


def test_a_machine_that_starts_during_the_command_is_busy(vm: Path) -> None:
    made = create(vm)
    for kind, command in (
        ("create", CreateCommand(VM, "b", None, False)),
        ("revert", RevertCommand(VM, made.ref)),
        ("delete", DeleteCommand(VM, made.ref)),
    ):
        before = vm.read_bytes()
        holding = image_files.held_open(vm)

        async def start(_: str, holding: Any = holding) -> None:
            holding.__enter__()

        try:
            with pytest.raises(ProviderBusy, match="Another program is using the image") as caught:
                run(getattr(driver(vm.parent), kind)(Work("w", checkpoint=start), command))
        finally:
            holding.__exit__(None, None, None)
        assert 'Failed to get "write" lock' in (caught.value.provider_message or "")
        assert vm.read_bytes() == before


def test_an_image_that_is_open_for_reading_is_busy(vm: Path) -> None:
    """For example the base image of a running machine, or an image that is being copied."""
    made = create(vm)
    with image_files.held_open(vm, "-r"):
        for call in all_changes(vm, made.ref):
            with pytest.raises(ProviderBusy, match="Another program is using the image"):
                call()
    assert snapshot_names(vm) == {made.ref: "a"}


# ---- options


def test_options(tmp_path: Path) -> None:
    def reveal(*_: object) -> Any:
        raise AssertionError

    options, faults = read_options(Options, {"directory": str(tmp_path)}, reveal)
    assert (options, faults) == (Options(directory=str(tmp_path), program="qemu-img"), [])
    assert options is not None
    assert make("p", options, 1).name == "qcow2"
    for table, fault in (
        ({}, "Option 'directory' is required: "),
        ({"directory": ""}, "Option 'directory' must not be empty."),
    ):
        _, (message,) = read_options(Options, table, reveal)
        assert message.startswith(fault)
