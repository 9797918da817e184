"""Adds machines and providers to the change feed, and `change_consumer`: the positions of durable consumers.

The triggers that write events are from now on generated from the models, after the last migration (see
`gateway.store.change_triggers`). This one drops those of the earlier releases. On SQLite these also counted snapshots,
which triggers of their own do now. The columns of `event` are nullable, because older processes write and read it too.
"""

import sqlalchemy as sa
from alembic import op

from gateway.store.migrations.types import MOMENT, NUMBER, TEXT

revision = "0010"
down_revision = "0009"

_DROPPED = {
    "snapshot": ("snapshot_inserted", "snapshot_updated", "snapshot_deleted"),
    "operation": ("operation_inserted", "operation_updated"),
}
_COUNT = "UPDATE machine SET snapshot_count = snapshot_count {step} WHERE id = {row}.machine_id;"


def upgrade() -> None:
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    for table, triggers in _DROPPED.items():
        for trigger in triggers:
            op.execute(f"DROP TRIGGER {trigger}" if is_sqlite else f"DROP TRIGGER {trigger} ON {table}")
    if is_sqlite:
        for name, moment, row, step in (
            ("snapshot_counted", "INSERT", "NEW", "+ 1"),
            ("snapshot_uncounted", "DELETE", "OLD", "- 1"),
        ):
            count = _COUNT.format(step=step, row=row)
            op.execute(f"CREATE TRIGGER {name} AFTER {moment} ON snapshot BEGIN {count} END")
    else:
        op.execute("DROP FUNCTION gateway_event, gateway_events, gateway_updates")
    op.add_column("event", sa.Column("machine_kind", sa.String(24), nullable=True))
    op.add_column("event", sa.Column("subject_name", TEXT, nullable=True))
    op.create_table(
        "change_consumer",
        sa.Column("name", TEXT, nullable=False),
        sa.Column("xid", sa.BigInteger(), nullable=False),
        sa.Column("id", NUMBER, nullable=False),
        sa.Column("updated_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_change_consumer")),
    )
