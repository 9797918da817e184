"""Changes of snapshots that several kinds of operations make. Every function runs with the machine's row locked."""

import orjson
import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlmodel import col

from gateway.models import Snapshot, SnapshotState
from gateway.operations.statements import DELETE_SNAPSHOT, SET_STATE
from gateway.store.database import Transaction
from gateway.store.statements import Statement

CLEAR_CURRENT = Statement(
    sa.update(Snapshot)
    # The text of the predicate of the index `one_current_per_machine`, so that both databases use it.
    .where(col(Snapshot.machine_id) == bindparam("machine_id"), sa.text("snapshot.is_current"))
    .values(is_current=False)
)

_MOVE_CHILDREN = Statement(
    sa.update(Snapshot).where(col(Snapshot.parent_id) == bindparam("snapshot_id")).values(parent_id=bindparam("to"))
)


async def restore_state(tx: Transaction, snapshot_id: int | None, payload: str) -> None:
    """Gives a snapshot the state that it had before its operation was accepted, if acceptance changed it."""
    previous: str | None = orjson.loads(payload).get("previous")
    if previous is not None:
        await tx.run(SET_STATE, snapshot_id=snapshot_id, new_state=SnapshotState(previous))


async def remove_snapshot(tx: Transaction, snapshot_id: int, heir: int | None) -> None:
    """Deletes a row and gives its children to `heir`."""
    await tx.run(_MOVE_CHILDREN, snapshot_id=snapshot_id, to=heir)
    await tx.run(DELETE_SNAPSHOT, snapshot_id=snapshot_id)
