"""The migrations create the schema of the models, from an empty database, on both databases."""

import re

import pytest

import gateway.app  # noqa: F401 - it imports every module that defines tables
from gateway.store.migrate import check, migrate, revisions
from tests.databases import KINDS, Databases
from tests.rules.modules import ROOT

NEWEST = "0012"
RELEASED = "0003"  # later ones are checked for contracting changes

# Changes that could break the previous release (docs/operating.md, "Upgrade without downtime").
CONTRACTS = re.compile(
    r"\bop\.(drop_column|drop_table|rename_table|alter_column)\b"
    r"|\b(DROP\s+(TABLE|COLUMN)|RENAME\s+(TO|COLUMN)|SET\s+NOT\s+NULL|ALTER\s+COLUMN)\b",
    re.IGNORECASE,
)


@pytest.fixture(params=KINDS)
def empty(request: pytest.FixtureRequest, databases: Databases) -> str:
    """The URL of a database with nothing in it."""
    return databases.without_tables(request.param)


def test_migrations_match_the_models(empty: str) -> None:
    assert migrate(empty) == (None, NEWEST)
    check(empty)


def test_a_second_time_changes_nothing(empty: str) -> None:
    migrate(empty)
    assert migrate(empty) == (NEWEST, NEWEST)


def test_the_previous_release_can_serve_the_new_schema() -> None:
    """A column or table is removed one release after the code that used it."""
    versions = sorted((ROOT / "gateway/store/migrations/versions").glob("[0-9]*.py"))
    later = [path for path in versions if path.name[:4] > RELEASED]
    assert [(path.name, found[0]) for path in later if (found := CONTRACTS.search(path.read_text()))] == []
    assert CONTRACTS.search('op.drop_column("machine", "name")')


def test_revisions_are_in_order() -> None:
    assert revisions()[-1] == NEWEST
    assert revisions() == sorted(revisions())
