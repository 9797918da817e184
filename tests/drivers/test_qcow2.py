"""The qcow2 driver on real images: what is on the disks, what snapshots are called, and machines that run."""

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
from tests.drivers.calling_qcow2 import TOKEN, VM, changes, create, delete, driver, revert, run, seen

image_files.need()


@pytest.fixture
def vm(tmp_path: Path) -> Path:
    """An image whose first bytes are 0x11."""
    path = image_files.image(tmp_path / VM)
    image_files.write(path, 0x11)
    return path


# ---- what is on the disk


def test_what_was_on_the_disk_is_back(vm: Path) -> None:
    a = create(vm, "a", "t1")
    image_files.write(vm, 0x22)
    b = create(vm, "b", "t2")
    image_files.write(vm, 0x33)
    revert(vm, a.ref)
    assert image_files.holds(vm, 0x11)
    revert(vm, b.ref)
    assert image_files.holds(vm, 0x22)
    delete(vm, a.ref)
    assert image_files.holds(vm, 0x22)
    image_files.write(vm, 0x44)
    revert(vm, b.ref)
    assert image_files.holds(vm, 0x22)
    delete(vm, b.ref)
    assert (image_files.holds(vm, 0x22), seen(vm)) == (True, {})
    assert image_files.is_whole(vm)


# ---- what it is called


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
def test_a_tag_is_the_users_name_and_the_token(vm: Path, name: str, tag: str, shown: str) -> None:
    made = create(vm, name)
    assert image_files.tags(vm) == [tag]
    assert (made.name, made.token, made.memory, made.size_bytes, made.ready) == (shown, TOKEN, False, None, True)
    assert seen(vm) == {made.ref: shown}
    delete(vm, made.ref)
    assert image_files.tags(vm) == []


def test_a_tag_that_looks_like_an_id_misleads_nobody(vm: Path) -> None:
    for pattern, tag in ((0x11, "2"), (0x22, "1")):
        image_files.write(vm, pattern)
        image_files.qemu_img("snapshot", "-c", tag, vm)
    (first, named_2), (second, named_1) = seen(vm).items()
    assert (named_2, named_1) == ("2", "1")
    revert(vm, first)
    assert image_files.holds(vm, 0x11)
    revert(vm, second)
    assert image_files.holds(vm, 0x22)
    delete(vm, second)
    assert seen(vm) == {first: "2"}


@pytest.mark.parametrize("tag", ["same", "", "-d", b"\xff\xfe", "x" * 300])
def test_of_equal_tags_only_the_oldest_can_be_deleted(vm: Path, tag: str | bytes) -> None:
    for pattern in (0x11, 0x22):
        image_files.write(vm, pattern)
        image_files.qemu_img("snapshot", "-c", tag, vm)
    older, newer = seen(vm)
    with pytest.raises(ProviderRefused, match="qemu-img deletes that one first"):
        delete(vm, newer)
    assert list(seen(vm)) == [older, newer]
    revert(vm, older)
    assert image_files.holds(vm, 0x11)
    delete(vm, older)
    assert list(seen(vm)) == [newer]
    revert(vm, newer)
    assert image_files.holds(vm, 0x22)
    delete(vm, newer)
    assert seen(vm) == {}


def test_an_id_that_is_used_again_is_another_snapshot(vm: Path) -> None:
    old = create(vm, "old", "t1")
    image_files.qemu_img("snapshot", "-d", image_files.tags(vm)[0], vm)
    image_files.write(vm, 0x22)
    image_files.qemu_img("snapshot", "-c", "new", vm)
    (new,) = seen(vm)
    assert (old.ref.split("@")[0], new.split("@")[0]) == ("1", "1")
    for call in changes(vm, old.ref)[1:]:
        with pytest.raises(ProviderMissing):
            call()
    assert (seen(vm), image_files.holds(vm, 0x22)) == ({new: "new"}, True)


# ---- machines that run


def test_a_machine_that_runs_is_left_alone(vm: Path) -> None:
    made = create(vm)
    matrix = driver(vm.parent).matrix(MachineKind.VM)
    with image_files.opened(vm):
        assert run(driver(vm.parent).machine(VM)).power_state is PowerState.ON
        for action, call in zip(("CREATE", "REVERT", "DELETE"), changes(vm, made.ref), strict=True):
            with pytest.raises(ProviderRefused, match="shut it down first") as caught:
                call()
            assert caught.value.message == matrix.reason_against(SnapshotAction(action), PowerState.ON)
        assert seen(vm) == {made.ref: "a"}
    assert run(driver(vm.parent).machine(VM)).power_state is PowerState.OFF
    for call in changes(vm, made.ref):
        call()


def test_a_machine_that_starts_meanwhile_is_busy(vm: Path) -> None:
    made = create(vm)
    for kind, wish in (
        ("create", CreateCommand(VM, "b", None, False)),
        ("revert", RevertCommand(VM, made.ref)),
        ("delete", DeleteCommand(VM, made.ref)),
    ):
        before = vm.read_bytes()
        holding = image_files.opened(vm)

        async def start(_: str, holding: Any = holding) -> None:
            holding.__enter__()

        try:
            with pytest.raises(ProviderBusy, match="another program is using the image") as caught:
                run(getattr(driver(vm.parent), kind)(Work("w", checkpoint=start), wish))
        finally:
            holding.__exit__(None, None, None)
        assert 'Failed to get "write" lock' in (caught.value.provider_message or "")
        assert vm.read_bytes() == before


def test_an_image_that_is_being_read_is_busy(vm: Path) -> None:
    """As the base of a machine that runs, or while it is copied."""
    made = create(vm)
    with image_files.opened(vm, "-r"):
        for call in changes(vm, made.ref):
            with pytest.raises(ProviderBusy, match="another program is using the image"):
                call()
    assert seen(vm) == {made.ref: "a"}


# ---- options


def test_options(tmp_path: Path) -> None:
    def reveal(*_: object) -> Any:
        raise AssertionError

    options, faults = read_options(Options, {"directory": str(tmp_path)}, reveal)
    assert (options, faults) == (Options(directory=str(tmp_path), program="qemu-img"), [])
    assert options is not None
    assert make("p", options, 1).name == "qcow2"
    for table, fault in (({}, "needs 'directory': "), ({"directory": ""}, "has an empty 'directory'")):
        _, (said,) = read_options(Options, table, reveal)
        assert said.startswith(fault)
