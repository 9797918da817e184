"""The qcow2 driver on real images: what is on the disks, what snapshots are called, and every way it can go wrong."""

import asyncio
import os
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from gateway.drivers.base import CreateWish, DeleteWish, RevertWish, SeenSnapshot, Work
from gateway.drivers.options import read_options
from gateway.drivers.qcow2 import Options, Qcow2Driver, make
from gateway.errors import (
    OutcomeUnknown,
    ProviderBusy,
    ProviderDenied,
    ProviderError,
    ProviderFull,
    ProviderMissing,
    ProviderRefused,
    ProviderUnavailable,
)
from gateway.models import MachineKind, PowerState, SnapshotAction
from tests.databases import required
from tests.drivers import images

if reason := images.lacking():
    if required("qcow2"):
        raise RuntimeError(reason)
    pytest.skip(reason, allow_module_level=True)

TOKEN = "0123456789abcdef" * 2
VM = "vm.qcow2"


@pytest.fixture
def vm(tmp_path: Path) -> Path:
    """An image whose first bytes are 0x11."""
    path = images.image(tmp_path / VM)
    images.write(path, 0x11)
    return path


def driver(folder: Path, program: str = "qemu-img", patience: float = 30) -> Qcow2Driver:
    return Qcow2Driver(Options(directory=str(folder), program=program), 2, patience)


def run(call: Awaitable[Any]) -> Any:
    async def inside() -> Any:
        return await call

    return asyncio.run(inside())


def create(vm: Path, name: str = "a", token: str = TOKEN, **options: Any) -> SeenSnapshot:
    made = run(driver(vm.parent, **options).create(Work(token), CreateWish(vm.name, name, None, False)))
    assert isinstance(made, SeenSnapshot)
    return made


def revert(vm: Path, ref: str, **options: Any) -> None:
    run(driver(vm.parent, **options).revert(Work("r"), RevertWish(vm.name, ref)))


def delete(vm: Path, ref: str, **options: Any) -> None:
    run(driver(vm.parent, **options).delete(Work("d"), DeleteWish(vm.name, ref)))


def seen(vm: Path) -> dict[str, str]:
    """The name of each snapshot, by ref."""
    return {snapshot.ref: snapshot.name for snapshot in run(driver(vm.parent).snapshots(vm.name)).snapshots}


def changes(vm: Path, ref: str, **options: Any) -> list[Callable[[], object]]:
    """One of each kind."""
    return [
        partial(create, vm, token="another", **options),
        partial(revert, vm, ref, **options),
        partial(delete, vm, ref, **options),
    ]


# ---- what is on the disk


def test_what_was_on_the_disk_is_back(vm: Path) -> None:
    a = create(vm, "a", "t1")
    images.write(vm, 0x22)
    b = create(vm, "b", "t2")
    images.write(vm, 0x33)
    revert(vm, a.ref)
    assert images.holds(vm, 0x11)
    revert(vm, b.ref)
    assert images.holds(vm, 0x22)
    delete(vm, a.ref)
    assert images.holds(vm, 0x22)
    images.write(vm, 0x44)
    revert(vm, b.ref)
    assert images.holds(vm, 0x22)
    delete(vm, b.ref)
    assert (images.holds(vm, 0x22), seen(vm)) == (True, {})
    assert images.is_whole(vm)


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
    assert images.tags(vm) == [tag]
    assert (made.name, made.token, made.memory, made.size_bytes, made.ready) == (shown, TOKEN, False, None, True)
    assert seen(vm) == {made.ref: shown}
    delete(vm, made.ref)
    assert images.tags(vm) == []


def test_a_tag_that_looks_like_an_id_misleads_nobody(vm: Path) -> None:
    for pattern, tag in ((0x11, "2"), (0x22, "1")):
        images.write(vm, pattern)
        images.qemu_img("snapshot", "-c", tag, vm)
    (first, named_2), (second, named_1) = seen(vm).items()
    assert (named_2, named_1) == ("2", "1")
    revert(vm, first)
    assert images.holds(vm, 0x11)
    revert(vm, second)
    assert images.holds(vm, 0x22)
    delete(vm, second)
    assert seen(vm) == {first: "2"}


@pytest.mark.parametrize("tag", ["same", "", "-d", b"\xff\xfe", "x" * 300])
def test_of_equal_tags_only_the_oldest_can_be_deleted(vm: Path, tag: str | bytes) -> None:
    for pattern in (0x11, 0x22):
        images.write(vm, pattern)
        images.qemu_img("snapshot", "-c", tag, vm)
    older, newer = seen(vm)
    with pytest.raises(ProviderRefused, match="qemu-img deletes that one first"):
        delete(vm, newer)
    assert list(seen(vm)) == [older, newer]
    revert(vm, older)
    assert images.holds(vm, 0x11)
    delete(vm, older)
    assert list(seen(vm)) == [newer]
    revert(vm, newer)
    assert images.holds(vm, 0x22)
    delete(vm, newer)
    assert seen(vm) == {}


