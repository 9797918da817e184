"""Adds `machine.obstacle`: why no snapshot of the machine can be created."""

import sqlalchemy as sa
from alembic import op

from gateway.store.migrations.types import TEXT

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("machine", sa.Column("obstacle", TEXT, nullable=True))
