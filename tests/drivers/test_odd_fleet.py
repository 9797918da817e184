"""Tests that an odd machine costs its own oddity; `python -m tests.drivers.odd_fleet` prints it for a fleet of 60."""

import asyncio
import pkgutil
from importlib import import_module
from pathlib import Path

import pytest

from gateway.drivers.base import Driver
from gateway.errors import ProviderError
from gateway.inventory.provider_check import check_provider
from tests.databases import Databases, required
from tests.drivers import odd
from tests.drivers.odd_fleet.fleets import FleetModule
from tests.drivers.odd_fleet.rows import row_of_all, rows

NAMES = sorted(module.name for module in pkgutil.iter_modules(odd.__path__))


def module_of(name: str) -> FleetModule:
    module: FleetModule = import_module(f"tests.drivers.odd.{name}")
    if reason := module.lacking():
        (pytest.fail if required(module.PART) else pytest.skip)(reason)
    return module


async def read(driver: Driver) -> dict[str, str]:
    """What is odd about each machine of a fleet, by ref; the machines without a valid ref together."""
    found: dict[str, str] = {}
    try:
        for machine in await driver.machines():
            texts = [machine.problem, machine.unreadable]
            if machine.unreadable is None:
                try:
                    texts.append((await driver.snapshots(machine.ref)).problem)
                except ProviderError as error:
                    texts.append(error.message)
            found[machine.ref] = " ".join([found.get(machine.ref, ""), *filter(None, texts)])
    finally:
        await driver.close()
    return found


@pytest.mark.parametrize("name", NAMES)
def test_each_odd_machine_has_its_reason_and_no_other_machine_has_one(name: str, tmp_path: Path) -> None:
    module = module_of(name)
    odd_machines = dict(enumerate(module.ODDITIES))
    with module.fleet(tmp_path, len(odd_machines) + 1) as fleet:
        found = asyncio.run(read(fleet.driver(odd_machines, None, None)))
        reasons = {
            fleet.ref(number) if module.ODDITIES[oddity].identified else "": module.ODDITIES[oddity].reason
            for number, oddity in odd_machines.items()
        }
        assert [(ref, reason, found[ref]) for ref, reason in reasons.items() if (reason or "") not in found[ref]] == []
        assert [ref for ref, text in found.items() if text and reasons.get(ref) is None] == []
        assert fleet.ref(len(odd_machines)) in found


@pytest.mark.thorough
@pytest.mark.parametrize("name", NAMES)
def test_a_fleet_with_each_oddity(name: str, databases: Databases, tmp_path: Path) -> None:
    """What is known of the odd machines is shown, the others are read, and one that is gone is marked as gone."""
    row = row_of_all(module_of(name), tmp_path, databases.new("sqlite"), 60)
    assert (row.faults, row.listed) == ([], row.expected)


@pytest.mark.thorough
@pytest.mark.parametrize("name", NAMES)
def test_the_problem_names_the_machine_and_the_reason(name: str, databases: Databases, tmp_path: Path) -> None:
    found = [*rows(module_of(name), tmp_path, databases.new("sqlite"), 6)]
    assert {row.oddity: row.faults for row in found if row.faults} == {}


def test_the_check_of_a_provider_prints_what_is_odd(tmp_path: Path) -> None:
    lines: list[str] = []
    time = "Snapshot 'first@0': The creation time is missing or not a number: dict."
    odd_machines = {0: "a name that is an object", 1: "a snapshot with a time that is an object", 2: "no vmid"}
    with module_of("proxmox").fleet(tmp_path, 4) as fleet:
        passed = asyncio.run(check_provider(fleet.driver(odd_machines, None, None), lines.append))
    assert passed is False
    assert lines[2:6] == [
        "machine '': FAILED: An entry has no valid vmid.",
        "machine '100': read in part: The name is not text: dict.",
        "snapshots of '100': 2",
        f"snapshots of 'machine-01': 2 (read in part: {time})",
    ]
