"""Fixtures for the tests of drivers."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.databases import required
from tests.drivers.worlds import proxmox
from tests.hypervisors import vcenter


@pytest.fixture
def pve() -> proxmox.Cluster:
    """A Proxmox VE cluster in its initial state."""
    if reason := proxmox.lacking():
        (pytest.fail if required(proxmox.PART) else pytest.skip)(reason)
    return proxmox.cluster()


@pytest.fixture
def vc(tmp_path: Path) -> Iterator[vcenter.VCenter]:
    """A vCenter simulator for one test."""
    if reason := vcenter.lacking():
        (pytest.fail if required("vsphere") else pytest.skip)(reason)
    with vcenter.vcenter(tmp_path) as running:
        yield running
