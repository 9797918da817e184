"""Adds `job_lease`: who runs each cluster job, and when it runs next."""

import sqlalchemy as sa
from alembic import op

from gateway.store.migrations.types import MOMENT, TEXT

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.create_table(
        "job_lease",
        sa.Column("name", TEXT, nullable=False),
        sa.Column("next_run_at", MOMENT, nullable=False),
        sa.Column("owner", TEXT, nullable=True),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("lease_until", MOMENT, nullable=True),
        sa.Column("started_at", MOMENT, nullable=True),
        sa.Column("succeeded_at", MOMENT, nullable=True),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("problem", TEXT, nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_job_lease")),
    )
