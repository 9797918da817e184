"""Tests reading images without `qemu-img`: same results for every image format, and no locks that block a machine."""

import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gateway.drivers.qcow2 import images
from gateway.errors import ProviderBusy, ProviderMissing, ProviderRefused, ProviderUnavailable
from gateway.models import PowerState
from tests.drivers import image_files
from tests.drivers.hostile.images import entry, write_image

image_files.skip_without_qemu()

KINDS = {
    "version 2": ("compat=0.10",),
    "version 3": ("compat=1.1",),
    "small clusters": ("cluster_size=512",),
    "large clusters": ("cluster_size=2M",),
    "subclusters": ("extended_l2=on",),
    "narrow counters": ("refcount_bits=4",),
}

TAGS: tuple[str | bytes, ...] = (
    "first",
    "1",
    "same",
    "same",
    "",
    "-n",
    "ä" * 200,
    "two\nlines",
    "☃ 🎿",
    b"\xff not UTF-8",
    "snapshot",
)


def read(path: Path) -> images.Image:
    with images.open_image(path.parent, path.name) as fd:
        return images.read_image(fd)


@pytest.mark.parametrize("kind", KINDS)
def test_snapshots_are_read_as_qemu_img_reports_them(kind: str, tmp_path: Path) -> None:
    path = image_files.create_image(tmp_path / "vm.qcow2", "64M", "-o", *KINDS[kind])
    assert read(path).entries == []
    for number, tag in enumerate(TAGS):
        image_files.write(path, number + 1, f"{number}M")
        image_files.qemu_img("snapshot", "-c", tag, path)
    image_files.qemu_img("snapshot", "-d", "first", path)
    expected = [
        (snapshot["id"], snapshot["name"], snapshot["date-sec"], snapshot["date-nsec"], snapshot["vm-state-size"] > 0)
        for snapshot in image_files.info(path)["snapshots"]
    ]
    found = read(path).entries
    actual = [
        (entry.id.decode(), entry.tag.decode(errors="replace"), entry.seconds, entry.nanoseconds, entry.memory)
        for entry in found
    ]
    assert actual == expected
    assert [entry.ref for entry in found] == [f"{id_}@{sec}.{nsec:09}" for id_, _, sec, nsec, _ in expected]
    assert [entry.reported.created_at for entry in found] == [
        datetime.fromtimestamp(sec, UTC).replace(microsecond=nsec // 1000) for _, _, sec, nsec, _ in expected
    ]


def test_l1_tables_show_whether_the_disk_equals_a_snapshot(tmp_path: Path) -> None:
    path = image_files.create_image(tmp_path / "vm.qcow2", "2G")

    def same() -> list[bool]:
        with images.open_image(tmp_path, "vm.qcow2") as fd:
            found = images.read_image(fd)
            now = images.read_l1_table(fd, found.disk)
            tables = [images.read_l1_table(fd, entry.disk) for entry in found.entries]
            return [images.has_same_content(disk, now) for disk in tables]

    image_files.write(path, 0x11)
    image_files.qemu_img("snapshot", "-c", "a", path)
    assert same() == [True]
    image_files.write(path, 0x22)
    assert same() == [False]
    image_files.qemu_img("snapshot", "-c", "b", path)
    assert same() == [False, True]
    image_files.write(path, 0x33, "1G")
    assert same() == [False, False]
    image_files.qemu_img("snapshot", "-a", "a", path)
    assert same() == [True, False]
    image_files.qemu_img("snapshot", "-a", "b", path)
    assert same() == [False, True]
    image_files.qemu_img("resize", "-q", path, "4G")  # the L1 table becomes longer, but has no more entries in use
    assert same() == [False, True]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "The file is not a qcow2 image."),
        (b"QFI\xfb", "The file is not a qcow2 image."),
        (b"x" * 1000, "The file is not a qcow2 image."),
        (b"QFI\xfb" + b"\xff" * 100, "The image is damaged or truncated."),
    ],
)
def test_other_files_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "vm.qcow2").write_bytes(content)
    with pytest.raises(ProviderRefused) as caught:
        read(tmp_path / "vm.qcow2")
    assert caught.value.message == message


@pytest.mark.parametrize(
    ("ids", "reason"),
    [((b"1", b"2", b"1"), "two snapshots with one id"), ((b"1", b""), "a snapshot without an id")],
)
def test_snapshots_that_cannot_be_distinguished_are_refused(
    ids: tuple[bytes, ...], reason: str, tmp_path: Path
) -> None:
    """As a table of zeros has them: without the refusal, the image would have lost its snapshots."""
    write_image(tmp_path / "vm.qcow2", *(entry(id_=id_) for id_ in ids))
    with pytest.raises(ProviderRefused) as caught:
        read(tmp_path / "vm.qcow2")
    assert (caught.value.message, caught.value.provider_message) == ("The image is damaged or truncated.", reason)


