"""Drops the index on `event.at`: events are deleted in the order of their ids, so no query needs it."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.drop_index("ix_event_at", "event")
