"""Fixtures: a new migrated database for each test, on SQLite and on PostgreSQL, and a scripted provider."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.store.database import Database
from gateway.store.database_url import open_database
from tests.databases import SLOW_KINDS, Databases
from tests.inventory.scripted import Scenario, ScriptedDriver, inventory, machine, snapshot


@pytest.fixture(params=SLOW_KINDS)
def url(request: pytest.FixtureRequest, databases: Databases) -> str:
    """The URL of a new, migrated, empty database."""
    return databases.new(request.param)


@pytest.fixture
def opened_database(url: str) -> Callable[[], Any]:
    """A function that returns an async context manager, which opens the database and closes it at the end."""

    @asynccontextmanager
    async def open_it() -> AsyncIterator[Database]:
        database = open_database(url, read_connections=2, write_connections=2, read_timeout=30)
        try:
            yield database
        finally:
            await database.close()

    return open_it


@pytest.fixture
def run_scenario(opened_database: Callable[[], Any]) -> Callable[[Scenario], None]:
    """Runs a scenario with an open database and a provider that has one machine with a chain of three snapshots."""

    def run(scenario: Scenario) -> None:
        async def run_all() -> None:
            driver = ScriptedDriver()
            driver.put(
                machine("m1"), snapshot("a"), snapshot("b", parent_ref="a"), snapshot("c", parent_ref="b"), current="c"
            )
            async with opened_database() as database:
                await scenario(database, driver, inventory(database, driver))

        asyncio.run(run_all())

    return run
