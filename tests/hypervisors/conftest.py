"""Fixtures for tests that run a private libvirtd."""

from collections.abc import Iterator

import pytest

from tests.databases import required
from tests.drivers.worlds import libvirt_qemu
from tests.hypervisors.libvirtd import Libvirtd


@pytest.fixture(scope="module")
def daemon() -> Iterator[Libvirtd]:
    if reason := libvirt_qemu.lacking():
        (pytest.fail if required(libvirt_qemu.PART) else pytest.skip)(reason)
    daemon = Libvirtd()
    yield daemon
    daemon.stop()
