"""Effects of the end of an operation on snapshots. Every function runs with the machine's row locked."""

from typing import NamedTuple, assert_never

import orjson
import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlmodel import col

from gateway.columns import now
from gateway.drivers.base import ReportedSnapshot
from gateway.models import OperationKind, Snapshot, SnapshotState
from gateway.operations.statements import DELETE_SNAPSHOT, SET_STATE
from gateway.store.database import Transaction
from gateway.store.statements import OneOf, Query, Statement


class _KnownSnapshot(NamedTuple):
    id: int
    provider_ref: str | None


class _Position(NamedTuple):
    parent_id: int | None
    is_current: bool


_BY_REF = Query(
    sa.select(col(Snapshot.id), col(Snapshot.provider_ref)).where(
        col(Snapshot.machine_id) == bindparam("machine_id"),
        OneOf(col(Snapshot.provider_ref), "refs"),
        col(Snapshot.id) != bindparam("snapshot_id"),
    ),
    _KnownSnapshot,
)

_POSITION = Query(
    sa.select(col(Snapshot.parent_id), col(Snapshot.is_current)).where(col(Snapshot.id) == bindparam("snapshot_id")),
    _Position,
)

_CREATED = Statement(
    sa.update(Snapshot)
    .where(col(Snapshot.id) == bindparam("snapshot_id"))
    .values(
        state=SnapshotState.READY,
        memory=bindparam("memory"),
        is_current=bindparam("is_current"),
        size_bytes=bindparam("size_bytes"),
        provider_ref=bindparam("provider_ref"),
        provider_ref_folded=bindparam("provider_ref_folded"),
        created_at=bindparam("created_at"),
        observed_at=bindparam("observed_at"),
        parent_id=bindparam("parent"),
    )
)

_CLEAR_CURRENT = Statement(
    sa.update(Snapshot)
    # The text of the predicate of the index `one_current_per_machine`, so that both databases use it.
    .where(col(Snapshot.machine_id) == bindparam("machine_id"), sa.text("snapshot.is_current"))
    .values(is_current=False)
)

_SET_CURRENT = Statement(
    sa.update(Snapshot).where(col(Snapshot.id) == bindparam("snapshot_id")).values(is_current=True)
)

_REVERTED = Statement(
    sa.update(Snapshot)
    .where(col(Snapshot.id) == bindparam("snapshot_id"))
    .values(state=SnapshotState.READY, is_current=bindparam("is_current"), observed_at=bindparam("observed_at"))
)

_MOVE_CHILDREN = Statement(
    sa.update(Snapshot).where(col(Snapshot.parent_id) == bindparam("snapshot_id")).values(parent_id=bindparam("to"))
)


async def apply_create(
    tx: Transaction, machine_id: int, snapshot_id: int, reported: ReportedSnapshot, tree: bool
) -> None:
    """Makes the snapshot READY, as the provider reported it.

    `tree`: the provider's snapshots have parents, and the machine has a current one, which is now this one.
    """
    refs = [reported.ref] + ([reported.parent_ref] if reported.parent_ref is not None else [])
    rows = await tx.all(_BY_REF, machine_id=machine_id, refs=refs, snapshot_id=snapshot_id)
    known = {row.provider_ref: row.id for row in rows}
    if reported.ref in known:  # a refresh has inserted the snapshot already, so it has two rows
        await _remove(tx, known[reported.ref], snapshot_id)
    if tree:
        await tx.run(_CLEAR_CURRENT, machine_id=machine_id)
    await tx.run(
        _CREATED,
        snapshot_id=snapshot_id,
        memory=reported.memory,
        is_current=tree,
        size_bytes=reported.size_bytes,
        provider_ref=reported.ref,
        created_at=reported.created_at,
        observed_at=now(),
        parent=known.get(reported.parent_ref) if tree and reported.parent_ref is not None else None,
    )


async def apply_revert(tx: Transaction, machine_id: int, snapshot_id: int, tree: bool) -> None:
    """Makes the snapshot READY again, and current if the provider has a tree of snapshots."""
    if tree:
        # First, because a unique index allows one current snapshot per machine.
        await tx.run(_CLEAR_CURRENT, machine_id=machine_id)
    await tx.run(_REVERTED, snapshot_id=snapshot_id, is_current=tree, observed_at=now())


async def apply_delete(tx: Transaction, snapshot_id: int) -> None:
    """Deletes the snapshot's row. Its parent gets its children, and becomes current if the snapshot was.

    Does nothing if the row no longer exists.
    """
    position = await tx.first(_POSITION, snapshot_id=snapshot_id)
    if position is None:
        return  # a refresh has deleted the row already
    await _remove(tx, snapshot_id, position.parent_id)
    if position.is_current and position.parent_id is not None:
        await tx.run(_SET_CURRENT, snapshot_id=position.parent_id)


async def apply_failure(tx: Transaction, kind: OperationKind, snapshot_id: int | None, payload: str) -> None:
    """Sets the snapshot of a failed create to ERROR, so that it can be deleted; restores the state of any other."""
    match kind:
        case OperationKind.CREATE_SNAPSHOT:
            await tx.run(SET_STATE, snapshot_id=snapshot_id, new_state=SnapshotState.ERROR)
        case OperationKind.REVERT_VM_SNAPSHOT | OperationKind.DELETE_SNAPSHOT:
            await _restore(tx, snapshot_id, payload)
        case OperationKind.REFRESH_MACHINE:
            pass  # has no snapshot
        case _:
            assert_never(kind)


async def undo(tx: Transaction, kind: OperationKind, snapshot_id: int | None, payload: str) -> None:
    """Undoes what acceptance changed: deletes the snapshot of a create, restores the state of any other."""
    match kind:
        case OperationKind.CREATE_SNAPSHOT:
            await tx.run(DELETE_SNAPSHOT, snapshot_id=snapshot_id)
        case OperationKind.REVERT_VM_SNAPSHOT | OperationKind.DELETE_SNAPSHOT:
            await _restore(tx, snapshot_id, payload)
        case OperationKind.REFRESH_MACHINE:
            pass  # has no snapshot
        case _:
            assert_never(kind)


async def _restore(tx: Transaction, snapshot_id: int | None, payload: str) -> None:
    previous: str | None = orjson.loads(payload).get("previous")  # may be a state that this version does not know
    if previous is not None:
        await tx.run(SET_STATE, snapshot_id=snapshot_id, new_state=previous)


async def _remove(tx: Transaction, snapshot_id: int, heir: int | None) -> None:
    """Deletes a row and gives its children to `heir`."""
    await tx.run(_MOVE_CHILDREN, snapshot_id=snapshot_id, to=heir)
    await tx.run(DELETE_SNAPSHOT, snapshot_id=snapshot_id)
