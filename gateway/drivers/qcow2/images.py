"""Reads qcow2 images and the locks on them, without `qemu-img` and without changing anything.

All changes to images are made by `qemu-img`, in `driver`. This module only reads, because it can do so at any time:
reading needs no lock of QEMU's. `qemu-img info`, in contrast, takes such a lock, and a machine that starts in that
moment fails. All functions block and are called in threads.

The format (QEMU, docs/interop/qcow2.txt). A qcow2 file has a header and a snapshot table. The content of the disk is
stored in clusters, which are found through two levels of tables. The first level is the *L1 table*, an array of 64-bit
entries. The active disk has an L1 table, and so has each snapshot in the snapshot table. Two fields of an L1 entry
matter here:

* the offset of an L2 table in the file (bits 9 to 55);
* the COPIED flag (bit 63). If it is set, no other L1 table refers to that L2 table, and QEMU overwrites it in place.
  If it is clear, QEMU copies the L2 table before it writes (copy on write).

A revert copies the L1 table of the snapshot to the active one. From then on both have the same offsets and so the same
content, until the machine writes: QEMU then copies the L2 table, and the offset in the active L1 table changes. The
flags must be clear for that. An interrupted revert can leave them set, and the machine's next write would change the
snapshot as well; `is_copy_on_write` detects this state.

Locks. Both kinds are fcntl locks on single bytes of the image, at offsets that have no relation to its content:

* QEMU locks byte 101 while it may write to an image. This module only queries that byte.
* The gateway locks byte 1000 while it runs `qemu-img` on the image. It is an open file description lock: `qemu-img`
  inherits the descriptor and so the lock, which is released when the last process that has the descriptor ends. If the
  gateway is killed, the lock exists until `qemu-img` has ended.
"""

import fcntl
import hashlib
import os
import stat
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from operator import attrgetter
from pathlib import Path
from typing import BinaryIO, TypeVar

from gateway.drivers.base import (
    ReportedSnapshot,
    ReportedSnapshots,
    parse_timestamp,
    report_each,
    report_snapshot,
)
from gateway.drivers.operation_tags import split_tag
from gateway.errors import ProviderBusy, ProviderDenied, ProviderMissing, ProviderRefused, ProviderUnavailable
from gateway.models import PowerState

T = TypeVar("T")

# ---- files


def list_images(directory: Path) -> list[str]:
    """The names of the images in a directory. Raises ProviderError if the directory cannot be listed."""
    return [name for name in _scan(directory) if name.isprintable()]


def list_unusable_images(directory: Path) -> list[str]:
    """The names of the images that cannot be machines, because they contain control characters or are not UTF-8."""
    return [name for name in _scan(directory) if not name.isprintable()]


def _scan(directory: Path) -> list[str]:
    try:
        with os.scandir(directory) as entries:
            return sorted(
                entry.name for entry in entries if _is_image_file(entry.name) and entry.is_file(follow_symlinks=False)
            )
    except PermissionError:
        raise ProviderDenied("The gateway may not read the image directory.") from None
    except OSError as error:
        raise ProviderUnavailable("The image directory cannot be listed.", provider_message=error.strerror) from None


