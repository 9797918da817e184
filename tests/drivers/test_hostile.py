"""Tests what the gateway does about hostile providers; `python -m tests.drivers.hostile` prints all of it."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.databases import Databases
from tests.drivers.hostile.kinds import KINDS, LOGIN
from tests.drivers.hostile.rows import rows

# Those of the default run, with one kind. They take no time.
_QUICK = {
    "redirects (307) to another host",
    f"redirects (307) to another host{LOGIN}",
    "body without end, in chunks",
    "depth of 900",
    "a name of 1 MB",
    "a machine without an id",
    f"a catalog with addresses in clear text{LOGIN}",
    "a next page on another host",
    "a next page without a scheme",
    "a time in milliseconds",
    "a time that is a number",
    "a state without a name",
    "a machine without a state",
    "snapshots that are each other's parents",
    "packet of 2 GB",
    "another protocol",
    "snapshots of 1 TB of extra data",
    "a pipe",
}
# The other machine is read.
_COSTS_ONE_MACHINE = {
    "a machine without a state",
    "a state without a name",
    "a time that is a number",
    "an image without a time",
    "an image without a name and a time",
    "the name of a snapshot of 1 MB",
    "snapshots of 1 TB of extra data",
}
_TIMEOUT = 2.0  # seconds, of the drivers in attacks that only a timeout ends
_MAX_SECONDS = 75.0  # for one refresh, in which the listing may take a minute
_MAX_GROWTH = 400 * 2**20  # bytes

_ATTACKS = [
    pytest.param("Proxmox VE", _QUICK.__contains__, id="Proxmox VE, quick"),
    *(pytest.param(name, lambda _: True, id=name, marks=pytest.mark.thorough) for name in KINDS),
]


@pytest.mark.parametrize(("name", "wanted"), _ATTACKS)
def test_a_hostile_provider(name: str, wanted: Callable[[str], bool], databases: Databases, tmp_path: Path) -> None:
    """It ends as an error of that provider. Others are refreshed, nothing is lost, no other host gets anything."""
    if name == "libvirt" and find_spec("libvirt") is None:
        pytest.skip("libvirt's Python binding is not installed")
    with KINDS[name](name, tmp_path, _TIMEOUT) as kind:
        found = [*rows(kind, databases.new("sqlite"), wanted)]
    assert found
    assert {row.attack: row.faults for row in found if row.faults} == {}
    costs_one = {row.attack: row.result for row in found if row.attack in _COSTS_ONE_MACHINE}
    assert [(attack, result) for attack, result in costs_one.items() if not result.startswith("1 of 2 machines")] == []
    assert [(row.attack, row.seconds) for row in found if row.seconds > _MAX_SECONDS] == []
    assert [(row.attack, row.growth) for row in found if row.growth > _MAX_GROWTH] == []