def test_truncated_images_are_refused(tmp_path: Path) -> None:
    """Truncated at every 64th byte: all snapshots or a refusal, never fewer snapshots and never another error."""
    path = image_files.create_image(tmp_path / "vm.qcow2", "1M", "-o", "cluster_size=512")
    for tag in "abc":
        image_files.qemu_img("snapshot", "-c", tag, path)
    whole, content = read(path), path.read_bytes()
    ends = []
    for length in [*range(0, len(content), 64), len(content)]:
        path.write_bytes(content[:length])
        try:
            assert read(path) == whole
            ends.append("read")
        except ProviderRefused:
            ends.append("refused")
    assert ends == sorted(ends, reverse=True)
    assert set(ends) == {"read", "refused"}


def test_a_snapshot_table_that_moves_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = image_files.create_image(tmp_path / "vm.qcow2")
    image_files.qemu_img("snapshot", "-c", "a", path)
    reads = 0
    moves = 1

    def pread(descriptor: int, size: int, offset: int) -> bytes:
        nonlocal reads, moves
        reads += 1
        found = real(descriptor, size, offset)
        if offset == 0 and reads % 2 and moves:  # between the header and the table
            moves -= 1
            image_files.qemu_img("snapshot", "-c", f"b{moves}", path)
        return found

    real = os.pread
    monkeypatch.setattr(os, "pread", pread)
    assert [entry.tag for entry in read(path).entries] == [b"a", b"b0"]
    moves = 1_000
    with pytest.raises(ProviderUnavailable, match="The image changes too fast to be read"):
        read(path)


def test_only_regular_files_directly_in_the_directory_are_machines(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    (folder / "inner").mkdir(parents=True)
    image_files.create_image(tmp_path / "outside.qcow2")
    image_files.create_image(folder / "vm.qcow2")
    image_files.create_image(folder / "- odd: name,x=1.qcow2")
    for name in ("inner/vm.qcow2", "vm.img", ".hidden.qcow2", "two\nlines.qcow2"):
        image_files.create_image(folder / name)
    (folder / os.fsdecode(b"\xff.qcow2")).write_bytes(b"")
    (folder / "link.qcow2").symlink_to(tmp_path / "outside.qcow2")
    (folder / "inside.qcow2").symlink_to(folder / "vm.qcow2")
    (folder / "folder.qcow2").mkdir()
    os.mkfifo(folder / "pipe.qcow2")
    assert images.list_images(folder) == ["- odd: name,x=1.qcow2", "vm.qcow2"]
    others = {path.name for path in folder.iterdir()} - {*images.list_images(folder)}
    strange = ("", ".", "..", "../outside.qcow2", "inner/vm.qcow2", "inner/../vm.qcow2", str(folder / "vm.qcow2"), "\0")
    for name in (*others, *strange, "none.qcow2"):
        for mode in (os.O_RDONLY, os.O_RDWR):
            with pytest.raises(ProviderMissing), images.open_image(folder, name, mode):
                pass


def test_power_state_is_read_from_locks_without_taking_them(tmp_path: Path) -> None:
    path = image_files.create_image(tmp_path / "vm.qcow2")

    def power() -> PowerState:
        with images.open_image(tmp_path, "vm.qcow2") as fd:
            return images.power_state(fd)

    assert power() is PowerState.OFF
    with images.open_image(tmp_path, "vm.qcow2", os.O_RDWR) as ours:  # open during the whole test
        with image_files.held_open(path):  # a machine can start and run
            assert (power(), images.is_open_for_writing(ours)) == (PowerState.ON, True)
        assert (power(), images.is_open_for_writing(ours)) == (PowerState.OFF, False)
        with image_files.held_open(path, "-r"):  # another program reads
            assert power() is PowerState.OFF
    path.write_bytes(b"not an image")
    assert power() is PowerState.UNKNOWN


def test_the_lock_is_held_until_the_last_copy_of_the_descriptor_is_closed(tmp_path: Path) -> None:
    image_files.create_image(tmp_path / "vm.qcow2")
    with images.open_image(tmp_path, "vm.qcow2") as observer:
        with images.open_image(tmp_path, "vm.qcow2", os.O_RDWR) as fd:
            images.acquire_lock(fd)
            assert not images.is_locked(fd)  # its own lock
            assert images.is_locked(observer)
            with images.open_image(tmp_path, "vm.qcow2", os.O_RDWR) as other, pytest.raises(ProviderBusy):
                images.acquire_lock(other)
            child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[fd])
        assert images.is_locked(observer)
        child.communicate()
        assert not images.is_locked(observer)
