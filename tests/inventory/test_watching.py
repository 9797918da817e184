"""Hints of a provider lead to a look at that machine, and to nothing else."""

import asyncio
from collections.abc import Callable
from typing import Any

from gateway.errors import ProviderUnavailable
from gateway.inventory import change_watcher
from gateway.inventory.change_watcher import Watch
from gateway.store.database import Database
from tests.inventory.files import select
from tests.inventory.scripted import ScriptedDriver, inventory, machine, snapshot
from tests.operations.world import until

MACHINES = "SELECT provider_ref, name, gone_at IS NULL FROM machine ORDER BY id"
SNAPSHOTS = "SELECT provider_ref FROM snapshot ORDER BY id"


def test_what_is_hinted_at_is_read_again(url: str, opened: Callable[[], Any], monkeypatch: Any) -> None:
    monkeypatch.setattr(change_watcher, "_GATHER", 0.0)
    monkeypatch.setattr(change_watcher, "_PAUSE", 0.0)

    async def shown(query: str, expected: list[tuple[Any, ...]]) -> None:
        async def agrees() -> bool:
            return select(url, query) == expected

        await until(agrees)

    async def story(database: Database) -> None:
        driver = ScriptedDriver()
        driver.put(machine("m1"))
        driver.put(machine("m2"))
        watch = Watch(inventory(database, driver), {"lab": driver})
        await watch.start()
        try:
            driver.events.put_nowait("m1")  # met for the first time
            await shown(MACHINES, [("m1", "name of m1", 1)])
            driver.put(machine("m1", name="renamed"), snapshot("made elsewhere"))
            driver.events.put_nowait("m1")
            driver.events.put_nowait("m1")
            await shown(SNAPSHOTS, [("made elsewhere",)])
            await shown(MACHINES, [("m1", "renamed", 1)])
            driver.problem = ProviderUnavailable("away")  # no news is not bad news
            driver.events.put_nowait("m1")
            driver.events.put_nowait(ProviderUnavailable("the connection is gone"))
            driver.events.put_nowait(ValueError("nonsense"))
            await until_empty(driver)
            driver.problem = None
            driver.drop("m1")
            driver.events.put_nowait("m1")  # it is listened to again
            await shown(MACHINES, [("m1", "renamed", 0)])
            watch.look("lab", "m2")  # as an operation's end does
            await shown(MACHINES, [("m1", "renamed", 0), ("m2", "name of m2", 1)])
        finally:
            await watch.stop()

    async def until_empty(driver: ScriptedDriver) -> None:
        async def empty() -> bool:
            return driver.events.empty()

        await until(empty)

    async def whole() -> None:
        async with opened() as database:
            await story(database)

    asyncio.run(whole())
