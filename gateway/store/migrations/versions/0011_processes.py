"""Adds `process`: which processes run operations, and of which kinds.

Processes of earlier versions do not register, and fail at kinds that they do not know. The row inserted here stands for
those that may still run when the database is migrated. On PostgreSQL it is renewed while they are connected.
"""

import sqlalchemy as sa
from alembic import op

from gateway.store.migrations.types import MOMENT, TEXT

revision = "0011"
down_revision = "0010"

_IN_A_MINUTE = {
    "sqlite": "strftime('%Y-%m-%dT%H:%M:%f000Z', 'now', '60 seconds')",
    "postgresql": "clock_timestamp() + interval '60 seconds'",
}
_KINDS = '["CREATE_SNAPSHOT","REVERT_VM_SNAPSHOT","DELETE_SNAPSHOT","REFRESH_MACHINE"]'


def upgrade() -> None:
    op.create_table(
        "process",
        sa.Column("name", TEXT, nullable=False),
        sa.Column("version", TEXT, nullable=False),
        sa.Column("kinds", TEXT, nullable=False),
        sa.Column("lease_until", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_process")),
    )
    until = _IN_A_MINUTE[op.get_bind().dialect.name]
    op.execute(
        "INSERT INTO process (name, version, kinds, lease_until)"
        f" SELECT 'unregistered', '0.1', '{_KINDS}', {until} WHERE EXISTS (SELECT 1 FROM provider)"
    )
