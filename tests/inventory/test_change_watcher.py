"""The change watcher refreshes the machines named by change hints, and no others; one process consumes the hints."""

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

from gateway.config import Settings
from gateway.errors import ProviderUnavailable
from gateway.inventory.change_watcher import ChangeWatcher
from gateway.inventory.refresh import InventoryRefresher
from gateway.jobs.periodic_job import PeriodicJob, Scope
from gateway.jobs.runner import JobRunner
from gateway.store.database import Database
from tests.inventory.files import select
from tests.inventory.scripted import ScriptedDriver, inventory, machine, snapshot
from tests.jobs.world import Process, cluster_job, expire
from tests.waiting import until_async

MACHINES = "SELECT provider_ref, name, gone_at IS NULL FROM machine ORDER BY id"
SNAPSHOTS = "SELECT provider_ref FROM snapshot ORDER BY id"
HINTS = "change-hints:lab"  # the job that consumes them


def test_change_hint_leads_to_a_refresh(url: str, opened_database: Callable[[], Any]) -> None:
    async def wait_for(query: str, expected: list[tuple[Any, ...]]) -> None:
        async def matches() -> bool:
            return select(url, query) == expected

        await until_async(matches)

    async def scenario(database: Database) -> None:
        driver = ScriptedDriver()
        driver.put(machine("m1"))
        driver.put(machine("m2"))
        watcher = ChangeWatcher(inventory(database, driver), {"lab": driver}, coalesce=0.0)
        consume = PeriodicJob(HINTS, 0.0, partial(watcher.consume_hints, "lab"), Scope.CLUSTER)
        jobs = JobRunner(database, [consume], owner="test", lease=10.0)
        await watcher.start()
        await jobs.start()
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
            await jobs.stop()
            await watcher.stop()

    async def until_empty(driver: ScriptedDriver) -> None:
        async def empty() -> bool:
            return driver.events.empty()

        await until_async(empty)

    async def run() -> None:
        async with opened_database() as database:
            await scenario(database)

    asyncio.run(run())


def test_a_provider_that_does_not_answer_delays_no_other(url: str, opened_database: Callable[[], Any]) -> None:
    """Nor does one that sends hints without end, or hints that no machine can have."""

    async def scenario(database: Database) -> None:
        silent, driver = ScriptedDriver(), ScriptedDriver()

        async def wait_without_end() -> None:
            await asyncio.Event().wait()

        silent.during = wait_without_end
        for number in range(8):  # as many as are read at once
            silent.put(machine(f"s{number}"))
        driver.put(machine("m1"))
        drivers = {"silent": silent, "lab": driver}
        watcher = ChangeWatcher(InventoryRefresher(database, drivers, Settings()), drivers, coalesce=0.0)
        await watcher.start()
        try:
            for number in range(20_000):
                watcher.request_refresh("silent", f"s{number}")
            watcher.request_refresh("lab", "")
            watcher.request_refresh("lab", "x" * 1_025)
            watcher.request_refresh("lab", "\ud800")
            watcher.request_refresh("lab", "m1")
            await until_async(lambda: select(url, MACHINES) == [("m1", "name of m1", 1)])
        finally:
            await watcher.stop()

    async def run() -> None:
        async with opened_database() as database:
            await scenario(database)

    asyncio.run(run())


class CountingDriver(ScriptedDriver):
    """Counts the streams of change hints that were begun, and those that are open."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = self.open = 0

    async def change_hints(self) -> AsyncIterator[str]:
        self.begun += 1
        self.open += 1
        try:
            async for machine_ref in super().change_hints():
                yield machine_ref
        finally:
            self.open -= 1


def test_one_of_two_processes_consumes_the_hints(opened_database: Callable[[], Any]) -> None:
    """When it stops, or dies, the other one does."""

    async def scenario(database: Database) -> None:
        driver = CountingDriver()
        refresher = inventory(database, driver)
        watchers = [ChangeWatcher(refresher, {"lab": driver}) for _ in range(3)]
        one, other, third = (
            Process(database, owner, cluster_job(partial(watcher.consume_hints, "lab"), HINTS))
            for owner, watcher in zip("abc", watchers, strict=True)
        )
        for _ in range(3):
            for process in (one, other):
                await process.look()
        assert (driver.begun, driver.open) == (1, 1)
        await one.runner.stop()
        assert driver.open == 0
        await other.look()
        await third.look()
        assert (driver.begun, driver.open) == (2, 1)
        await expire(database, HINTS)  # the process has died, or is frozen
        await third.look()
        await other.look()
        await until_async(lambda: not other.runner.running)
        assert (driver.begun, driver.open, third.runner.running) == (3, 1, {HINTS})
        await third.runner.stop()
        await other.runner.stop()

    async def run() -> None:
        async with opened_database() as database:
            await scenario(database)

    asyncio.run(run())
