"""The demo world: what is in it, and that its two sides agree."""

import asyncio
from collections.abc import Callable
from typing import Any

from gateway.config import Settings
from gateway.drivers.base import Driver
from gateway.drivers.simulator.driver import SimulatedDriver
from gateway.drivers.simulator.world import SimulatedWorld
from gateway.inventory.demo import load_demo
from gateway.inventory.demo_world import INSTANCES, VMS, demo_machines
from gateway.inventory.refresh import Inventory
from tests.inventory.files import everything, select
from tests.inventory.test_import import next_numbers


def load(opened: Callable[[], Any]) -> bool:
    async def run() -> bool:
        async with opened() as database:
            return await load_demo(database, "default")

    return asyncio.run(run())


def test_the_machines_of_the_guide(url: str, opened: Callable[[], Any]) -> None:
    assert load(opened)
    assert select(
        url,
        "SELECT machine_id, id, name, parent_id, CASE WHEN is_current THEN 1 ELSE 0 END FROM snapshot"
        " WHERE machine_id IN (11, 201) ORDER BY id",
    ) == [
        (11, 3, "test-base", None, 0),
        (11, 4, "test-before-upgrade", 3, 1),
        (11, 5, "test-new-driver", 3, 0),
        (201, 7, "before-release", None, 0),
        (201, 8, "test-image", None, 0),
    ]
    assert select(url, "SELECT kind, count(*) FROM machine GROUP BY kind ORDER BY kind") == [
        ("INSTANCE", 24),
        ("VM", 30),
    ]
    assert select(url, "SELECT count(*) FROM snapshot WHERE created_at > observed_at") == [(0,)]
    assert select(url, "SELECT count(*) - count(DISTINCT name) FROM machine") == [(0,)]


def test_a_child_is_younger_than_its_parent(url: str, opened: Callable[[], Any]) -> None:
    load(opened)
    assert (
        select(
            url,
            "SELECT s.id FROM snapshot s JOIN snapshot p ON p.id = s.parent_id"
            " WHERE p.created_at > s.created_at OR p.machine_id <> s.machine_id",
        )
        == []
    )


def test_it_is_loaded_once(url: str, opened: Callable[[], Any]) -> None:
    assert load(opened)
    before = everything(url)
    assert not load(opened)
    assert everything(url) == before


def test_it_is_always_the_same() -> None:
    first, second = list(demo_machines()), list(demo_machines())
    assert first == second
    assert [(machine.id, machine.name, len(machine.snapshots)) for machine in first[:5]] == [
        (11, "web-01", 3),
        (201, "api-01", 2),
        (12, "db-01", 8),
        (13, "web-02", 11),
        (14, "cache-01", 3),
    ]


def test_numbers_go_on_after_it(url: str, opened: Callable[[], Any]) -> None:
    load(opened)
    (machine, snapshot), *_ = select(url, "SELECT (SELECT max(id) FROM machine), (SELECT max(id) FROM snapshot)")
    assert next_numbers(opened, provider=VMS) == (machine + 1, snapshot + 1)


def test_a_refresh_finds_nothing_to_change(url: str, opened: Callable[[], Any]) -> None:
    async def run() -> list[str]:
        async with opened() as database:
            await load_demo(database, "default")
            before = everything(url)[-1]
            simulation = SimulatedWorld(database)
            drivers: dict[str, Driver] = {name: SimulatedDriver(name, simulation) for name in (VMS, INSTANCES)}
            inventory = Inventory(database, drivers, Settings())
            counts = [str(await inventory.refresh_provider(name)) for name in drivers]
            assert everything(url)[-1] == before
            return counts

    counts = asyncio.run(run())
    assert all("0 created, 0 updated" in part for line in counts for part in line.split("; ")), counts
    assert not any("removed" in line for line in counts), counts
