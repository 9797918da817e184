"""On PostgreSQL, writes events once per statement instead of once per row, and lowers the fill factor of pages.

Updates of operations keep their row-level trigger: most of them, such as heartbeats, change no published column, and
the trigger's WHEN condition checks that at a lower cost than a function. SQLite has row-level triggers only, and runs
them without calling a function. The fill factor leaves space for new versions of rows in the same page (HOT updates).
"""

from alembic import op

revision = "0006"
down_revision = "0005"

_SHOWN = "name description state memory is_current size_bytes provider_ref created_at created_by parent_id"

_EVENTS = """INSERT INTO event (xid, at, tenant, noun, change, machine_id, subject_id)
    SELECT pg_current_xact_id()::text::bigint, clock_timestamp(), rows.tenant, TG_TABLE_NAME, {change},
        rows.machine_id, rows.id
    FROM {source} ORDER BY rows.id"""

_FUNCTION = "CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {events}; RETURN NULL; END $$"

# How full a page is written: the rest is for newer versions of its rows, which then leave the indexes alone.
_FULL = {"machine": 80, "snapshot": 90, "operation": 80}


def upgrade() -> None:
    if op.get_bind().dialect.name != "postgresql":
        return
    for trigger, table in (
        ("snapshot_changed", "snapshot"),
        ("snapshot_updated", "snapshot"),
        ("operation_inserted", "operation"),
    ):
        op.execute(f"DROP TRIGGER {trigger} ON {table}")
    change = "CASE TG_OP WHEN 'INSERT' THEN 'CREATED' ELSE 'DELETED' END"
    op.execute(_FUNCTION.format(name="gateway_events", events=_EVENTS.format(change=change, source="rows")))
    differ = f"{_row('before')} IS DISTINCT FROM {_row('rows')}"
    source = f"rows JOIN before ON before.id = rows.id WHERE {differ}"
    op.execute(_FUNCTION.format(name="gateway_updates", events=_EVENTS.format(change="'UPDATED'", source=source)))
    for name, moment, rows, function in (
        ("snapshot_inserted", "INSERT ON snapshot", "NEW TABLE AS rows", "gateway_events"),
        ("snapshot_deleted", "DELETE ON snapshot", "OLD TABLE AS rows", "gateway_events"),
        ("snapshot_updated", "UPDATE ON snapshot", "OLD TABLE AS before NEW TABLE AS rows", "gateway_updates"),
        ("operation_inserted", "INSERT ON operation", "NEW TABLE AS rows", "gateway_events"),
    ):
        op.execute(
            f"CREATE TRIGGER {name} AFTER {moment} REFERENCING {rows} FOR EACH STATEMENT EXECUTE FUNCTION {function}()"
        )
    for table, percent in _FULL.items():
        op.execute(f"ALTER TABLE {table} SET (fillfactor = {percent})")


def _row(name: str) -> str:
    return "(" + ", ".join(f"{name}.{column}" for column in _SHOWN.split()) + ")"
