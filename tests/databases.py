"""Creates migrated databases for tests in milliseconds, by copying a file or a PostgreSQL template."""

import asyncio
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import psycopg
import pytest

from gateway.app import opened_database
from gateway.config import Settings
from gateway.inventory.demo import load_demo
from gateway.store.migrate import migrate
from tests.postgres import PostgresServer, find_binaries

KINDS = ("sqlite", "postgresql")
# For slow tests: PostgreSQL only in the thorough run.
SLOW_KINDS = ("sqlite", pytest.param("postgresql", marks=pytest.mark.thorough))

_MIGRATING = threading.Lock()  # Alembic's context is a global


def required(part: str) -> bool:
    """Whether tests that need `part` must fail, not be skipped, when it is missing. CI requires what it installs."""
    return part in os.environ.get("GATEWAY_TEST_REQUIRE", "").split(",")


class Databases:
    """Creates databases. The templates, and the PostgreSQL server, are created when they are first needed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._numbers = count(1)
        self._preparing = threading.Lock()
        self._templates: dict[tuple[str, bool], str] = {}
        self._server: PostgresServer | None = None

    def new(self, kind: str, *, demo: bool = False) -> str:
        """Creates a database with all tables, which are empty or have the demo world. Returns its URL."""
        with self._preparing:
            template = self._template(kind, demo=demo)
        return self._copy(kind, template)

    def _template(self, kind: str, *, demo: bool) -> str:
        """The URL of the database to copy. The one with the demo world is a copy of the empty one itself."""
        if (kind, demo) not in self._templates:
            empty = self._copy(kind, self._template(kind, demo=False)) if demo else prepare(self.without_tables(kind))
            self._templates[kind, demo] = load_world(empty) if demo else empty
        return self._templates[kind, demo]

    def _copy(self, kind: str, template: str) -> str:
        if kind == "postgresql":
            return self._new_postgresql(template.rpartition("/")[2])
        url = self.without_tables(kind)
        shutil.copy(template.removeprefix("sqlite:///"), url.removeprefix("sqlite:///"))
        return url

    def without_tables(self, kind: str) -> str:
        """Creates a database with nothing in it and returns its URL."""
        if kind == "postgresql":
            return self._new_postgresql("template0")
        return f"sqlite:///{self._directory}/world-{next(self._numbers)}.db"

    def _new_postgresql(self, template: str) -> str:
        return make_database(self.postgres_server(), f"world_{next(self._numbers)}", template)

    def postgres_server(self) -> PostgresServer:
        """The server of all PostgreSQL databases. Without PostgreSQL, skips the test, or fails it if it is required."""
        if self._server is None:
            binaries = find_binaries()
            if binaries is None:
                (pytest.fail if required("postgresql") else pytest.skip)("PostgreSQL is not installed")
            self._server = PostgresServer(binaries)
        return self._server

    def close(self) -> None:
        if self._server is not None:
            self._server.stop()


def make_database(server: PostgresServer, name: str, template: str = "template0") -> str:
    """Creates a database on a PostgreSQL server, as a copy of `template`, and returns its URL."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        # Copying the files takes half the time of PostgreSQL 15's default, which logs every page.
        strategy = "STRATEGY FILE_COPY" if connection.info.server_version >= 150_000 else ""
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} {strategy}".encode())
    return server.url(name)


def prepare(url: str, *, demo: bool = False) -> str:
    """Migrates a database and, if `demo`, loads the demo world. Returns its URL."""
    with _MIGRATING:
        migrate(url)
    return load_world(url) if demo else url


def load_world(url: str) -> str:
    """Loads the demo world into a migrated database and returns its URL."""
    with ThreadPoolExecutor(1) as thread:  # the thread of a test with a browser has a running event loop
        thread.submit(asyncio.run, _load_demo(url)).result()
    return url


async def _load_demo(url: str) -> None:
    async with opened_database(Settings(database_url=url)) as database:
        await load_demo(database, "default")
