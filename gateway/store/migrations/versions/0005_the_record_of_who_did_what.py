"""Adds the audit log. Triggers make it append-only and record the end of each operation in it."""

import sqlalchemy as sa
from alembic import op

from gateway.store.migrations.types import MOMENT, NUMBER, TEXT

revision = "0005"
down_revision = "0004"

_REFUSED = "the record of who did what is append-only"
_COPIED = (
    "tenant, caller_key, caller_name, caller_name_folded, caller_roles, address, surface, request_id, action,"
    " machine_kind, machine_id, machine_name, snapshot_id, snapshot_name, operation_id"
)
# Who asked, for what and from where is copied from the entry of the wish, so that the end can be read by itself.
_END = f"""INSERT INTO audit_entry (created_at, outcome, code, message, repeats, {_COPIED})
    SELECT NEW.finished_at, NEW.state, NEW.error_code, NEW.error_message, 0, {_COPIED} FROM audit_entry
    WHERE tenant = NEW.tenant AND operation_id = NEW.id AND action = NEW.kind AND outcome = 'ACCEPTED';"""
_ENDS = "OLD.state IN ('QUEUED', 'RUNNING') AND NEW.state NOT IN ('QUEUED', 'RUNNING')"

_SQLITE = [
    f"CREATE TRIGGER audit_entry_updated BEFORE UPDATE ON audit_entry BEGIN SELECT RAISE(ABORT, '{_REFUSED}'); END",
    f"""CREATE TRIGGER audit_entry_deleted BEFORE DELETE ON audit_entry
    WHEN OLD.created_at > strftime('%Y-%m-%dT%H:%M:%f000Z', 'now', '-30 days')
    BEGIN SELECT RAISE(ABORT, '{_REFUSED}'); END""",
    # REPLACE would delete the row of the same number without any other trigger.
    f"""CREATE TRIGGER audit_entry_replaced BEFORE INSERT ON audit_entry
    WHEN EXISTS (SELECT 1 FROM audit_entry WHERE id = NEW.id)
    BEGIN SELECT RAISE(ABORT, '{_REFUSED}'); END""",
    f"CREATE TRIGGER operation_ended AFTER UPDATE OF state ON operation WHEN {_ENDS} BEGIN {_END} END",
]
_POSTGRESQL = [
    f"""CREATE FUNCTION gateway_audit_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION '{_REFUSED}';
    END $$""",
    """CREATE TRIGGER audit_entry_updated BEFORE UPDATE ON audit_entry
    FOR EACH ROW EXECUTE FUNCTION gateway_audit_refuse()""",
    """CREATE TRIGGER audit_entry_deleted BEFORE DELETE ON audit_entry
    FOR EACH ROW WHEN (OLD.created_at > clock_timestamp() - interval '30 days')
    EXECUTE FUNCTION gateway_audit_refuse()""",
    """CREATE TRIGGER audit_entry_truncated BEFORE TRUNCATE ON audit_entry
    FOR EACH STATEMENT EXECUTE FUNCTION gateway_audit_refuse()""",
    f"""CREATE FUNCTION gateway_audit_end() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        {_END}
        RETURN NULL;
    END $$""",
    f"""CREATE TRIGGER operation_ended AFTER UPDATE OF state ON operation
    FOR EACH ROW WHEN ({_ENDS}) EXECUTE FUNCTION gateway_audit_end()""",
]


def upgrade() -> None:
    op.create_table(
        "audit_entry",
        sa.Column("id", NUMBER, sa.Identity(always=False), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("tenant", TEXT, nullable=False),
        sa.Column("caller_key", TEXT, nullable=True),
        sa.Column("caller_name", TEXT, nullable=True),
        sa.Column("caller_name_folded", TEXT, nullable=True),
        sa.Column("caller_roles", TEXT, nullable=False),
        sa.Column("address", TEXT, nullable=True),
        sa.Column("surface", sa.String(24), nullable=False),
        sa.Column("request_id", TEXT, nullable=True),
        sa.Column("action", sa.String(24), nullable=False),
        sa.Column("outcome", sa.String(24), nullable=False),
        sa.Column("machine_kind", sa.String(24), nullable=True),
        sa.Column("machine_id", NUMBER, nullable=True),
        sa.Column("machine_name", TEXT, nullable=True),
        sa.Column("snapshot_id", NUMBER, nullable=True),
        sa.Column("snapshot_name", TEXT, nullable=True),
        sa.Column("operation_id", NUMBER, nullable=True),
        sa.Column("subject", TEXT, nullable=True),
        sa.Column("code", TEXT, nullable=True),
        sa.Column("message", TEXT, nullable=True),
        sa.Column("repeats", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_entry")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_audit_entry_created", "audit_entry", ["tenant", "created_at", "id"])
    for name in ("machine", "operation"):
        column = f"{name}_id"
        op.create_index(
            f"ix_audit_entry_{name}",
            "audit_entry",
            ["tenant", column, "created_at", "id"],
            sqlite_where=sa.text(f"{column} IS NOT NULL"),
            postgresql_where=sa.text(f"{column} IS NOT NULL"),
        )
    for statement in _SQLITE if op.get_bind().dialect.name == "sqlite" else _POSTGRESQL:
        op.execute(statement)