@contextmanager
def open_image(directory: Path, name: str, mode: int = os.O_RDONLY) -> Iterator[int]:
    """Opens an image and yields its file descriptor.

    Raises ProviderError if the file cannot be opened, and for every OSError inside the block.
    """
    if not _is_image_name(name):
        raise missing_image()
    try:
        fd = os.open(directory / name, mode | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise missing_image()
            yield fd
        finally:
            os.close(fd)
    except OSError as error:
        if name not in list_images(directory):
            raise missing_image() from None
        kind = ProviderDenied if isinstance(error, PermissionError) else ProviderUnavailable
        raise kind("The image cannot be opened.", provider_message=error.strerror) from None


def missing_image() -> ProviderMissing:
    """The error for a name that is not a regular file directly in the image directory."""
    return ProviderMissing("The image directory has no such image.")


def _is_image_file(name: str) -> bool:
    """Whether a file of this name is an image."""
    return name.endswith(".qcow2") and not name.startswith(".") and "/" not in name


def _is_image_name(name: str) -> bool:
    """Whether a file of this name can be a machine."""
    return _is_image_file(name) and name.isprintable()


# ---- locks

_QEMU_WRITE_BYTE = 101  # QEMU's lock base 100 plus the number of the permission bit BLK_PERM_WRITE
_GATEWAY_BYTE = 1_000  # QEMU does not use it
_FLOCK = struct.Struct("hhqqi0q")  # type, whence, start, length, process


def power_state(fd: int) -> PowerState:
    """ON while a machine has the image open for writing, UNKNOWN if the file is not a qcow2 image, else OFF."""
    if os.pread(fd, len(_MAGIC), 0) != _MAGIC:
        return PowerState.UNKNOWN
    # The gateway's own qemu-img also opens the image for writing. Its lock is checked before and after, because
    # qemu-img may start or end between the two queries.
    return PowerState.ON if not is_locked(fd) and is_open_for_writing(fd) and not is_locked(fd) else PowerState.OFF


def acquire_lock(fd: int) -> None:
    """Locks the gateway's byte until every copy of the descriptor is closed, also in child processes.

    Raises ProviderBusy if it is locked through another descriptor.
    """
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _GATEWAY_BYTE, 1, 0))
    except BlockingIOError:
        raise ProviderBusy("An earlier operation on the image has not ended yet.") from None


def is_locked(fd: int) -> bool:
    """Whether the gateway's byte is locked through another descriptor, of this or of any other process."""
    return _is_byte_locked(fd, _GATEWAY_BYTE)


def is_open_for_writing(fd: int) -> bool:
    """Whether a program has opened the image for writing and locked it as QEMU does."""
    return _is_byte_locked(fd, _QEMU_WRITE_BYTE)


def _is_byte_locked(fd: int, byte: int) -> bool:
    query = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
    return bool(_FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, query))[0] != fcntl.F_UNLCK)


# ---- the format

