"""Events are cleared away in their order, so nothing looks for them by their time."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.drop_index("ix_event_at", "event")
