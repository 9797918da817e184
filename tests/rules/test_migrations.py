"""The migrations create the schema of the models, from an empty database, on both databases."""

import re
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from alembic import command

import gateway.app  # noqa: F401 - it imports every module that defines tables
from gateway.store import migrate as migrating
from gateway.store.migrate import check, migrate, revisions
from tests.databases import KINDS, Databases
from tests.rules.modules import ROOT

NEWEST = "0008"
RELEASED = "0003"  # later ones are checked for contracting changes

# Changes that could break the previous release (docs/operating.md, "Upgrade without downtime").
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


_MOMENT = "'2026-01-01T00:00:00.000000Z'"
_OLD_ROWS = (
    "INSERT INTO provider (name, tenant, driver) VALUES ('lab', 'default', 'none')",
    (
        "INSERT INTO machine (tenant, kind, name, name_folded, provider, provider_folded, provider_ref,"
        " provider_ref_folded, imported, power_state, created_at, updated_at, observed_at)"
        f" VALUES ('default', 'VM', 'm', 'm', 'lab', 'lab', 'r', 'r', TRUE, 'ON', {_MOMENT}, {_MOMENT}, {_MOMENT})"
    ),
)


def test_triggers_work_after_migrating_from_the_first_release(empty: str) -> None:
    insert = (
        "INSERT INTO snapshot (tenant, machine_id, name, name_folded, state, memory, is_current, created_at)"
        f" SELECT 'default', 1, 'n', 'n', 'READY', FALSE, FALSE, {_MOMENT} FROM (SELECT 1 UNION ALL SELECT 2) two"
    )
    with migrating._connection(empty) as connection:
        command.upgrade(migrating._config(connection), "0003")
        for sql in (*_OLD_ROWS, insert.replace(_MOMENT, f"CAST({_MOMENT} AS {_type(connection)})")):
            connection.exec_driver_sql(sql)
    assert migrate(empty) == ("0003", NEWEST)
    with migrating._connection(empty) as connection:
        connection.exec_driver_sql("DELETE FROM event")
        connection.exec_driver_sql(insert.replace(_MOMENT, f"CAST({_MOMENT} AS {_type(connection)})"))
        connection.exec_driver_sql("UPDATE snapshot SET state = 'DELETING' WHERE id IN (1, 3)")
        connection.exec_driver_sql("DELETE FROM snapshot WHERE id = 2")
        events = connection.exec_driver_sql("SELECT noun, change, subject_id FROM event ORDER BY id").all()
        assert connection.exec_driver_sql("SELECT snapshot_count FROM machine").scalar() == 3
    assert [tuple(row) for row in events] == [
        ("snapshot", "CREATED", 3),
        ("snapshot", "CREATED", 4),
        ("snapshot", "UPDATED", 1),
        ("snapshot", "UPDATED", 3),
        ("snapshot", "DELETED", 2),
    ]


def _type(connection: sa.Connection) -> str:
    return "timestamptz" if connection.dialect.name == "postgresql" else "text"
