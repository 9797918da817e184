"""Generates the triggers that write the outbox, the table `event`, from the columns that the models publish.

Triggers write the events, and not the code that changes the rows, so that no write can omit one: not an import, not an
older process beside this one. `store.migrate` ends with `update_change_triggers`, so a column that subscriptions show
costs its field, its migration and `published=True` in `models`. A mark that is set without any migration takes effect
with the first process that starts with it.

Events
    A table with a published column is a noun of the change feed. A row that is inserted or deleted writes CREATED or
    DELETED, and an update that changes the value of a published column writes UPDATED; other updates write nothing.
    `event.machine_id` is the machine that the row is about, `machine_kind` the kind of a machine, which cannot be
    looked up once its row is deleted. A row without a number has the `subject_id` 0, and its primary key as the
    `subject_name`.

SQLite
    Has row-level triggers only. Those for updates are not even compiled into an UPDATE that sets no published column.

PostgreSQL
    Inserts and deletes write their events with one INSERT per statement, in the order of the rows' numbers, because
    imports and batches insert many rows at once. So do updates of the tables in `_UPDATED_IN_BULK`. Most updates of the
    other tables change one row, and no published column of it (leases and heartbeats of an operation, `observed_at` of
    a machine): a row-level trigger with a WHEN condition excludes these at a lower cost than a function could.

Names and versions
    All names begin with `publish_`. A trigger of this name whose definition differs from the generated one is replaced,
    and one that is not generated any more is dropped. PostgreSQL does not store the text of a definition, so the digest
    of the text is the comment of the trigger.
"""

from collections.abc import Mapping
from hashlib import sha256
from typing import NamedTuple

import sqlalchemy as sa

from gateway.models import PUBLISHED

_PREFIX = "publish_"
_UPDATED_IN_BULK = {"snapshot"}
_NOT_DELETED = {"operation"}  # an operation is deleted long after it has ended, by housekeeping only

_CHANGES = {"created": "INSERT", "updated": "UPDATE", "deleted": "DELETE"}


class ChangeTrigger(NamedTuple):
    """A trigger of one table and one kind of change, and the statements that create it."""

    name: str
    table: str
    statements: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Identifies the definition."""
        return _digest("\n".join(self.statements))


class _LiveTrigger(NamedTuple):
    name: str
    table: str
    digest: str | None


def change_triggers(metadata: sa.MetaData, dialect: str) -> list[ChangeTrigger]:
    """The triggers of all tables with published columns, for `sqlite` or `postgresql`."""
    make = _sqlite_trigger if dialect == "sqlite" else _postgresql_trigger
    return [
        ChangeTrigger(name, table.name, make(name, table, change, columns))
        for table in metadata.sorted_tables
        if (columns := published_columns(table))
        for change in _CHANGES
        if change != "deleted" or table.name not in _NOT_DELETED
        for name in [f"{_PREFIX}{table.name}_{change}"]
    ]


def published_columns(table: sa.Table) -> list[str]:
    """The names in the database of the table's published columns."""
    return [column.name for column in table.columns if column.info.get(PUBLISHED)]


def update_change_triggers(connection: sa.Connection, metadata: sa.MetaData) -> list[str]:
    """Makes the database's triggers those of the models, in the caller's transaction.

    Returns the names of the triggers that were created, replaced or dropped. Locks only the tables of these.
    """
    dialect = connection.dialect.name
    live = _live_triggers(connection)
    generated = {trigger.name: trigger for trigger in change_triggers(metadata, dialect)}
    stale = [one for one in live.values() if one.name not in generated or generated[one.name].digest != one.digest]
    missing = [trigger for trigger in generated.values() if trigger.name not in live]
    replaced = [generated[one.name] for one in stale if one.name in generated]
    for trigger in stale:
        _drop(connection, trigger.name, trigger.table)
    for created in [*missing, *replaced]:
        for statement in created.statements:
            connection.exec_driver_sql(statement)
        if dialect == "postgresql":
            connection.exec_driver_sql(f"COMMENT ON TRIGGER {created.name} ON {created.table} IS '{created.digest}'")
    return sorted({trigger.name for trigger in stale} | {trigger.name for trigger in missing})


