"""The migrations make what the models say, from nothing, on both databases."""

from pathlib import Path

import psycopg
import pytest

from gateway.store.migrate import check, migrate
from tests.databases import KINDS, Databases

NEWEST = "0006"


@pytest.fixture(params=KINDS)
def empty(request: pytest.FixtureRequest, databases: Databases, tmp_path: Path) -> str:
    """The URL of a database with nothing in it."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/empty.db"
    server = databases.postgres_server()
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS empty")
        connection.execute("CREATE DATABASE empty TEMPLATE template0")
    return server.url("empty")


def test_they_make_what_the_models_say(empty: str) -> None:
    assert migrate(empty) == (None, NEWEST)
    check(empty)


def test_a_second_time_changes_nothing(empty: str) -> None:
    migrate(empty)
    assert migrate(empty) == (NEWEST, NEWEST)
