"""Adds `caller_use`: the quota use of callers with many requests, shared between processes."""

import sqlalchemy as sa
from alembic import op

from gateway.store.migrations.types import TEXT

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.create_table(
        "caller_use",
        sa.Column("caller", TEXT, nullable=False),
        sa.Column("full_at", sa.Float(53), nullable=False),
        sa.PrimaryKeyConstraint("caller", name=op.f("pk_caller_use")),
    )
