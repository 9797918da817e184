"""Many images in a directory, one of which has many snapshots.

The snapshots have no data, so `qemu-img` refuses to change that image. The driver reads it before and after.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.drivers.qcow2.driver import Options, make
from tests.drivers import image_files
from tests.drivers.hostile.images import entry, write_image
from tests.drivers.loop_time.worlds import SNAPSHOT_TIME, LargeWorld

PART = "qcow2"


def lacking() -> str | None:
    return image_files.lacking()


@contextmanager
def world(directory: Path, machines: int, snapshots: int) -> Iterator[LargeWorld]:
    """The first image has the snapshots."""
    for number in range(machines):
        image = directory / f"machine-{number}.qcow2"
        entries = [] if number else [_entry(snapshot) for snapshot in range(snapshots)]
        write_image(image, *entries)
    yield LargeWorld(make("p", Options(directory=str(directory)), 2), "machine-0.qcow2")


def _entry(number: int) -> bytes:
    return entry(str(number + 1).encode(), f"snapshot-{number}".encode(), seconds=SNAPSHOT_TIME + number)
