"""Adds API tokens and the sessions that `/api/auth` creates."""

import sqlalchemy as sa
from alembic import op

from gateway.store.migrations.types import MOMENT, NUMBER, TEXT

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "api_token",
        sa.Column("id", NUMBER, sa.Identity(always=False), nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("secret_hash", TEXT, nullable=False),
        sa.Column("roles", TEXT, nullable=False),
        sa.Column("tenant", TEXT, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("expires_at", MOMENT, nullable=True),
        sa.Column("last_used_at", MOMENT, nullable=True),
        sa.Column("revoked_at", MOMENT, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_token")),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "one_token_per_name",
        "api_token",
        ["name"],
        unique=True,
        sqlite_where=sa.text("revoked_at IS NULL"),
        postgresql_where=sa.text("revoked_at IS NULL"),
    )
    op.create_table(
        "api_session",
        sa.Column("id", NUMBER, sa.Identity(always=False), nullable=False),
        sa.Column("secret_hash", TEXT, nullable=False),
        sa.Column("token_id", NUMBER, nullable=True),
        sa.Column("caller", TEXT, nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("roles", TEXT, nullable=False),
        sa.Column("tenant", TEXT, nullable=False),
        sa.Column("expires_at", MOMENT, nullable=False),
        sa.Column("last_used_at", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["token_id"], ["api_token.id"], name=op.f("fk_api_session_token_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_session")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_api_session_caller", "api_session", ["caller"])
