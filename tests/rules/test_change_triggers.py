"""The triggers that write the change feed are those that the models publish, on both databases."""

from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from sqlmodel import SQLModel

from gateway.graphql.schema.build import build_schema, catalog, executable
from gateway.models import PUBLISHED
from gateway.reads.sources import Catalog, Column, Computed, ForeignId, Inline, Source, ToMany, ToOne
from gateway.store.change_triggers import change_triggers, published_columns, update_change_triggers
from gateway.store.migrate import migrate
from tests.databases import KINDS, Databases

NOUNS = ("machine", "operation", "provider", "snapshot")
# The text of each trigger as the database has it: the definition and, on PostgreSQL, the function.
LIVE = {
    "sqlite": "SELECT name, sql, '' FROM sqlite_master WHERE type = 'trigger'",
    "postgresql": "SELECT tgname, pg_get_triggerdef(t.oid), prosrc FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid"
    " WHERE NOT tgisinternal",
}

# Shown, but not published, and why subscribers need no event.
_OBSERVED = "every refresh changes it"
_CONSTANT = "it never changes"
UNPUBLISHED = {
    "machine": {
        "kind": _CONSTANT,
        "observed_at": _OBSERVED,
        "updated_at": "it changes with the others",
        "snapshot_count": "it changes with the events CREATED and DELETED of snapshots",
    },
    "snapshot": {"machine_id": _CONSTANT, "observed_at": _OBSERVED},
    "operation": {
        "kind": _CONSTANT,
        "machine_id": _CONSTANT,
        "snapshot_name": _CONSTANT,
        "requested_by": _CONSTANT,
        "requested_by_key": _CONSTANT,
        "idempotency_key": _CONSTANT,
        "created_at": _CONSTANT,
    },
    "provider": {"name": _CONSTANT, "observed_at": _OBSERVED},
}
TYPES = {
    "Vm": "machine",
    "Instance": "machine",
    "Snapshot": "snapshot",
    "Operation": "operation",
    "OperationError": "operation",
    "Provider": "provider",
}


