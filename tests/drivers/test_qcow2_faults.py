"""Tests the errors of the qcow2 driver: damaged files, missing rights, a full disk, and failures of `qemu-img`."""

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
from tests.drivers.qcow2_calls import VM, all_changes, create, delete, driver, revert, run, snapshot_names

image_files.skip_without_qemu()


@pytest.fixture
def vm(tmp_path: Path) -> Path:
    """An image whose first bytes are 0x11."""
    path = image_files.create_image(tmp_path / VM)
    image_files.write(path, 0x11)
    return path


# ---- damaged, missing and inaccessible files


def test_a_damaged_image_does_not_hide_others(vm: Path) -> None:
    made = create(vm)
    bad = vm.with_name("bad.qcow2")
    bad.write_text("not an image")
    listed = run(driver(vm.parent).machines())
    assert [(machine.ref, machine.name, machine.power_state) for machine in listed] == [
        ("bad.qcow2", "bad", PowerState.UNKNOWN),
        (VM, "vm", PowerState.OFF),
    ]
    for call in (lambda: snapshot_names(bad), *all_changes(bad, made.ref)):
        with pytest.raises(ProviderRefused, match="The file is not a qcow2 image"):
            call()
    assert bad.read_text() == "not an image"


def test_an_error_of_qemu_img_is_refused_with_its_text(tmp_path: Path) -> None:
    vm = image_files.create_image(tmp_path / VM)
    with vm.open("r+b") as file:
        file.seek(72)
        file.write(b"\x80")  # a feature that no QEMU knows
    with pytest.raises(ProviderRefused, match="qemu-img reported an error") as caught:
        create(vm)
    assert "Unsupported qcow2 feature" in (caught.value.provider_message or "")
    assert str(tmp_path) not in (caught.value.provider_message or "")
    assert snapshot_names(vm) == {}


@pytest.mark.parametrize(
    ("offset", "value", "reason"),
    [
        (32, b"\0\0\0\2", "The image is encrypted"),  # LUKS
        (32, b"\0\0\0\1", "The image is encrypted"),  # AES
        (79, b"\4", "The disk is stored in an external data file"),
        (79, b"\2", "The image is marked as corrupt"),
        (79, b"\1", None),  # not closed; QEMU repairs it
        (79, b"\0", None),
    ],
)
def test_an_image_that_qemu_img_cannot_change_has_a_blocker(
    offset: int, value: bytes, reason: str | None, tmp_path: Path
) -> None:
    vm = image_files.create_image(tmp_path / VM)
    made = create(vm)
    with vm.open("r+b") as file:
        file.seek(offset)
        file.write(value)
    [listed] = run(driver(tmp_path).machines())
    assert run(driver(tmp_path).machine(VM)) == listed
    assert (listed.power_state, [*snapshot_names(vm)]) == (PowerState.OFF, [made.ref])
    if reason is None:
        assert listed.snapshot_blocker is None
        return
    content = vm.read_bytes()
    assert (listed.snapshot_blocker or "").startswith(reason)
    for call in all_changes(vm, made.ref):
        with pytest.raises(ProviderRefused, match=reason):
            call()
    assert vm.read_bytes() == content


@pytest.mark.parametrize("name", ["vm.qcow2", "./vm.qcow2", "absolute"])
def test_an_image_that_is_its_own_base_is_blocked_and_not_busy(name: str, tmp_path: Path) -> None:
    """As in issue 2189 of OpenNebula; `qemu-img` reports that another program uses the image."""
    vm = image_files.create_image(tmp_path / VM)
    base = str(vm) if name == "absolute" else name
    image_files.qemu_img("rebase", "-u", "-F", "qcow2", "-b", base, "-f", "qcow2", vm)
    [listed] = run(driver(tmp_path).machines())
    assert (listed.power_state, listed.snapshot_blocker) == (
        PowerState.OFF,
        "The image is its own base image, so it cannot be opened.",
    )
    with pytest.raises(ProviderRefused, match="its own base image"):
        create(vm)


def test_an_image_with_an_external_data_file_has_a_blocker(tmp_path: Path) -> None:
    vm = image_files.create_image(tmp_path / VM, "1M", "-o", f"data_file={tmp_path}/data")
    [listed] = run(driver(tmp_path).machines())
    assert listed.snapshot_blocker is not None
    with pytest.raises(ProviderRefused) as caught:
        create(vm)
    assert caught.value.message == listed.snapshot_blocker


def test_a_deleted_image_is_missing(vm: Path) -> None:
    made = create(vm)
    vm.unlink()
    for call in (lambda: snapshot_names(vm), lambda: run(driver(vm.parent).machine(VM)), *all_changes(vm, made.ref)):
        with pytest.raises(ProviderMissing):
            call()
    assert run(driver(vm.parent).machines()) == []


def test_a_missing_directory_is_not_an_empty_one(vm: Path) -> None:
    made = create(vm)
    vm.parent.rename(f"{vm.parent}-away")
    away = driver(vm.parent)
    for call in (
        lambda: run(away.machines()),
        lambda: run(away.machine(VM)),
        lambda: run(away.health()),
        lambda: run(away.recover(Work("d", "t"), DeleteCommand(VM, made.ref))),
        lambda: snapshot_names(vm),
        *all_changes(vm, made.ref),
    ):
        with pytest.raises(ProviderUnavailable, match="The image directory cannot be listed"):
            call()


@contextmanager
def without_rights() -> Iterator[None]:
    """Runs the block as an unprivileged user: drops root if this process has it."""
    euid = os.geteuid()
    if euid == 0:
        os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(euid)


