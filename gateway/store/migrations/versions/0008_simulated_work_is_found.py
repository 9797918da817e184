"""What waits on a simulated machine, and what is old there, is found without reading all that it ever did."""

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.create_index("ix_simulated_task_machine", "simulated_task", ["machine_ref", "applied", "done_at"])
    op.drop_index("ix_simulated_task_machine_ref", "simulated_task")
