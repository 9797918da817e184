"""Reads qcow2 images where they lie, and their locks. Changes nothing and asks nobody: changing is `qemu-img`'s.

QEMU's locks are only asked about. To take one, as `qemu-img info` does, would keep a machine from starting meanwhile.
Everything here blocks, and is called in threads.
"""

import fcntl
import hashlib
import os
import stat
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from gateway.drivers.base import ReportedSnapshot
from gateway.drivers.operation_tags import unmark
from gateway.errors import ProviderBusy, ProviderDenied, ProviderMissing, ProviderRefused, ProviderUnavailable
from gateway.models import PowerState

# ---- files


def names(directory: Path) -> list[str]:
    """The images in a folder. Raises when it cannot be listed: that is never taken for an empty folder."""
    try:
        with os.scandir(directory) as entries:
            return sorted(entry.name for entry in entries if _fits(entry.name) and entry.is_file(follow_symlinks=False))
    except PermissionError:
        raise ProviderDenied("the gateway may not read the folder of images") from None
    except OSError as error:
        raise ProviderUnavailable("the folder of images cannot be listed", provider_message=error.strerror) from None


@contextmanager
def opened(directory: Path, name: str, mode: int = os.O_RDONLY) -> Iterator[int]:
    """The descriptor of an image. Raises ProviderError for what goes wrong with the file, now and while it is used."""
    if not _fits(name):
        raise no_machine()
    try:
        image = os.open(directory / name, mode | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(image).st_mode):
                raise no_machine()
            yield image
        finally:
            os.close(image)
    except OSError as error:
        if name not in names(directory):
            raise no_machine() from None
        kind = ProviderDenied if isinstance(error, PermissionError) else ProviderUnavailable
        raise kind("the image cannot be opened", provider_message=error.strerror) from None


def no_machine() -> ProviderMissing:
    """There is no image of that name, or it is no file in the folder itself."""
    return ProviderMissing("the folder has no such image")


def _fits(name: str) -> bool:
    """Whether a file of this name can be a machine."""
    return name.endswith(".qcow2") and not name.startswith(".") and "/" not in name and name.isprintable()


# ---- locks. QEMU tells what it does with an image by locks on single bytes, which belong to the open file.

_WRITER = 101  # held by whoever may write to the image
_OURS = 1_000  # of no meaning to QEMU
_FLOCK = struct.Struct("hhqqi0q")  # type, whence, start, length, process


def power(image: int) -> PowerState:
    """Whether the machine runs. Our own work does not count."""
    if os.pread(image, len(_MAGIC), 0) != _MAGIC:
        return PowerState.UNKNOWN
    # Our work writes too; it is asked about on both sides, because it may begin or end in between.
    return PowerState.ON if not is_held(image) and is_written(image) and not is_held(image) else PowerState.OFF


def hold(image: int) -> None:
    """Locks our byte until every copy of the descriptor is closed, a child's too. Raises ProviderBusy."""
    try:
        fcntl.fcntl(image, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _OURS, 1, 0))
    except BlockingIOError:
        raise ProviderBusy("earlier work on the image has not ended yet") from None


def is_held(image: int) -> bool:
    """Whether our byte is locked through another descriptor, in whatever process."""
    return _is_locked(image, _OURS)


def is_written(image: int) -> bool:
    """Whether something has opened the image to write to it by QEMU's rules."""
    return _is_locked(image, _WRITER)


def _is_locked(image: int, byte: int) -> bool:
    asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
    return bool(_FLOCK.unpack(fcntl.fcntl(image, fcntl.F_OFD_GETLK, asked))[0] != fcntl.F_UNLCK)


# ---- the format, as QEMU documents it: a header, and a table of snapshots. The disk as it is, and as it was in each
# snapshot, has a map of its own that says where in the file its parts are.

_MAGIC = b"QFI\xfb"
_HEADER = struct.Struct(">4sI28xIQ12xIQ")  # magic, version, size and place of the map, snapshots and their place
_ENTRY = struct.Struct(">QIHHIIQII")  # map's place and size, lengths, time, clock, memory's size, length of the rest
_PLACE = 0x00FF_FFFF_FFFF_FE00  # the bits of a word of the map that say where
_ALONE = 1 << 63  # the bit that says that no other map leads there, so that it is written to in place
_MOST_SNAPSHOTS = 65_536
_LONGEST = 32 * 2**20  # bytes of one map
_TRIES = 5


