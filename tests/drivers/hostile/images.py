"""Image files that are hostile: what an attacker who can write to the image directory puts there."""

import os
import struct
from collections.abc import Callable
from pathlib import Path

_HEADER = struct.Struct(">4sI28xIQ12xIQ")
_ENTRY = struct.Struct(">QIHHIIQII")
_TABLE = 4_096


def write_image(path: Path, *entries: bytes, count: int | None = None, table: int = _TABLE, l1_size: int = 0) -> None:
    """Writes a qcow2 header and snapshot table. `count` and `table` are what the header states."""
    header = _HEADER.pack(b"QFI\xfb", 3, l1_size, 0, len(entries) if count is None else count, table)
    path.unlink(missing_ok=True)
    path.write_bytes(
        header.ljust(_TABLE, b"\0") + b"".join(entry.ljust(-(-len(entry) // 8) * 8, b"\0") for entry in entries)
    )


def entry(id_: bytes = b"1", tag: bytes = b"before", extra: int = 0, seconds: int = 1_700_000_000) -> bytes:
    """An entry of a snapshot table. `extra` is the size of its extra data, which is not written."""
    return _ENTRY.pack(0, 0, len(id_), len(tag), seconds, 0, 0, 0, extra) + id_ + tag


def remove(path: Path) -> None:
    """Removes what an attack has put in place of an image."""
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink()


def _sparse(path: Path) -> None:
    """65,536 entries of 16 MiB of extra data each, in a sparse file of a few kB."""
    write_image(path, *[entry(extra=2**24)] * 8, count=65_536)
    os.truncate(path, 2**42)


def _zeros(path: Path) -> None:
    write_image(path, count=65_536, table=2**30)
    os.truncate(path, 2**42)


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _link_elsewhere(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd")


ATTACKS: dict[str, Callable[[Path], object]] = {
    "snapshots of 1 TB of extra data": _sparse,
    "65,536 empty snapshots": _zeros,
    "two snapshots with one id": lambda path: write_image(path, entry(tag=b"one"), entry(tag=b"other")),
    "4,000,000,000 snapshots": lambda path: write_image(path, count=4_000_000_000),
    "a table beyond the end of the file": lambda path: write_image(path, count=1, table=2**63),
    "an id of 64 kB": lambda path: write_image(path, entry(id_=b"1" * 65_535)),
    "a tag of 64 kB that is no UTF-8": lambda path: write_image(path, entry(tag=b"\xff\0" * 32_767)),
    "a time in 2106": lambda path: write_image(path, entry(seconds=2**32 - 1)),
    "a text file": lambda path: path.write_text("Welcome"),
    "an empty file": lambda path: path.write_text(""),
    "a pipe": _fifo,
    "a link to /dev/zero": _device,
    "a link to /etc/passwd": _link_elsewhere,
    "a directory": _directory,
}

# Those after which there is no image file, or one with another snapshot.
REPLACED = {"a time in 2106", "a pipe", "a link to /dev/zero", "a link to /etc/passwd", "a directory"}