def test_missing_file_permissions_are_denied() -> None:
    with TemporaryDirectory() as name:  # pytest's own directories are accessible to their owner only
        folder = Path(name)
        folder.chmod(0o755)
        vm = image_files.create_image(folder / VM)
        made = create(vm)
        vm.chmod(0o444)
        with without_rights():
            for call in all_changes(vm, made.ref):
                with pytest.raises(ProviderDenied, match="The image cannot be opened"):
                    call()
            assert (snapshot_names(vm), run(driver(folder).machine(VM)).power_state) == (
                {made.ref: "a"},
                PowerState.OFF,
            )
        vm.chmod(0)
        with without_rights():
            assert [machine.power_state for machine in run(driver(folder).machines())] == [PowerState.UNKNOWN]
            assert run(driver(folder).machine(VM)).power_state is PowerState.UNKNOWN
            with pytest.raises(ProviderDenied, match="The image cannot be opened"):
                snapshot_names(vm)
        folder.chmod(0)
        with without_rights():
            for read in (driver(folder).machines(), driver(folder).machine(VM), driver(folder).health()):
                with pytest.raises(ProviderDenied, match="The gateway may not read the image directory"):
                    run(read)
        folder.chmod(0o700)


def test_a_full_disk_is_reported_and_leaves_nothing_behind(tmp_path: Path) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(tmp_path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        vm = image_files.create_image(tmp_path / VM, "64M")
        image_files.write(vm, 0x11)
        rest = tmp_path / "rest"
        rest.write_bytes(bytes(os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_bsize))
        with pytest.raises(ProviderFull, match="The file system of the image is full"):
            create(vm)
        assert (snapshot_names(vm), image_files.is_intact(vm), image_files.contains(vm, 0x11)) == ({}, True, True)
        rest.unlink()
        assert snapshot_names(vm) == {}
        made = create(vm)
        assert snapshot_names(vm) == {made.ref: "a"}
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


# ---- the program `qemu-img`


def test_a_missing_program_is_unavailable(vm: Path) -> None:
    made = create(vm)
    for call in all_changes(vm, made.ref, program="no-such-qemu-img"):
        with pytest.raises(ProviderUnavailable, match="qemu-img is not installed on the gateway's host"):
            call()
    with pytest.raises(ProviderUnavailable, match="qemu-img is not installed on the gateway's host"):
        run(driver(vm.parent, program="no-such-qemu-img").health())
    assert snapshot_names(vm) == {made.ref: "a"}


def test_a_program_that_is_not_qemu_img_is_detected(vm: Path) -> None:
    made = create(vm)
    with pytest.raises(ProviderUnavailable, match="The configured program is not qemu-img"):
        run(driver(vm.parent, program="true").health())
    create_, _, delete_ = all_changes(vm, made.ref, program="true")
    for call in (create_, delete_):
        with pytest.raises(ProviderRefused, match="reported success but did not change the image"):
            call()
    assert snapshot_names(vm) == {made.ref: "a"}
    broken = vm.with_name("broken")
    broken.write_text("no program")
    broken.chmod(0o755)
    for call in all_changes(vm, made.ref, program=str(broken)):
        with pytest.raises(ProviderUnavailable, match="qemu-img could not be started"):
            call()


def test_a_program_that_does_not_answer_times_out(vm: Path) -> None:
    hanging = vm.with_name("hanging")
    hanging.write_text("#!/bin/sh\nsleep 1000 & wait\n")
    hanging.chmod(0o755)
    with pytest.raises(ProviderUnavailable, match="in time"):
        run(driver(vm.parent, program=str(hanging), timeout=0.1).health())


def test_the_program_does_not_inherit_the_environment(vm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "word")
    output = vm.with_name("environment")
    create(vm, program=image_files.fake_qemu_img(vm.with_name("program"), f'env >{output}; exec $QEMU_IMG "$@"'))
    assert dict(line.split("=", 1) for line in output.read_text().splitlines()).keys() & {"LC_ALL", "SECRET"} == {
        "LC_ALL"
    }


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("echo 'qemu-img: something new' >&2; exit 1", ProviderRefused),
        ("kill -9 $$", ProviderUnavailable),
    ],
)
def test_a_program_that_fails_before_the_change(vm: Path, text: str, error: type[ProviderError]) -> None:
    image_files.write(vm, 0x11)
    made = create(vm)
    image_files.write(vm, 0x22)
    for call in all_changes(vm, made.ref, program=image_files.fake_qemu_img(vm.with_name("program"), text)):
        with pytest.raises(error) as caught:
            call()
        assert type(caught.value) is error
    assert (snapshot_names(vm), image_files.contains(vm, 0x22)) == ({made.ref: "a"}, True)


@pytest.mark.parametrize("end", ["exit 1", "kill -9 $$"])
def test_a_program_that_fails_after_the_change(vm: Path, end: str) -> None:
    program = image_files.fake_qemu_img(vm.with_name("program"), f'$QEMU_IMG "$@"; {end}')
    made = create(vm, program=program)
    image_files.write(vm, 0x22)
    revert(vm, made.ref, program=program)
    assert image_files.contains(vm, 0x11)
    delete(vm, made.ref, program=program)
    assert snapshot_names(vm) == {}


def test_a_damaged_image_after_the_command_is_an_unknown_outcome(vm: Path) -> None:
    program = image_files.fake_qemu_img(vm.with_name("program"), f'$QEMU_IMG "$@"; : >{vm}; exit 1')
    with pytest.raises(OutcomeUnknown, match="The file is not a qcow2 image"):
        create(vm, program=program)
