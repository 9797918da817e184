"""Adds the idempotency key of an operation's request, and the unique key of its caller, who alone sees it.

Operations of earlier versions have neither.
"""

import sqlalchemy as sa
from alembic import op

from gateway.store.migrations.types import TEXT

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.add_column("operation", sa.Column("requested_by_key", TEXT, nullable=True))
    op.add_column("operation", sa.Column("idempotency_key", TEXT, nullable=True))
