"""The demo world: its contents, and that the simulated provider and the inventory agree."""

import asyncio
from collections.abc import Callable
from typing import Any

from gateway.config import Settings
from gateway.drivers.base import Driver
from gateway.drivers.simulator.driver import SimulatedDriver
from gateway.drivers.simulator.world import SimulatedWorld
from gateway.inventory.demo import load_demo
from gateway.inventory.demo_world import INSTANCES, VMS, demo_machines
from gateway.inventory.refresh import InventoryRefresher
from tests.inventory.files import all_rows, select
from tests.inventory.test_import import next_ids


def load(opened_database: Callable[[], Any]) -> bool:
    async def run() -> bool:
        async with opened_database() as database:
            return await load_demo(database, "default")

    return asyncio.run(run())


def test_demo_contains_the_machines_of_the_manageiq_guide(url: str, opened_database: Callable[[], Any]) -> None:
    assert load(opened_database)
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


def test_child_is_younger_than_its_parent(url: str, opened_database: Callable[[], Any]) -> None:
    load(opened_database)
    assert (
        select(
            url,
            "SELECT s.id FROM snapshot s JOIN snapshot p ON p.id = s.parent_id"
            " WHERE p.created_at > s.created_at OR p.machine_id <> s.machine_id",
        )
        == []
    )


def test_demo_is_loaded_once(url: str, opened_database: Callable[[], Any]) -> None:
    assert load(opened_database)
    before = all_rows(url)
    assert not load(opened_database)
    assert all_rows(url) == before


def test_demo_is_deterministic() -> None:
    first, second = list(demo_machines()), list(demo_machines())
    assert first == second
    assert [(machine.id, machine.name, len(machine.snapshots)) for machine in first[:5]] == [
        (11, "web-01", 3),
        (201, "api-01", 2),
        (12, "db-01", 8),
        (13, "web-02", 11),
        (14, "cache-01", 3),
    ]


def test_new_ids_follow_those_of_the_demo(url: str, opened_database: Callable[[], Any]) -> None:
    load(opened_database)
    (machine, snapshot), *_ = select(url, "SELECT (SELECT max(id) FROM machine), (SELECT max(id) FROM snapshot)")
    assert next_ids(opened_database, provider=VMS) == (machine + 1, snapshot + 1)


def test_refresh_of_the_demo_changes_nothing(url: str, opened_database: Callable[[], Any]) -> None:
    async def run() -> list[str]:
        async with opened_database() as database:
            await load_demo(database, "default")
            before = all_rows(url)[-1]
            world = SimulatedWorld(database)
            drivers: dict[str, Driver] = {name: SimulatedDriver(name, world) for name in (VMS, INSTANCES)}
            inventory = InventoryRefresher(database, drivers, Settings())
            counts = [str(await inventory.refresh_provider(name)) for name in drivers]
            assert all_rows(url)[-1] == before
            return counts

    counts = asyncio.run(run())
    assert all("0 created, 0 updated" in part for line in counts for part in line.split("; ")), counts
    assert not any("removed" in line for line in counts), counts
