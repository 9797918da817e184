"""Fixtures: a new migrated database for each test, on SQLite and on PostgreSQL, and a scripted provider."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from gateway.store.database import Database
from gateway.store.database_url import open_database
from gateway.store.migrate import migrate
from tests.inventory.scripted import Scenario, ScriptedDriver, inventory, machine, snapshot
from tests.postgres import PostgresServer, find_binaries

_TEMPLATE = "inventory_template"


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "template.db"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    binaries = find_binaries()
    if binaries is None:
        if "postgresql" in os.environ.get("GATEWAY_TEST_REQUIRE", ""):
            pytest.fail("PostgreSQL is required, but its programs are not installed")
        pytest.skip("PostgreSQL's programs are not installed")
    server = PostgresServer(binaries)
    try:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {_TEMPLATE}".encode())
        migrate(server.url(_TEMPLATE))
        yield server
    finally:
        server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a new, migrated, empty database."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("sqlite_template"), tmp_path / "gateway.db")
        return f"sqlite:///{tmp_path}/gateway.db"
    server: PostgresServer = request.getfixturevalue("postgres")
    name = f"test_{uuid4().hex}"
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE}".encode())
    return server.url(name)


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
