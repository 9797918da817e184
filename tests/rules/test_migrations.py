"""The migrations make what the models say, from nothing, on both databases."""

import re
from pathlib import Path

import psycopg
import pytest

from gateway.store.migrate import check, migrate, revisions
from tests.databases import KINDS, Databases
from tests.rules.modules import ROOT

NEWEST = "0007"
RELEASED = "0003"  # what is at or before it need not be gone through again

# What the code of the release before may still need (docs/operating.md, "Upgrade without downtime").
CONTRACTS = re.compile(
    r"\bop\.(drop_column|drop_table|rename_table|alter_column)\b"
    r"|\b(DROP\s+(TABLE|COLUMN)|RENAME\s+(TO|COLUMN)|SET\s+NOT\s+NULL|ALTER\s+COLUMN)\b",
    re.IGNORECASE,
)


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


def test_the_release_before_can_serve_what_they_make() -> None:
    """A column or table goes one release after the code that used it."""
    versions = sorted((ROOT / "gateway/store/migrations/versions").glob("[0-9]*.py"))
    later = [path for path in versions if path.name[:4] > RELEASED]
    assert [(path.name, found[0]) for path in later if (found := CONTRACTS.search(path.read_text()))] == []
    assert CONTRACTS.search('op.drop_column("machine", "name")')


def test_the_code_knows_them_in_their_order() -> None:
    assert revisions()[-1] == NEWEST
    assert revisions() == sorted(revisions())
