"""Creates migrated, empty databases for tests in milliseconds, by copying a file or a PostgreSQL template."""

import os
import shutil
import threading
from itertools import count
from pathlib import Path

import psycopg
import pytest

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
    """Creates databases. The template, and the PostgreSQL server, are created when they are first needed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._numbers = count(1)
        self._template: Path | None = None
        self._server: PostgresServer | None = None

    def new(self, kind: str) -> str:
        """Creates a database and returns its URL. Without PostgreSQL, skips the test, or fails it if it is required."""
        return self._new_sqlite() if kind == "sqlite" else self._new_postgresql()

    def _new_sqlite(self) -> str:
        if self._template is None:
            self._template = self._directory / "template.db"
            migrate(f"sqlite:///{self._template}")
        file = self._directory / f"world-{next(self._numbers)}.db"
        shutil.copy(self._template, file)
        return f"sqlite:///{file}"

    def _new_postgresql(self) -> str:
        server = self.postgres_server()
        name = f"world_{next(self._numbers)}"
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE template_world")
        return server.url(name)

    def postgres_server(self) -> PostgresServer:
        if self._server is None:
            binaries = find_binaries()
            if binaries is None:
                (pytest.fail if required("postgresql") else pytest.skip)("PostgreSQL is not installed")
            self._server = PostgresServer(binaries)
            make_database(self._server, "template_world")
        return self._server

    def close(self) -> None:
        if self._server is not None:
            self._server.stop()


def make_database(server: PostgresServer, name: str) -> str:
    """Creates a migrated, empty database on a server and returns its URL."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    with _MIGRATING:
        migrate(server.url(name))
    return server.url(name)
