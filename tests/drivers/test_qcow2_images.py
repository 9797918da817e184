"""Reading images without `qemu-img`: the same as it tells, of every kind of image, and never in anybody's way."""

import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gateway.drivers.qcow2 import images
from gateway.errors import ProviderBusy, ProviderMissing, ProviderRefused, ProviderUnavailable
from gateway.models import PowerState
from tests.drivers import image_files

image_files.need()

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
    with images.opened(path.parent, path.name) as image:
        return images.read(image)


@pytest.mark.parametrize("kind", KINDS)
def test_it_reads_what_qemu_img_tells(kind: str, tmp_path: Path) -> None:
    path = image_files.image(tmp_path / "vm.qcow2", "64M", "-o", *KINDS[kind])
    assert read(path).entries == []
    for place, tag in enumerate(TAGS):
        image_files.write(path, place + 1, f"{place}M")
        image_files.qemu_img("snapshot", "-c", tag, path)
    image_files.qemu_img("snapshot", "-d", "first", path)
    told = [
        (snapshot["id"], snapshot["name"], snapshot["date-sec"], snapshot["date-nsec"], snapshot["vm-state-size"] > 0)
        for snapshot in image_files.info(path)["snapshots"]
    ]
    found = read(path).entries
    shown = [
        (entry.id.decode(), entry.tag.decode(errors="replace"), entry.seconds, entry.nanoseconds, entry.memory)
        for entry in found
    ]
    assert shown == told
    assert [entry.ref for entry in found] == [f"{id_}@{sec}.{nsec:09}" for id_, _, sec, nsec, _ in told]
    assert [entry.seen.created_at for entry in found] == [
        datetime.fromtimestamp(sec, UTC).replace(microsecond=nsec // 1000) for _, _, sec, nsec, _ in told
    ]


def test_the_map_tells_whether_the_disk_is_as_it_was(tmp_path: Path) -> None:
    path = image_files.image(tmp_path / "vm.qcow2", "2G")

    def same() -> list[bool]:
        with images.opened(tmp_path, "vm.qcow2") as image:
            found = images.read(image)
            now = images.words(image, found.disk)
            maps = [images.words(image, entry.disk) for entry in found.entries]
            return [images.are_same(disk, now) for disk in maps]

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
    image_files.qemu_img("resize", "-q", path, "4G")  # the map becomes longer, but leads to nothing more
    assert same() == [False, True]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is not a qcow2 image"),
        (b"QFI\xfb", "the file is not a qcow2 image"),
        (b"x" * 1000, "the file is not a qcow2 image"),
        (b"QFI\xfb" + b"\xff" * 100, "the image is damaged, or has been cut off"),
    ],
)
def test_what_is_no_image_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "vm.qcow2").write_bytes(content)
    with pytest.raises(ProviderRefused) as caught:
        read(tmp_path / "vm.qcow2")
    assert caught.value.message == message


def test_no_damage_is_taken_for_something_else(tmp_path: Path) -> None:
    """Cut off at every length: the same snapshots, or a refusal; never fewer snapshots, never another error."""
    path = image_files.image(tmp_path / "vm.qcow2", "1M", "-o", "cluster_size=512")
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


def test_a_table_that_moves_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = image_files.image(tmp_path / "vm.qcow2")
    image_files.qemu_img("snapshot", "-c", "a", path)
    reads = 0
    moves = 1

    def pread(descriptor: int, size: int, place: int) -> bytes:
        nonlocal reads, moves
        reads += 1
        found = real(descriptor, size, place)
        if place == 0 and reads % 2 and moves:  # between the header and the table
            moves -= 1
            image_files.qemu_img("snapshot", "-c", f"b{moves}", path)
        return found

    real = os.pread
    monkeypatch.setattr(os, "pread", pread)
    assert [entry.tag for entry in read(path).entries] == [b"a", b"b0"]
    moves = 1_000
    with pytest.raises(ProviderUnavailable, match="the image changes too fast to be read"):
        read(path)


def test_only_files_in_the_folder_itself_are_machines(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    (folder / "inner").mkdir(parents=True)
    image_files.image(tmp_path / "outside.qcow2")
    image_files.image(folder / "vm.qcow2")
    image_files.image(folder / "- odd: name,x=1.qcow2")
    for name in ("inner/vm.qcow2", "vm.img", ".hidden.qcow2", "two\nlines.qcow2"):
        image_files.image(folder / name)
    (folder / os.fsdecode(b"\xff.qcow2")).write_bytes(b"")
    (folder / "link.qcow2").symlink_to(tmp_path / "outside.qcow2")
    (folder / "inside.qcow2").symlink_to(folder / "vm.qcow2")
    (folder / "folder.qcow2").mkdir()
    os.mkfifo(folder / "pipe.qcow2")
    assert images.names(folder) == ["- odd: name,x=1.qcow2", "vm.qcow2"]
    others = {path.name for path in folder.iterdir()} - {*images.names(folder)}
    strange = ("", ".", "..", "../outside.qcow2", "inner/vm.qcow2", "inner/../vm.qcow2", str(folder / "vm.qcow2"), "\0")
    for name in (*others, *strange, "none.qcow2"):
        for mode in (os.O_RDONLY, os.O_RDWR):
            with pytest.raises(ProviderMissing), images.opened(folder, name, mode):
                pass


def test_who_runs_is_told_by_locks_that_are_never_taken(tmp_path: Path) -> None:
    path = image_files.image(tmp_path / "vm.qcow2")

    def power() -> PowerState:
        with images.opened(tmp_path, "vm.qcow2") as image:
            return images.power(image)

    assert power() is PowerState.OFF
    with images.opened(tmp_path, "vm.qcow2", os.O_RDWR) as ours:  # all the while
        with image_files.opened(path):  # a machine can start, and run
            assert (power(), images.is_written(ours)) == (PowerState.ON, True)
        assert (power(), images.is_written(ours)) == (PowerState.OFF, False)
        with image_files.opened(path, "-r"):  # somebody reads
            assert power() is PowerState.OFF
    path.write_bytes(b"not an image")
    assert power() is PowerState.UNKNOWN


def test_our_lock_lives_as_long_as_the_last_that_has_it(tmp_path: Path) -> None:
    image_files.image(tmp_path / "vm.qcow2")
    with images.opened(tmp_path, "vm.qcow2") as looking:
        with images.opened(tmp_path, "vm.qcow2", os.O_RDWR) as image:
            images.hold(image)
            assert not images.is_held(image)  # its own
            assert images.is_held(looking)
            with images.opened(tmp_path, "vm.qcow2", os.O_RDWR) as other, pytest.raises(ProviderBusy):
                images.hold(other)
            child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[image])
        assert images.is_held(looking)
        child.communicate()
        assert not images.is_held(looking)
