"""The libvirt driver on a private libvirtd that runs the test guest with QEMU."""

import atexit
import importlib
import importlib.util
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path

from tests.drivers.subject import Subject
from tests.hypervisors import libvirtd

PART = "qemu"


def lacking() -> str | None:
    if not importlib.util.find_spec("libvirt"):
        return "libvirt's Python binding is not installed"
    return libvirtd.lacking()


@cache
def shared() -> libvirtd.Libvirtd:
    """One libvirtd for all contract tests: it needs half a second to detect QEMU's capabilities.

    Its guests `off` and `raw` are changed by no test.
    """
    daemon = libvirtd.Libvirtd()
    atexit.register(daemon.stop)
    daemon.add("off", running=False)
    daemon.add("raw", running=False, kind="raw")
    return daemon


@asynccontextmanager
async def world(directory: Path) -> AsyncIterator[Subject]:
    driver = importlib.import_module("gateway.drivers.libvirt.driver")
    daemon = shared()
    try:
        machine = daemon.add("machine", running=False)
        daemon.virsh("start", "machine")
        yield Subject(driver.make("p", driver.Options(address=daemon.address), 2), machine, memory=True)
    finally:
        daemon.remove("machine")