def _drop(connection: sa.Connection, name: str, table: str) -> None:
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(f"DROP TRIGGER {name}")
    else:
        connection.exec_driver_sql(f"DROP TRIGGER {name} ON {table}")
        connection.exec_driver_sql(f"DROP FUNCTION {name}()")


_LIVE = {
    "sqlite": "SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'trigger'",
    "postgresql": """SELECT t.tgname, c.relname, obj_description(t.oid, 'pg_trigger') FROM pg_trigger t
    JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = current_schema() AND NOT t.tgisinternal""",
}


def _live_triggers(connection: sa.Connection) -> Mapping[str, _LiveTrigger]:
    dialect = connection.dialect.name
    rows = [_LiveTrigger(*row) for row in connection.exec_driver_sql(_LIVE[dialect]) if row[0].startswith(_PREFIX)]
    if dialect == "sqlite":  # it stores the text itself
        rows = [row._replace(digest=_digest(row.digest or "")) for row in rows]
    return {row.name: row for row in rows}


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


# ---- SQL


def _sqlite_trigger(name: str, table: sa.Table, change: str, columns: list[str]) -> tuple[str, ...]:
    moment, condition, row = _CHANGES[change], "", "OLD" if change == "deleted" else "NEW"
    if change == "updated":
        moment = f"UPDATE OF {', '.join(columns)}"
        condition = f" WHEN {_row('OLD', columns)} IS NOT {_row('NEW', columns)}"
    values = {"xid": "0", "at": "strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')", **_values(table, change, row)}
    insert = f"{_insert(values)} VALUES ({', '.join(values.values())})"
    return (f"CREATE TRIGGER {name} AFTER {moment} ON {table.name}{condition} BEGIN {insert}; END",)


def _postgresql_trigger(name: str, table: sa.Table, change: str, columns: list[str]) -> tuple[str, ...]:
    clock = {"xid": "pg_current_xact_id()::text::bigint", "at": "clock_timestamp()"}
    if change == "updated" and table.name not in _UPDATED_IN_BULK:
        values = clock | _values(table, change, "NEW")
        condition = f"{_row('OLD', columns)} IS DISTINCT FROM {_row('NEW', columns)}"
        moment = f"UPDATE OF {', '.join(columns)} ON {table.name} FOR EACH ROW WHEN ({condition})"
        body = f"{_insert(values)} VALUES ({', '.join(values.values())})"
    else:
        values = clock | _values(table, change, "rows")
        source, transition = "rows", "OLD TABLE AS rows" if change == "deleted" else "NEW TABLE AS rows"
        if change == "updated":
            transition = f"OLD TABLE AS before {transition}"
            condition = f"{_row('before', columns)} IS DISTINCT FROM {_row('rows', columns)}"
            source = f"rows JOIN before ON before.id = rows.id WHERE {condition}"
        moment = f"{_CHANGES[change]} ON {table.name} REFERENCING {transition} FOR EACH STATEMENT"
        order = ", ".join(f"rows.{column.name}" for column in table.primary_key)
        body = f"{_insert(values)} SELECT {', '.join(values.values())} FROM {source} ORDER BY {order}"
    return (
        f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; RETURN NULL; END $$",
        f"CREATE TRIGGER {name} AFTER {moment} EXECUTE FUNCTION {name}()",
    )


def _insert(values: Mapping[str, str]) -> str:
    return f"INSERT INTO event ({', '.join(values)})"


def _values(table: sa.Table, change: str, row: str) -> dict[str, str]:
    """The expressions of the columns of `event` that describe the changed row, whose alias is `row`."""
    values = {"tenant": f"{row}.tenant", "noun": f"'{table.name}'", "change": f"'{change.upper()}'"}
    if table.name == "machine":
        values |= {"machine_id": f"{row}.id", "machine_kind": f"{row}.kind"}
    elif "machine_id" in table.columns:
        values |= {"machine_id": f"{row}.machine_id"}
    if "id" in table.columns:
        return values | {"subject_id": f"{row}.id"}
    (key,) = table.primary_key
    return values | {"subject_id": "0", "subject_name": f"{row}.{key.name}"}


def _row(alias: str, columns: list[str]) -> str:
    return "(" + ", ".join(f"{alias}.{column}" for column in columns) + ")"
