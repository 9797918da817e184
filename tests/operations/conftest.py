"""A migrated database for each test, on SQLite and on PostgreSQL."""

import os
import shutil
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import psycopg
import pytest

from gateway.config import Settings
from gateway.store.migrate import migrate
from tests.operations.world import SETTINGS, Story, play
from tests.postgres import PostgresServer, find_binaries

_numbers = count(1)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("template") / "gateway.db"
    migrate(f"sqlite:///{file}")
    return file


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    binaries = find_binaries()
    if binaries is None:
        if "postgresql" in os.environ.get("GATEWAY_TEST_REQUIRE", ""):
            pytest.fail("PostgreSQL is required, and there are no binaries of it")
        pytest.skip("no PostgreSQL binaries")
    server = PostgresServer(binaries)
    try:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute("CREATE DATABASE template_world")
        migrate(server.url("template_world"))
        yield server
    finally:
        server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a migrated, empty database."""
    if request.param == "sqlite":
        file = tmp_path / "gateway.db"
        shutil.copy(request.getfixturevalue("sqlite_template"), file)
        return f"sqlite:///{file}"
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name = f"world_{next(_numbers)}"
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template_world")
    return server.url(name)


@pytest.fixture
def run(url: str) -> Callable[..., None]:
    """Runs a story in a new world."""

    def run_story(story: Story, settings: Settings = SETTINGS) -> None:
        play(url, story, settings)

    return run_story
