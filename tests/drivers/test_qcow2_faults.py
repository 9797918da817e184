"""The qcow2 driver on real images: bad files, missing rights, a full disk, and every way a program can fail."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from gateway.drivers.base import DeleteCommand, Work
from gateway.errors import (
    OutcomeUnknown,
    ProviderDenied,
    ProviderError,
    ProviderFull,
    ProviderMissing,
    ProviderRefused,
    ProviderUnavailable,
)
from gateway.models import PowerState
from tests.drivers import image_files
from tests.drivers.calling_qcow2 import VM, changes, create, delete, driver, revert, run, seen

image_files.need()


@pytest.fixture
def vm(tmp_path: Path) -> Path:
    """An image whose first bytes are 0x11."""
    path = image_files.image(tmp_path / VM)
    image_files.write(path, 0x11)
    return path


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
    vm = image_files.image(tmp_path / VM, "1M", "-o", f"data_file={tmp_path}/data")
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
    vm.parent.rename(f"{vm.parent}-away")
    away = driver(vm.parent)
    for call in (
        lambda: run(away.machines()),
        lambda: run(away.machine(VM)),
        lambda: run(away.health()),
        lambda: run(away.recover(Work("d", "t"), DeleteCommand(VM, made.ref))),
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
        vm = image_files.image(folder / VM)
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
        vm = image_files.image(tmp_path / VM, "64M")
        image_files.write(vm, 0x11)
        rest = tmp_path / "rest"
        rest.write_bytes(bytes(os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_bsize))
        with pytest.raises(ProviderFull, match="the disk that holds the image is full"):
            create(vm)
        assert (seen(vm), image_files.is_whole(vm), image_files.holds(vm, 0x11)) == ({}, True, True)
        rest.unlink()
        assert seen(vm) == {}
        made = create(vm)
        assert seen(vm) == {made.ref: "a"}
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


# ---- the program


def test_a_program_that_is_not_there_is_told(vm: Path) -> None:
    made = create(vm)
    for call in changes(vm, made.ref, program="no-such-qemu-img"):
        with pytest.raises(ProviderUnavailable, match="qemu-img is not installed where the gateway runs"):
            call()
    with pytest.raises(ProviderUnavailable, match="qemu-img is not installed where the gateway runs"):
        run(driver(vm.parent, program="no-such-qemu-img").health())
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
    create(vm, program=image_files.script(vm.with_name("program"), f'env >{told}; exec $QEMU_IMG "$@"'))
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
    image_files.write(vm, 0x11)
    made = create(vm)
    image_files.write(vm, 0x22)
    for call in changes(vm, made.ref, program=image_files.script(vm.with_name("program"), text)):
        with pytest.raises(error) as caught:
            call()
        assert type(caught.value) is error
    assert (seen(vm), image_files.holds(vm, 0x22)) == ({made.ref: "a"}, True)


@pytest.mark.parametrize("end", ["exit 1", "kill -9 $$"])
def test_a_program_that_fails_when_everything_is_done(vm: Path, end: str) -> None:
    program = image_files.script(vm.with_name("program"), f'$QEMU_IMG "$@"; {end}')
    made = create(vm, program=program)
    image_files.write(vm, 0x22)
    revert(vm, made.ref, program=program)
    assert image_files.holds(vm, 0x11)
    delete(vm, made.ref, program=program)
    assert seen(vm) == {}


def test_damage_that_is_met_afterwards_is_not_a_failure_to_be_repeated(vm: Path) -> None:
    program = image_files.script(vm.with_name("program"), f'$QEMU_IMG "$@"; : >{vm}; exit 1')
    with pytest.raises(OutcomeUnknown, match="the file is not a qcow2 image"):
        create(vm, program=program)
