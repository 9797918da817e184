"""Many machines and snapshots on libvirt's test driver."""

import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.drivers.loop_time.worlds import SNAPSHOT_TIME, LargeWorld

PART = "libvirt"

_NAMESPACE = "http://libvirt.org/schemas/domain/test/1.0"
_DOMAIN = (
    "<domain type='test'><name>machine-{number}</name><uuid>{uuid}</uuid><memory>8192</memory>"
    "<os><type>hvm</type></os>{snapshots}</domain>"
)
_SNAPSHOT = (
    "<test:domainsnapshot><name>snapshot-{number}</name><description>by hand</description><state>running</state>"
    "<creationTime>{time}</creationTime>{parent}<active>{active}</active><domain type='test'><name>x</name>"
    "<uuid>{uuid}</uuid><memory>8192</memory><os><type>hvm</type></os></domain></test:domainsnapshot>"
)


def lacking() -> str | None:
    return None if importlib.util.find_spec("libvirt") else "libvirt's Python binding is not installed"


def _uuid(number: int) -> str:
    return f"5a1b7e0c-0000-4000-8000-{number:012}"


@contextmanager
def world(directory: Path, machines: int, snapshots: int) -> Iterator[LargeWorld]:
    """The first machine has the chain of snapshots."""
    chain = "".join(
        _SNAPSHOT.format(
            number=number,
            time=SNAPSHOT_TIME + number,
            parent=f"<parent><name>snapshot-{number - 1}</name></parent>" if number else "",
            active=int(number == snapshots - 1),
            uuid=_uuid(0),
        )
        for number in range(snapshots)
    )
    domains = "".join(
        _DOMAIN.format(number=number, uuid=_uuid(number), snapshots="" if number else chain)
        for number in range(machines)
    )
    node = directory / "node.xml"
    node.write_text(f"<node xmlns:test='{_NAMESPACE}'>{domains}</node>")
    module = importlib.import_module("gateway.drivers.libvirt.driver")
    yield LargeWorld(module.LibvirtDriver(module.Options(address=f"test://{node}"), 2), _uuid(0), memory=True)
