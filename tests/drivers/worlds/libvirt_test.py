"""The libvirt driver on libvirt's test driver: the real library, with machines that exist only in this process."""

import importlib
import importlib.util
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.drivers.subject import Subject

PART = "libvirt"

MACHINE = "5a1b7e0c-0000-4000-8000-000000000001"
OFF = "5a1b7e0c-0000-4000-8000-000000000002"
PAUSED = "5a1b7e0c-0000-4000-8000-000000000003"

_DOMAIN = """
  <domain type="test">
    <name>{name}</name><uuid>{uuid}</uuid><memory>65536</memory><os><type>hvm</type></os>
    <test:runstate>{state}</test:runstate>{more}
  </domain>"""


def lacking() -> str | None:
    return None if importlib.util.find_spec("libvirt") else "libvirt's Python binding is not installed"


def node_xml(machine: str = "", **more: str) -> str:
    """A host with a running, a stopped and a paused machine. `machine` is inserted into the first one's XML."""
    states = (("machine", MACHINE, 1, machine), ("off", OFF, 5, ""), ("paused", PAUSED, 3, ""))
    domains = (_DOMAIN.format(name=name, uuid=uuid, state=state, more=text) for name, uuid, state, text in states)
    auth = more.get("auth", "")
    return f"<node xmlns:test='http://libvirt.org/schemas/domain/test/1.0'>{auth}{''.join(domains)}</node>"


@asynccontextmanager
async def world(directory: Path) -> AsyncIterator[Subject]:
    driver = importlib.import_module("gateway.drivers.libvirt.driver")
    node = directory / "node.xml"
    node.write_text(node_xml())
    options = driver.Options(address=f"test://{node}")
    yield Subject(driver.make("p", options, 2), MACHINE, memory=True)
