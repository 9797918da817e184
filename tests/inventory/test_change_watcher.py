"""The change watcher refreshes the machines named by change hints, and no others."""

import asyncio
from collections.abc import Callable
from typing import Any

from gateway.errors import ProviderUnavailable
from gateway.inventory import change_watcher
from gateway.inventory.change_watcher import ChangeWatcher
from gateway.store.database import Database
from tests.inventory.files import select
from tests.inventory.scripted import ScriptedDriver, inventory, machine, snapshot
from tests.waiting import until_async as until

MACHINES = "SELECT provider_ref, name, gone_at IS NULL FROM machine ORDER BY id"
SNAPSHOTS = "SELECT provider_ref FROM snapshot ORDER BY id"


def test_change_hint_leads_to_a_refresh(url: str, opened_database: Callable[[], Any], monkeypatch: Any) -> None:
    monkeypatch.setattr(change_watcher, "_COALESCE_SECONDS", 0.0)
    monkeypatch.setattr(change_watcher, "_RESUBSCRIBE_DELAY", 0.0)

    async def wait_for(query: str, expected: list[tuple[Any, ...]]) -> None:
        async def matches() -> bool:
            return select(url, query) == expected

        await until(matches)

    async def scenario(database: Database) -> None:
        driver = ScriptedDriver()
        driver.put(machine("m1"))
        driver.put(machine("m2"))
        watcher = ChangeWatcher(inventory(database, driver), {"lab": driver})
        await watcher.start()
        try:
            driver.events.put_nowait("m1")  # not in the inventory yet
            await wait_for(MACHINES, [("m1", "name of m1", 1)])
            driver.put(machine("m1", name="renamed"), snapshot("made elsewhere"))
            driver.events.put_nowait("m1")
            driver.events.put_nowait("m1")
            await wait_for(SNAPSHOTS, [("made elsewhere",)])
            await wait_for(MACHINES, [("m1", "renamed", 1)])
            driver.problem = ProviderUnavailable("Unreachable.")  # the machine is not marked as gone
            driver.events.put_nowait("m1")
            driver.events.put_nowait(ProviderUnavailable("The connection was lost."))
            driver.events.put_nowait(ValueError("unexpected"))
            await until_empty(driver)
            driver.problem = None
            driver.drop("m1")
            driver.events.put_nowait("m1")  # the hints are consumed again
            await wait_for(MACHINES, [("m1", "renamed", 0)])
            watcher.request_refresh("lab", "m2")  # as at the end of an operation
            await wait_for(MACHINES, [("m1", "renamed", 0), ("m2", "name of m2", 1)])
        finally:
            await watcher.stop()

    async def until_empty(driver: ScriptedDriver) -> None:
        async def empty() -> bool:
            return driver.events.empty()

        await until(empty)

    async def run() -> None:
        async with opened_database() as database:
            await scenario(database)

    asyncio.run(run())