@dataclass(frozen=True, slots=True)
class Map:
    """Where a map is in the file, and how many words it has."""

    place: int
    size: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One snapshot in the table."""

    id: bytes
    tag: bytes
    seconds: int
    nanoseconds: int
    memory: bool
    disk: Map

    @property
    def ref(self) -> str:
        """Tags can be given twice, and ids are used again: only with the time is it certain which one is meant."""
        return f"{self.id.decode(errors='replace')}@{self.seconds}.{self.nanoseconds:09}"

    @property
    def seen(self) -> ReportedSnapshot:
        """As the port has it."""
        name, token = unmark(self.tag.decode(errors="replace"))
        created_at = datetime.fromtimestamp(self.seconds, UTC) + timedelta(microseconds=self.nanoseconds // 1000)
        return ReportedSnapshot(ref=self.ref, name=name or "", created_at=created_at, memory=self.memory, token=token)


@dataclass(frozen=True, slots=True)
class Image:
    """An image's snapshots, oldest first, and the map of its disk as it is."""

    entries: Sequence[Entry]
    disk: Map

    def find(self, ref: str) -> Entry | None:
        """The snapshot with this ref."""
        return next((entry for entry in self.entries if entry.ref == ref), None)

    def made_by(self, token: str) -> ReportedSnapshot | None:
        """The snapshot that was made under this token."""
        return next((entry.seen for entry in self.entries if entry.seen.token == token), None)


def read(image: int) -> Image:
    """What is in an image. Raises ProviderRefused when that cannot be understood.

    A machine that runs may move the table while it is read; then the header is another afterwards.
    """
    for _ in range(_TRIES):
        header = os.pread(image, _HEADER.size, 0)
        try:
            found: Image | ProviderRefused = _parse(image, header)
        except ProviderRefused as error:
            found = error
        if header == os.pread(image, _HEADER.size, 0):
            if isinstance(found, ProviderRefused):
                raise found
            return found
    raise ProviderUnavailable("the image changes too fast to be read")


def _parse(image: int, header: bytes) -> Image:
    if len(header) < _HEADER.size or not header.startswith(_MAGIC):
        raise ProviderRefused("the file is not a qcow2 image")
    _, version, size, place, count, offset = _HEADER.unpack(header)
    if version not in (2, 3) or count > _MOST_SNAPSHOTS:
        raise _damaged(f"version {version}, {count} snapshots")
    entries = []
    for _ in range(count):
        at, words, id_length, tag_length, seconds, nanoseconds, _, memory, more = _ENTRY.unpack(
            _exactly(image, _ENTRY.size, offset)
        )
        rest = _exactly(image, more + id_length + tag_length, offset + _ENTRY.size)
        memory = int.from_bytes(rest[:8], "big") if more >= 8 else memory
        id_, tag = rest[more : more + id_length], rest[more + id_length :]
        entries.append(Entry(id_, tag, seconds, nanoseconds, memory > 0, Map(at, words)))
        offset += -(-(_ENTRY.size + len(rest)) // 8) * 8  # each begins at a multiple of eight
    return Image(entries, Map(place, size))


def words(image: int, disk: Map) -> tuple[int, ...]:
    """A map, without what is left empty at its end."""
    found = list(struct.unpack(f">{disk.size}Q", _exactly(image, disk.size * 8, disk.place)))
    while found and found[-1] == 0:
        found.pop()
    return tuple(found)


def are_same(one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two maps lead to the same places, and so have the same content."""
    return [word & _PLACE for word in one] == [word & _PLACE for word in other]


def is_guarded(disk: Sequence[int]) -> bool:
    """Whether a disk that has the map of a snapshot is copied before it is written to, so that the snapshot stays."""
    return not any(word & _ALONE for word in disk)


def trace(image: int, disk: Sequence[int]) -> str:
    """What is another after every write. A map alone may come back, when room has been freed and is used again."""
    digest = hashlib.sha256(b"".join(word.to_bytes(8, "big") for word in disk))
    return f"{os.fstat(image).st_ctime_ns}-{digest.hexdigest()}"


def _exactly(image: int, size: int, place: int) -> bytes:
    data = os.pread(image, size, place) if size <= _LONGEST and place < 2**63 else b""
    if len(data) < size:
        raise _damaged(f"no {size} bytes at {place}")
    return data


def _damaged(words: str) -> ProviderRefused:
    return ProviderRefused("the image is damaged, or has been cut off", provider_message=words)