def test_an_id_that_is_used_again_is_another_snapshot(vm: Path) -> None:
    old = create(vm, "old", "t1")
    images.qemu_img("snapshot", "-d", images.tags(vm)[0], vm)
    images.write(vm, 0x22)
    images.qemu_img("snapshot", "-c", "new", vm)
    (new,) = seen(vm)
    assert (old.ref.split("@")[0], new.split("@")[0]) == ("1", "1")
    for call in changes(vm, old.ref)[1:]:
        with pytest.raises(ProviderMissing):
            call()
    assert (seen(vm), images.holds(vm, 0x22)) == ({new: "new"}, True)


# ---- machines that run


def test_a_machine_that_runs_is_left_alone(vm: Path) -> None:
    made = create(vm)
    matrix = driver(vm.parent).matrix(MachineKind.VM)
    with images.opened(vm):
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
        ("create", CreateWish(VM, "b", None, False)),
        ("revert", RevertWish(VM, made.ref)),
        ("delete", DeleteWish(VM, made.ref)),
    ):
        before = vm.read_bytes()
        holding = images.opened(vm)

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
    with images.opened(vm, "-r"):
        for call in changes(vm, made.ref):
            with pytest.raises(ProviderBusy, match="another program is using the image"):
                call()
    assert seen(vm) == {made.ref: "a"}


# ---- files that are bad, or not to be had


def test_a_bad_image_hides_no_other(vm: Path) -> None:
    made = create(vm)
    bad = vm.with_name("bad.qcow2")
    bad.write_text("not an image")
    listed = run(driver(vm.parent).machines())
    assert [(machine.ref, machine.name, machine.power_state) for machine in listed] == [
        ("bad.qcow2", "bad", PowerState.UNKNOWN),
        (VM, "vm", PowerState.OFF),
    ]
    for call in (lambda: seen(bad), *changes(bad, made.ref)):
        with pytest.raises(ProviderRefused, match="the file is not a qcow2 image"):
            call()
    assert bad.read_text() == "not an image"


def test_what_qemu_img_cannot_do_is_refused_in_its_own_words(tmp_path: Path) -> None:
    vm = images.image(tmp_path / VM, "1M", "-o", f"data_file={tmp_path}/data")
    with pytest.raises(ProviderRefused, match="qemu-img refused") as caught:
        create(vm)
    assert "Operation not supported" in (caught.value.provider_message or "")
    assert str(tmp_path) not in (caught.value.provider_message or "")
    assert seen(vm) == {}


def test_an_image_that_is_gone_is_missing(vm: Path) -> None:
    made = create(vm)
    vm.unlink()
    for call in (lambda: seen(vm), lambda: run(driver(vm.parent).machine(VM)), *changes(vm, made.ref)):
        with pytest.raises(ProviderMissing):
            call()
    assert run(driver(vm.parent).machines()) == []


def test_a_folder_that_is_gone_is_not_an_empty_one(vm: Path) -> None:
    made = create(vm)
    vm.parent.rename(vm.parent.with_name("elsewhere"))
    away = driver(vm.parent)
    for call in (
        lambda: run(away.machines()),
        lambda: run(away.machine(VM)),
        lambda: run(away.health()),
        lambda: run(away.recover(Work("d", "t"), DeleteWish(VM, made.ref))),
        lambda: seen(vm),
        *changes(vm, made.ref),
    ):
        with pytest.raises(ProviderUnavailable, match="the folder of images cannot be listed"):
            call()


@contextmanager
def without_rights() -> Iterator[None]:
    """With no other rights than a file gives to everybody, or to the owner who is not root."""
    was = os.geteuid()
    if was == 0:
        os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(was)


def test_what_the_gateway_may_not_do_is_denied() -> None:
    with TemporaryDirectory() as name:  # pytest's own directories are only for who made them
        folder = Path(name)
        folder.chmod(0o755)
        vm = images.image(folder / VM)
        made = create(vm)
        vm.chmod(0o444)
        with without_rights():
            for call in changes(vm, made.ref):
                with pytest.raises(ProviderDenied, match="the image cannot be opened"):
                    call()
            assert (seen(vm), run(driver(folder).machine(VM)).power_state) == ({made.ref: "a"}, PowerState.OFF)
        vm.chmod(0)
        with without_rights():
            assert [machine.power_state for machine in run(driver(folder).machines())] == [PowerState.UNKNOWN]
            assert run(driver(folder).machine(VM)).power_state is PowerState.UNKNOWN
            with pytest.raises(ProviderDenied, match="the image cannot be opened"):
                seen(vm)
        folder.chmod(0)
        with without_rights():
            for ask in (driver(folder).machines(), driver(folder).machine(VM), driver(folder).health()):
                with pytest.raises(ProviderDenied, match="the gateway may not read the folder of images"):
                    run(ask)
        folder.chmod(0o700)


