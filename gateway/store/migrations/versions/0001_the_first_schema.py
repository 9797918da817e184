"""Creates the first schema."""

import sqlalchemy as sa
from alembic import op

from gateway.store.migrations import triggers
from gateway.store.migrations.types import MOMENT, NUMBER, TEXT

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "event",
        sa.Column("id", NUMBER, sa.Identity(always=False), nullable=False),
        sa.Column("xid", sa.BigInteger(), nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("tenant", TEXT, nullable=False),
        sa.Column("noun", TEXT, nullable=False),
        sa.Column("change", sa.String(24), nullable=False),
        sa.Column("machine_id", NUMBER, nullable=True),
        sa.Column("subject_id", NUMBER, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_event")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_event_at", "event", ["at"])
    op.create_index("ix_event_order", "event", ["xid", "id"])

    op.create_table(
        "idempotency_key",
        sa.Column("caller", TEXT, nullable=False),
        sa.Column("tenant", TEXT, nullable=False),
        sa.Column("mutation", TEXT, nullable=False),
        sa.Column("key", TEXT, nullable=False),
        sa.Column("fingerprint", TEXT, nullable=False),
        sa.Column("answer", TEXT, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("caller", "tenant", "mutation", "key", name=op.f("pk_idempotency_key")),
    )
    op.create_index("ix_idempotency_key_created_at", "idempotency_key", ["created_at"])

    op.create_table(
        "operation",
        sa.Column("id", NUMBER, sa.Identity(always=False), nullable=False),
        sa.Column("tenant", TEXT, nullable=False),
        sa.Column("kind", sa.String(24), nullable=False),
        sa.Column("state", sa.String(24), nullable=False),
        sa.Column("machine_id", NUMBER, nullable=True),
        sa.Column("machine_kind", sa.String(24), nullable=False),
        sa.Column("machine_name", TEXT, nullable=False),
        sa.Column("snapshot_id", NUMBER, nullable=True),
        sa.Column("snapshot_name", TEXT, nullable=True),
        sa.Column("requested_by", TEXT, nullable=True),
        sa.Column("requested_by_folded", TEXT, nullable=True),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("started_at", MOMENT, nullable=True),
        sa.Column("finished_at", MOMENT, nullable=True),
        sa.Column("cancel_requested_at", MOMENT, nullable=True),
        sa.Column("progress_percent", sa.Integer(), nullable=True),
        sa.Column("phase", TEXT, nullable=True),
        sa.Column("error_code", TEXT, nullable=True),
        sa.Column("error_message", TEXT, nullable=True),
        sa.Column("error_provider_message", TEXT, nullable=True),
        sa.Column("token", TEXT, nullable=False),
        sa.Column("wish", TEXT, nullable=False),
        sa.Column("task_ref", TEXT, nullable=True),
        sa.Column("issued", sa.Boolean(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("retry_at", MOMENT, nullable=True),
        sa.Column("owner", TEXT, nullable=True),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("lease_until", MOMENT, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_operation")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_operation_created", "operation", ["tenant", "created_at", "id"])
    op.create_index("ix_operation_machine", "operation", ["machine_id", "created_at", "id"])
    op.create_index("ix_operation_snapshot", "operation", ["snapshot_id", "id"])
    op.create_index(
        "ix_operation_unfinished",
        "operation",
        ["machine_id", "id"],
        sqlite_where=sa.text("state IN ('QUEUED', 'RUNNING')"),
        postgresql_where=sa.text("state IN ('QUEUED', 'RUNNING')"),
    )
    op.create_index(
        "one_running_per_machine",
        "operation",
        ["machine_id"],
        unique=True,
        sqlite_where=sa.text("state = 'RUNNING'"),
        postgresql_where=sa.text("state = 'RUNNING'"),
    )

    op.create_table(
        "provider",
        sa.Column("name", TEXT, nullable=False),
        sa.Column("tenant", TEXT, nullable=False),
        sa.Column("driver", TEXT, nullable=False),
        sa.Column("observed_at", MOMENT, nullable=True),
        sa.Column("problem", TEXT, nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_provider")),
    )
    op.create_table(
        "simulated_machine",
        sa.Column("ref", TEXT, nullable=False),
        sa.Column("provider", TEXT, nullable=False),
        sa.Column("kind", sa.String(24), nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("description", TEXT, nullable=True),
        sa.Column("power_state", sa.String(24), nullable=False),
        sa.Column("host", TEXT, nullable=True),
        sa.Column("flavor", TEXT, nullable=True),
        sa.Column("availability_zone", TEXT, nullable=True),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("current_ref", TEXT, nullable=True),
        sa.Column("latency_ms", sa.Integer(), nullable=False),
        sa.Column("fault", TEXT, nullable=True),
        sa.PrimaryKeyConstraint("ref", name=op.f("pk_simulated_machine")),
    )
    op.create_index("ix_simulated_machine_provider", "simulated_machine", ["provider"])

    op.create_table(
        "simulated_snapshot",
        sa.Column("ref", TEXT, nullable=False),
        sa.Column("machine_ref", TEXT, nullable=False),
        sa.Column("token", TEXT, nullable=True),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("description", TEXT, nullable=True),
        sa.Column("memory", sa.Boolean(), nullable=False),
        sa.Column("parent_ref", TEXT, nullable=True),
        sa.Column("size_bytes", sa.BigInteger(), nullable=True),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("ref", name=op.f("pk_simulated_snapshot")),
    )
    op.create_index("ix_simulated_snapshot_machine_ref", "simulated_snapshot", ["machine_ref"])

    op.create_table(
        "simulated_task",
        sa.Column("ref", TEXT, nullable=False),
        sa.Column("machine_ref", TEXT, nullable=False),
        sa.Column("token", TEXT, nullable=False),
        sa.Column("verb", TEXT, nullable=False),
        sa.Column("argument", TEXT, nullable=False),
        sa.Column("started_at", MOMENT, nullable=False),
        sa.Column("done_at", MOMENT, nullable=False),
        sa.Column("applied", sa.Boolean(), nullable=False),
        sa.Column("error", TEXT, nullable=True),
        sa.PrimaryKeyConstraint("ref", name=op.f("pk_simulated_task")),
    )
    op.create_index("ix_simulated_task_machine_ref", "simulated_task", ["machine_ref"])
    op.create_index("ix_simulated_task_token", "simulated_task", ["token"])

    op.create_table(
        "machine",
        sa.Column("id", NUMBER, sa.Identity(always=False), nullable=False),
        sa.Column("tenant", TEXT, nullable=False),
        sa.Column("kind", sa.String(24), nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("name_folded", TEXT, nullable=False),
        sa.Column("description", TEXT, nullable=True),
        sa.Column("description_folded", TEXT, nullable=True),
        sa.Column("provider", TEXT, nullable=False),
        sa.Column("provider_folded", TEXT, nullable=False),
        sa.Column("provider_ref", TEXT, nullable=False),
        sa.Column("provider_ref_folded", TEXT, nullable=False),
        sa.Column("provider_uid", TEXT, nullable=True),
        sa.Column("imported", sa.Boolean(), nullable=False),
        sa.Column("power_state", sa.String(24), nullable=False),
        sa.Column("host", TEXT, nullable=True),
        sa.Column("host_folded", TEXT, nullable=True),
        sa.Column("flavor", TEXT, nullable=True),
        sa.Column("availability_zone", TEXT, nullable=True),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("updated_at", MOMENT, nullable=False),
        sa.Column("observed_at", MOMENT, nullable=False),
        sa.Column("gone_at", MOMENT, nullable=True),
        sa.Column("snapshot_count", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.ForeignKeyConstraint(["provider"], ["provider.name"], name=op.f("fk_machine_provider")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_machine")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_machine_created", "machine", ["tenant", "created_at", "id"])
    op.create_index("ix_machine_name", "machine", ["tenant", "name", "id"])
    op.create_index("ix_machine_name_folded", "machine", ["tenant", "name_folded", "id"])
    op.create_index(
        "one_machine_per_provider_ref",
        "machine",
        ["provider", "provider_ref"],
        unique=True,
        sqlite_where=sa.text("NOT imported"),
        postgresql_where=sa.text("NOT imported"),
    )

    op.create_table(
        "snapshot",
        sa.Column("id", NUMBER, sa.Identity(always=False), nullable=False),
        sa.Column("tenant", TEXT, nullable=False),
        sa.Column("machine_id", NUMBER, nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("name_folded", TEXT, nullable=False),
        sa.Column("description", TEXT, nullable=True),
        sa.Column("description_folded", TEXT, nullable=True),
        sa.Column("state", sa.String(24), nullable=False),
        sa.Column("memory", sa.Boolean(), nullable=False),
        sa.Column("is_current", sa.Boolean(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=True),
        sa.Column("provider_ref", TEXT, nullable=True),
        sa.Column("provider_ref_folded", TEXT, nullable=True),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("created_by", TEXT, nullable=True),
        sa.Column("created_by_folded", TEXT, nullable=True),
        sa.Column("observed_at", MOMENT, nullable=True),
        sa.Column("parent_id", NUMBER, nullable=True),
        sa.ForeignKeyConstraint(["machine_id"], ["machine.id"], name=op.f("fk_snapshot_machine_id")),
        sa.ForeignKeyConstraint(["parent_id"], ["snapshot.id"], name=op.f("fk_snapshot_parent_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_snapshot")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_snapshot_created", "snapshot", ["tenant", "created_at", "id"])
    op.create_index("ix_snapshot_machine_created", "snapshot", ["machine_id", "created_at", "id"])
    op.create_index("ix_snapshot_machine_name", "snapshot", ["machine_id", "name_folded", "id"])
    op.create_index("ix_snapshot_name", "snapshot", ["tenant", "name_folded", "id"])
    op.create_index(
        "ix_snapshot_parent",
        "snapshot",
        ["parent_id"],
        sqlite_where=sa.text("parent_id IS NOT NULL"),
        postgresql_where=sa.text("parent_id IS NOT NULL"),
    )
    op.create_index(
        "one_current_per_machine",
        "snapshot",
        ["machine_id"],
        unique=True,
        sqlite_where=sa.text("is_current"),
        postgresql_where=sa.text("is_current"),
    )
    for statement in triggers.create(op.get_bind().dialect.name):
        op.execute(statement)


def downgrade() -> None:
    for table in (
        "snapshot",
        "machine",
        "simulated_task",
        "simulated_snapshot",
        "simulated_machine",
        "provider",
        "operation",
        "idempotency_key",
        "event",
    ):
        op.drop_table(table)
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION gateway_event, gateway_notify, gateway_count")
