"""Many machines and snapshots on the test double of OpenStack."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from gateway.drivers.openstack import api
from gateway.models import MachineKind
from tests.drivers.loop_time.worlds import LargeWorld
from tests.hypervisors.openstack_double import cloud

PART = "openstack"


def lacking() -> str | None:
    return None


@contextmanager
def world(directory: Path, machines: int, snapshots: int) -> Iterator[LargeWorld]:
    """The first server has all images."""
    with patch.object(api, "POLL_INTERVAL", 0.001), cloud() as made:
        first, *_ = [made.boot(f"machine-{number}") for number in range(machines)]
        for number in range(snapshots):
            made.snap(first, f"image {number}")
        yield LargeWorld(made.driver(), first, MachineKind.INSTANCE)
