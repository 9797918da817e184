"""The triggers of the first schema: they maintain `machine.snapshot_count` and write the table `event`, the outbox.

Triggers do this, and not the code that writes, so that no write can omit it. Frozen like every released migration: a
later change replaces the triggers in a migration of its own.
"""

_PUBLISHED = {
    "snapshot": "name description state memory is_current size_bytes provider_ref created_at created_by parent_id",
    "operation": "state progress_percent phase cancel_requested_at started_at finished_at error_code snapshot_id",
}


def create(dialect: str) -> list[str]:
    """The statements that create every trigger."""
    return _sqlite() if dialect == "sqlite" else _postgresql()


def _published_row(table: str, row: str) -> str:
    return "(" + ", ".join(f"{row}.{column}" for column in _PUBLISHED[table].split()) + ")"


# ---- SQLite


def _sqlite() -> list[str]:
    def event(table: str, change: str, row: str) -> str:
        machine = f"{row}.machine_id"
        return (
            "INSERT INTO event (xid, at, tenant, noun, change, machine_id, subject_id) VALUES"
            f" (0, strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'), {row}.tenant, '{table}', '{change}', {machine}, {row}.id);"
        )

    statements = [
        f"CREATE TRIGGER {table}_updated AFTER UPDATE ON {table}"
        f" WHEN {_published_row(table, 'OLD')} IS NOT {_published_row(table, 'NEW')}"
        f" BEGIN {event(table, 'UPDATED', 'NEW')} END"
        for table in _PUBLISHED
    ]
    statements.append(
        f"CREATE TRIGGER operation_inserted AFTER INSERT ON operation BEGIN {event('operation', 'CREATED', 'NEW')} END"
    )
    for name, moment, row, step, change in (
        ("inserted", "INSERT", "NEW", "+ 1", "CREATED"),
        ("deleted", "DELETE", "OLD", "- 1", "DELETED"),
    ):
        statements.append(
            f"CREATE TRIGGER snapshot_{name} AFTER {moment} ON snapshot BEGIN"
            f" UPDATE machine SET snapshot_count = snapshot_count {step} WHERE id = {row}.machine_id;"
            f" {event('snapshot', change, row)} END"
        )
    return statements


# ---- PostgreSQL


def _postgresql() -> list[str]:
    statements = [
        # With the transaction id, a reader can stop before the oldest transaction that is still open.
        """CREATE FUNCTION gateway_event() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE row record := CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
        BEGIN
            INSERT INTO event (xid, at, tenant, noun, change, machine_id, subject_id) VALUES (
                pg_current_xact_id()::text::bigint, clock_timestamp(), row.tenant, TG_TABLE_NAME,
                CASE TG_OP WHEN 'INSERT' THEN 'CREATED' WHEN 'UPDATE' THEN 'UPDATED' ELSE 'DELETED' END,
                row.machine_id, row.id);
            RETURN NULL;
        END $$""",
        """CREATE FUNCTION gateway_notify() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM pg_notify('gateway_event', '');
            RETURN NULL;
        END $$""",
        "CREATE TRIGGER event_inserted AFTER INSERT ON event FOR EACH STATEMENT EXECUTE FUNCTION gateway_notify()",
        # A statement-level trigger, so that a bulk insert updates each machine once.
        """CREATE FUNCTION gateway_count() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE step integer := CASE TG_OP WHEN 'INSERT' THEN 1 ELSE -1 END;
        BEGIN
            UPDATE machine SET snapshot_count = snapshot_count + step * changed.n
            FROM (SELECT machine_id, count(*) AS n FROM rows GROUP BY machine_id ORDER BY machine_id) changed
            WHERE machine.id = changed.machine_id;
            RETURN NULL;
        END $$""",
        """CREATE TRIGGER snapshot_counted AFTER INSERT ON snapshot REFERENCING NEW TABLE AS rows
        FOR EACH STATEMENT EXECUTE FUNCTION gateway_count()""",
        """CREATE TRIGGER snapshot_uncounted AFTER DELETE ON snapshot REFERENCING OLD TABLE AS rows
        FOR EACH STATEMENT EXECUTE FUNCTION gateway_count()""",
        """CREATE TRIGGER snapshot_changed AFTER INSERT OR DELETE ON snapshot
        FOR EACH ROW EXECUTE FUNCTION gateway_event()""",
        "CREATE TRIGGER operation_inserted AFTER INSERT ON operation FOR EACH ROW EXECUTE FUNCTION gateway_event()",
    ]
    updates = [
        f"CREATE TRIGGER {table}_updated AFTER UPDATE ON {table} FOR EACH ROW"
        f" WHEN ({_published_row(table, 'OLD')} IS DISTINCT FROM {_published_row(table, 'NEW')})"
        " EXECUTE FUNCTION gateway_event()"
        for table in _PUBLISHED
    ]
    return statements + updates
