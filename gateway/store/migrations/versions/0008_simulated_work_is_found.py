"""Indexes `simulated_task` so that pending and old tasks of a machine are found without reading all its tasks."""

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.create_index("ix_simulated_task_machine", "simulated_task", ["machine_ref", "applied", "done_at"])
    op.drop_index("ix_simulated_task_machine_ref", "simulated_task")
