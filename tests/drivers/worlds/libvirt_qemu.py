"""The libvirt driver on a libvirtd of its own that runs our guest with QEMU."""

import importlib
import importlib.util
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.drivers.subject import Subject
from tests.hypervisors import libvirtd

PART = "qemu"


def lacking() -> str | None:
    if not importlib.util.find_spec("libvirt"):
        return "libvirt's Python binding is not installed"
    return libvirtd.lacking()


@asynccontextmanager
async def world(directory: Path) -> AsyncIterator[Subject]:
    driver = importlib.import_module("gateway.drivers.libvirt")
    daemon = libvirtd.Libvirtd()
    try:
        machine = daemon.add("machine", running=False)
        daemon.virsh("start", "machine")
        daemon.add("off", running=False)
        daemon.add("raw", running=False, kind="raw")
        yield Subject(driver.make("p", driver.Options(address=daemon.address), 2), machine, memory=True)
    finally:
        daemon.stop()