def test_a_full_disk_is_told_and_nothing_is_left_behind(tmp_path: Path) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(tmp_path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        vm = images.image(tmp_path / VM, "64M")
        images.write(vm, 0x11)
        rest = tmp_path / "rest"
        rest.write_bytes(bytes(os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_bsize))
        with pytest.raises(ProviderFull, match="the disk that holds the image is full"):
            create(vm)
        assert (seen(vm), images.is_whole(vm), images.holds(vm, 0x11)) == ({}, True, True)
        rest.unlink()
        assert seen(vm) == {}
        made = create(vm)
        assert seen(vm) == {made.ref: "a"}
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


# ---- the program


def test_a_program_that_is_not_there_is_told(vm: Path) -> None:
    made = create(vm)
    for call in (
        *changes(vm, made.ref, program="no-such-qemu-img"),
        lambda: run(driver(vm.parent, program="no-such-qemu-img").health()),
    ):
        with pytest.raises(ProviderUnavailable, match="qemu-img is not installed where the gateway runs"):
            call()
    assert seen(vm) == {made.ref: "a"}


def test_another_program_is_found_out(vm: Path) -> None:
    made = create(vm)
    with pytest.raises(ProviderUnavailable, match="does not answer as qemu-img does"):
        run(driver(vm.parent, program="true").health())
    create_, _, delete_ = changes(vm, made.ref, program="true")
    for call in (create_, delete_):
        with pytest.raises(ProviderRefused, match="reported success, but has not changed the image"):
            call()
    assert seen(vm) == {made.ref: "a"}
    broken = vm.with_name("broken")
    broken.write_text("no program")
    broken.chmod(0o755)
    for call in changes(vm, made.ref, program=str(broken)):
        with pytest.raises(ProviderUnavailable, match="qemu-img could not be started"):
            call()


def test_a_program_that_does_not_answer_is_given_up_on(vm: Path) -> None:
    hanging = vm.with_name("hanging")
    hanging.write_text("#!/bin/sh\nsleep 1000 & wait\n")
    hanging.chmod(0o755)
    with pytest.raises(ProviderUnavailable, match="in time"):
        run(driver(vm.parent, program=str(hanging), patience=0.1).health())


def test_the_program_learns_nothing_of_the_gateway(vm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "word")
    told = vm.with_name("told")
    create(vm, program=images.script(vm.with_name("program"), f'env >{told}; exec $QEMU_IMG "$@"'))
    assert dict(line.split("=", 1) for line in told.read_text().splitlines()).keys() & {"LC_ALL", "SECRET"} == {
        "LC_ALL"
    }


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("echo 'qemu-img: something new' >&2; exit 1", ProviderRefused),
        ("kill -9 $$", ProviderUnavailable),
    ],
)
def test_a_program_that_fails_before_anything_is_done(vm: Path, text: str, error: type[ProviderError]) -> None:
    images.write(vm, 0x11)
    made = create(vm)
    images.write(vm, 0x22)
    for call in changes(vm, made.ref, program=images.script(vm.with_name("program"), text)):
        with pytest.raises(error) as caught:
            call()
        assert type(caught.value) is error
    assert (seen(vm), images.holds(vm, 0x22)) == ({made.ref: "a"}, True)


@pytest.mark.parametrize("end", ["exit 1", "kill -9 $$"])
def test_a_program_that_fails_when_everything_is_done(vm: Path, end: str) -> None:
    program = images.script(vm.with_name("program"), f'$QEMU_IMG "$@"; {end}')
    made = create(vm, program=program)
    images.write(vm, 0x22)
    revert(vm, made.ref, program=program)
    assert images.holds(vm, 0x11)
    delete(vm, made.ref, program=program)
    assert seen(vm) == {}


def test_damage_that_is_met_afterwards_is_not_a_failure_to_be_repeated(vm: Path) -> None:
    program = images.script(vm.with_name("program"), f'$QEMU_IMG "$@"; : >{vm}; exit 1')
    with pytest.raises(OutcomeUnknown, match="the file is not a qcow2 image"):
        create(vm, program=program)


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
