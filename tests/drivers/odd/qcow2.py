"""A fleet with odd machines in an image directory."""

import os
import struct
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from gateway.drivers.base import Driver
from gateway.drivers.qcow2.driver import Options, make
from tests.drivers.hostile.images import ATTACKS, entry, write_image
from tests.drivers.odd_fleet.fleets import NEW_SNAPSHOT, SNAPSHOTS, Fleet, Oddity, machine_name

PART = "qcow2"

_LONG = "x" * 65_535
_TWO = [entry(b"1", SNAPSHOTS[0].encode()), entry(b"2", SNAPSHOTS[1].encode())]


def _encrypted(path: Path) -> None:
    write_image(path, *_TWO)
    with path.open("r+b") as file:
        file.seek(32)
        file.write(struct.pack(">I", 2))


def _with_odd_neighbor(path: Path) -> None:
    write_image(path, *_TWO)
    path.with_name(path.stem + os.fsdecode(b"\xff.qcow2")).write_bytes(b"")


# What writes the image of the machine.
_IMAGES: dict[str, Callable[[Path], object]] = {
    **{name: ATTACKS[name] for name in ("snapshots of 1 TB of extra data", "65,536 empty snapshots", "a text file")},
    **{name: ATTACKS[name] for name in ("4,000,000,000 snapshots", "a table beyond the end of the file")},
    "two snapshots with one id": ATTACKS["two snapshots with one id"],
    "an empty file": ATTACKS["an empty file"],
    "an id of 64 kB": lambda path: write_image(path, entry(b"1" * 65_535), _TWO[1]),
    "a tag of 64 kB": lambda path: write_image(path, entry(b"1", _LONG.encode()), _TWO[1]),
    "a time in 2106": lambda path: write_image(path, entry(b"1", b"first", seconds=2**32 - 1), _TWO[1]),
    "an encrypted image": _encrypted,
    "a file name that is not UTF-8": _with_odd_neighbor,
}

_DAMAGED = Oddity("The image is damaged or truncated.")
_OTHER_FILE = Oddity("The file is not a qcow2 image.")
ODDITIES: dict[str, Oddity] = {
    "snapshots of 1 TB of extra data": _DAMAGED,
    "65,536 empty snapshots": _DAMAGED,
    "two snapshots with one id": _DAMAGED,
    "4,000,000,000 snapshots": _DAMAGED,
    "a table beyond the end of the file": _DAMAGED,
    "a text file": _OTHER_FILE,
    "an empty file": _OTHER_FILE,
    "an id of 64 kB": Oddity("A snapshot was left out. The provider's identifier '111"),
    "a tag of 64 kB": Oddity("The name was changed, because it is too long", snapshots=("second", _LONG[:1_024])),
    "a time in 2106": Oddity(None),
    "an encrypted image": Oddity(None),
    "a file name that is not UTF-8": Oddity("\\udcff.qcow2' contains invalid characters.", identified=False),
}


def lacking() -> str | None:
    return None  # listing needs no qemu-img


class _Images:
    def __init__(self, directory: Path, size: int) -> None:
        self._directory = directory
        self._size = size

    def ref(self, number: int) -> str:
        return f"{machine_name(number)}.qcow2"

    def driver(self, odd: Mapping[int, str], removed: int | None, extended: int | None) -> Driver:
        folder = Path(tempfile.mkdtemp(dir=self._directory))
        for number in range(self._size):
            path = folder / self.ref(number)
            if number in odd:
                path.touch()
                _IMAGES[odd[number]](path)
            elif number != removed:
                more = [entry(b"3", NEW_SNAPSHOT.encode())] if number == extended else []
                write_image(path, *_TWO, *more)
        return make("p", Options(directory=str(folder)), 2)


@contextmanager
def fleet(directory: Path, size: int) -> Iterator[Fleet]:
    """Images that are written without `qemu-img`."""
    yield _Images(directory, size)