_MAGIC = b"QFI\xfb"
# Magic, version, encryption method, L1 size, L1 offset, number of snapshots, offset of the snapshot table
_HEADER = struct.Struct(">4sI24xIIQ12xIQ")
_FEATURES = struct.Struct(">Q")  # flags of incompatible features; follows the header in version 3
_CORRUPT_FLAG = 1 << 1
_DATA_FILE_FLAG = 1 << 2
_BASE = struct.Struct(">8xQI")  # offset and length of the name of the base image
_MAX_BASE_NAME = 1_023  # bytes; QEMU's limit
# L1 offset, L1 size, id length, name length, seconds, nanoseconds, VM clock, VM state size, extra data size
_ENTRY = struct.Struct(">QIHHIIQII")
_L1_OFFSET_MASK = 0x00FF_FFFF_FFFF_FE00
_L1_COPIED_FLAG = 1 << 63
_MAX_SNAPSHOTS = 65_536
_MAX_SNAPSHOT_TABLE_SIZE = 1_024 * _MAX_SNAPSHOTS  # bytes; QEMU's limit, as is the next one
_MAX_EXTRA_SIZE = 1_024  # bytes of an entry's extra data
_MAX_OFFSET = 2**62  # bytes; no file system has larger files
_MAX_READ_SIZE = 32 * 2**20  # bytes; the largest L1 table that QEMU accepts
_MAX_READ_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class L1Location:
    """The offset of an L1 table in the file, in bytes, and its number of entries."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class SnapshotEntry:
    """One snapshot in the snapshot table. `tag` is its name in QEMU."""

    id: bytes
    tag: bytes
    seconds: int
    nanoseconds: int
    memory: bool
    l1_offset: int
    l1_size: int

    @property
    def disk(self) -> L1Location:
        """Where the L1 table of the snapshot's disk is."""
        return L1Location(self.l1_offset, self.l1_size)

    @property
    def ref(self) -> str:
        """Id and time. Tags need not be unique and ids are reused, so that neither alone identifies a snapshot."""
        return f"{self.id.decode(errors='replace')}@{self.seconds}.{self.nanoseconds:09}"

    @property
    def token(self) -> str | None:
        """The token of the operation that created the snapshot."""
        return split_tag(self.tag.decode(errors="replace"))[1]

    @property
    def reported(self) -> ReportedSnapshot:
        """The snapshot in the form of the driver port. Raises OddValue if its id cannot be one."""
        return report_snapshot(
            self.ref,
            name=lambda: split_tag(self.tag.decode(errors="replace"))[0] or "",
            created_at=lambda: parse_timestamp(self.seconds) + timedelta(microseconds=self.nanoseconds // 1000),
            memory=lambda: self.memory,
            token=lambda: self.token,
        )


@dataclass(frozen=True, slots=True)
class Image:
    """The snapshots of an image, oldest first, and the location of the active L1 table."""

    entries: Sequence[SnapshotEntry]
    disk: L1Location

    def find(self, ref: str) -> SnapshotEntry | None:
        """The snapshot with this ref."""
        return next((entry for entry in self.entries if entry.ref == ref), None)

    def find_by_token(self, token: str) -> ReportedSnapshot | None:
        """The snapshot that was created by the operation with this token."""
        return next((entry.reported for entry in self.entries if entry.token == token), None)


def read_image(fd: int) -> Image:
    """Reads the header and the snapshot table. Raises ProviderRefused if the file is not a valid qcow2 image."""
    return _read_unchanged(fd, lambda header: Image([*_read_entries(fd, header)], header.disk))


def read_snapshots(fd: int) -> ReportedSnapshots:
    """Reads the snapshots alone, which takes less memory. Raises ProviderRefused as `read_image` does."""
    reported = attrgetter("reported")
    found, omitted = _read_unchanged(fd, lambda header: report_each(_read_entries(fd, header), reported))
    return ReportedSnapshots(found, omitted=omitted)


@dataclass(frozen=True, slots=True)
class _Header:
    """The header's location of the active L1 table, and the number of snapshots and the offset of their table."""

    disk: L1Location
    count: int
    table: int


def _read_unchanged(fd: int, read: Callable[[_Header], T]) -> T:
    """What `read` makes of the image.

    A running machine may move the snapshot table during the read. That changes the header, so the read is repeated
    until the header is the same before and after, at most 5 times.
    """
    for _ in range(_MAX_READ_ATTEMPTS):
        header = os.pread(fd, _HEADER.size, 0)
        try:
            found: T | ProviderRefused = read(_parse_header(header))
        except ProviderRefused as error:
            found = error
        if header == os.pread(fd, _HEADER.size, 0):
            if isinstance(found, ProviderRefused):
                raise found
            return found
    raise ProviderUnavailable("The image changes too fast to be read.")


def _parse_header(header: bytes) -> _Header:
    if len(header) < _HEADER.size or not header.startswith(_MAGIC):
        raise ProviderRefused("The file is not a qcow2 image.")
    _, version, _, l1_size, l1_offset, count, offset = _HEADER.unpack(header)
    if version not in (2, 3) or count > _MAX_SNAPSHOTS:
        raise _damaged_image(f"version {version}, {count} snapshots")
    if offset > _MAX_OFFSET:
        raise _damaged_image(f"a snapshot table at {offset}")
    return _Header(L1Location(l1_offset, l1_size), count, offset)


def _read_entries(fd: int, header: _Header) -> Iterator[SnapshotEntry]:
    """The entries of the snapshot table, one by one: 65,536 of them together take long to collect as garbage."""
    ids, size = set(), 0
    with open(fd, "rb", closefd=False) as table:  # in blocks, because each read by itself costs a system call
        table.seek(header.table)
        for _ in range(header.count):
            l1_offset, l1_size, id_length, tag_length, seconds, nanoseconds, _, memory, extra = _ENTRY.unpack(
                _take(table, _ENTRY.size)
            )
            if extra > _MAX_EXTRA_SIZE or size > _MAX_SNAPSHOT_TABLE_SIZE:
                raise _damaged_image(f"a snapshot table of more than {size + extra} bytes")
            rest = _take(table, extra + id_length + tag_length)
            memory = int.from_bytes(rest[:8], "big") if extra >= 8 else memory
            id_, tag = rest[extra : extra + id_length], rest[extra + id_length :]
            if not id_ or id_ in ids:  # QEMU makes neither, and nothing could distinguish such snapshots
                raise _damaged_image("two snapshots with one id" if id_ else "a snapshot without an id")
            ids.add(id_)
            yield SnapshotEntry(id_, tag, seconds, nanoseconds, memory > 0, l1_offset, l1_size)
            padding = -(_ENTRY.size + len(rest)) % 8  # entries are aligned to 8 bytes
            table.read(padding)
            size += _ENTRY.size + len(rest) + padding


def snapshot_blocker(fd: int, directory: Path) -> str | None:
    """Why `qemu-img` cannot create, delete or revert to a snapshot of the image, from its header; None if it may.

    QEMU itself snapshots an encrypted image of a running machine, so such an image may have snapshots.
    """
    header = os.pread(fd, _HEADER.size + _FEATURES.size, 0)
    if len(header) < _HEADER.size or not header.startswith(_MAGIC):
        return None
    _, version, encryption, *_ = _HEADER.unpack_from(header)
    (features,) = _FEATURES.unpack_from(header.ljust(_HEADER.size + _FEATURES.size, b"\0"), _HEADER.size)
    if encryption:
        return "The image is encrypted, and the gateway does not have the key, without which it cannot be changed."
    if version >= 3 and features & _DATA_FILE_FLAG:
        return "The disk is stored in an external data file, of which QEMU cannot create snapshots."
    if version >= 3 and features & _CORRUPT_FLAG:
        return "The image is marked as corrupt. Repair it with 'qemu-img check -r all'."
    if _is_own_base(fd, directory):  # qemu-img would report that another program uses the image
        return "The image is its own base image, so it cannot be opened."
    return None


def _is_own_base(fd: int, directory: Path) -> bool:
    base = _base_name(fd)
    try:
        return base is not None and os.path.samestat((directory / os.fsdecode(base)).stat(), os.fstat(fd))
    except (OSError, ValueError):  # there is no such base image
        return False


def relative_base(fd: int) -> bytes | None:
    """The name of the base image, if it is relative to the directory of the image."""
    name = _base_name(fd)
    return None if name is None or name.startswith(b"/") else name


def _base_name(fd: int) -> bytes | None:
    """The name of the base image, if it is a file."""
    offset, length = _BASE.unpack(_read_exactly(fd, _BASE.size, 0))
    if not offset or not 0 < length <= _MAX_BASE_NAME:
        return None
    name = _read_exactly(fd, length, offset)
    return None if b":" in name.partition(b"/")[0] else name  # a protocol, as QEMU decides


def read_l1_table(fd: int, location: L1Location) -> tuple[int, ...]:
    """The entries of an L1 table, without the empty entries at its end."""
    table = list(struct.unpack(f">{location.size}Q", _read_exactly(fd, location.size * 8, location.offset)))
    while table and table[-1] == 0:
        table.pop()
    return tuple(table)


def has_same_content(one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two L1 tables refer to the same L2 tables, and so to the same content."""
    return [entry & _L1_OFFSET_MASK for entry in one] == [entry & _L1_OFFSET_MASK for entry in other]


def is_copy_on_write(table: Sequence[int]) -> bool:
    """Whether QEMU copies all of a disk's L2 tables before it writes to them: no entry has the COPIED flag.

    If the disk has the same content as a snapshot and this is False, writes to the disk change the snapshot as well.
    """
    return not any(entry & _L1_COPIED_FLAG for entry in table)


def fingerprint(fd: int, table: Sequence[int]) -> str:
    """A text that changes with every write to the image: the inode change time, and a hash of the active L1 table.

    The L1 table alone is not enough: it can return to an earlier value when clusters are freed and used again.
    """
    digest = hashlib.sha256(b"".join(entry.to_bytes(8, "big") for entry in table))
    return f"{os.fstat(fd).st_ctime_ns}-{digest.hexdigest()}"


def _take(table: BinaryIO, size: int) -> bytes:
    data = table.read(size)
    if len(data) < size:
        raise _damaged_image(f"the snapshot table ends after {len(data)} of {size} bytes")
    return data


def _read_exactly(fd: int, size: int, offset: int) -> bytes:
    data = os.pread(fd, size, offset) if size <= _MAX_READ_SIZE and offset < 2**63 else b""
    if len(data) < size:
        raise _damaged_image(f"no {size} bytes at {offset}")
    return data


def _damaged_image(details: str) -> ProviderRefused:
    return ProviderRefused("The image is damaged or truncated.", provider_message=details)