@pytest.fixture(params=KINDS)
def connection(request: pytest.FixtureRequest, databases: Databases) -> Iterator[sa.Connection]:
    """A connection to a migrated database."""
    engine = sa.create_engine(databases.new(request.param).replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        yield connection
    engine.dispose()


def live(connection: sa.Connection) -> dict[str, tuple[str, str]]:
    rows = connection.exec_driver_sql(LIVE[connection.dialect.name])
    return {name: (definition, function) for name, definition, function in rows if name.startswith("publish_")}


def publishing(noun: str, column: str, *, published: bool = True) -> sa.MetaData:
    """The models, with another mark of one column."""
    metadata = sa.MetaData()
    for table in SQLModel.metadata.tables.values():
        table.to_metadata(metadata)
    metadata.tables[noun].c[column].info[PUBLISHED] = published
    return metadata


def test_a_migrated_database_has_the_triggers_of_the_models(connection: sa.Connection) -> None:
    before = live(connection)
    generated = {trigger.name for trigger in change_triggers(SQLModel.metadata, connection.dialect.name)}
    assert set(before) == generated
    assert update_change_triggers(connection, SQLModel.metadata) == []
    # Without published columns all are dropped; then all are created again.
    assert set(update_change_triggers(connection, sa.MetaData())) == generated
    assert live(connection) == {}
    assert set(update_change_triggers(connection, SQLModel.metadata)) == generated
    assert live(connection) == before


def test_every_noun_has_its_triggers() -> None:
    for kind in KINDS:
        names = [trigger.name for trigger in change_triggers(SQLModel.metadata, kind)]
        expected = {f"publish_{noun}_{change}" for noun in NOUNS for change in ("created", "updated", "deleted")}
        assert sorted(names) == sorted(expected - {"publish_operation_deleted"})


@pytest.mark.parametrize("noun", ["machine", "snapshot"])
def test_a_column_that_becomes_published_changes_the_triggers(connection: sa.Connection, noun: str) -> None:
    """And its updates write events from then on, without any other change."""

    def events_of_an_update() -> list[tuple[str, str, int]]:
        run("DELETE FROM event")
        run(f"UPDATE {noun} SET observed_at = '2026-01-02T00:00:00.000000Z' WHERE id = 1")
        run(f"UPDATE {noun} SET observed_at = '2026-01-03T00:00:00.000000Z' WHERE id = 1")
        return [tuple(row) for row in run("SELECT noun, change, subject_id FROM event ORDER BY id")]

    run = connection.exec_driver_sql
    moment = "'2026-01-01T00:00:00.000000Z'"
    run("INSERT INTO provider (name, tenant, driver) VALUES ('p', 't', 'none')")
    run(
        "INSERT INTO machine (id, tenant, kind, name, name_folded, provider, provider_folded, provider_ref,"
        " provider_ref_folded, imported, power_state, created_at, updated_at, observed_at) VALUES"
        f" (1, 't', 'VM', 'm', 'm', 'p', 'p', 'r', 'r', TRUE, 'ON', {moment}, {moment}, {moment})"
    )
    run(
        "INSERT INTO snapshot (id, tenant, machine_id, name, name_folded, state, memory, is_current, created_at)"
        f" VALUES (1, 't', 1, 's', 's', 'READY', FALSE, FALSE, {moment})"
    )
    assert events_of_an_update() == []
    assert update_change_triggers(connection, publishing(noun, "observed_at")) == [f"publish_{noun}_updated"]
    assert events_of_an_update() == [(noun, "UPDATED", 1)] * 2
    assert update_change_triggers(connection, SQLModel.metadata) == [f"publish_{noun}_updated"]
    assert events_of_an_update() == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_noun_needs_marks_only(kind: str) -> None:
    metadata = sa.MetaData()
    sa.Table(
        "finding",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("tenant", sa.Text),
        sa.Column("machine_id", sa.Integer),
        sa.Column("severity", sa.Text, info={PUBLISHED: True}),
        sa.Column("value", sa.Float),
    )
    triggers = change_triggers(metadata, kind)
    assert [trigger.name for trigger in triggers] == [
        "publish_finding_created",
        "publish_finding_updated",
        "publish_finding_deleted",
    ]
    text = "\n".join(statement for trigger in triggers for statement in trigger.statements)
    assert "severity" in text
    assert ".machine_id" in text
    assert "value" not in text.replace("VALUES", "")


@pytest.mark.parametrize("kind", KINDS)
def test_a_migration_restores_triggers_that_are_missing(databases: Databases, kind: str) -> None:
    """On SQLite, a migration that rebuilds a table drops its triggers."""
    url = databases.new(kind)
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        before = live(connection)
        on = "" if kind == "sqlite" else " ON snapshot"
        connection.exec_driver_sql(f"DROP TRIGGER publish_snapshot_updated{on}")
        if kind == "postgresql":
            connection.exec_driver_sql("DROP FUNCTION publish_snapshot_updated()")
    migrate(url)
    with engine.begin() as connection:
        assert live(connection) == before
    engine.dispose()


def test_every_column_that_the_schema_shows_is_published() -> None:
    shown = shown_columns(catalog(executable(build_schema())))
    assert set(shown) == {*NOUNS} == set(UNPUBLISHED)
    for noun, columns in shown.items():
        published = set(published_columns(SQLModel.metadata.tables[noun]))
        assert columns - published == set(UNPUBLISHED[noun]), noun


def shown_columns(fields: Catalog) -> dict[str, set[str]]:
    """The columns of each noun that fields of the schema show."""
    shown: dict[str, set[str]] = {noun: set() for noun in NOUNS}
    for type_name, noun in TYPES.items():
        columns = SQLModel.metadata.tables[noun].c
        for field in fields[type_name].values():
            shown[noun] |= {column.name for column in columns if column.name in _columns(field.source) - {"id"}}
    return shown


def _columns(source: Source) -> set[str]:
    match source:
        case Column(name) | Inline(name):
            return {name}
        case ForeignId(_, name) | ToOne(_, name):
            return {name}
        case Computed(names):
            return {*names}
        case ToMany(counter=str(name)):
            return {name}
        case _:
            return set()
