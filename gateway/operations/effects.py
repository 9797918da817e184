"""What the end of an operation does to snapshots. Every function runs with the machine's row locked."""

from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlmodel import col

from gateway.columns import now
from gateway.drivers.base import ReportedSnapshot
from gateway.models import OperationKind, Snapshot, SnapshotState
from gateway.operations.statements import DELETE_SNAPSHOT, SET_STATE
from gateway.store.database import Transaction
from gateway.store.statements import OneOf, Statement

_BY_REF = Statement(
    sa.select(col(Snapshot.id), col(Snapshot.provider_ref)).where(
        col(Snapshot.machine_id) == bindparam("machine_id"),
        OneOf(col(Snapshot.provider_ref), "refs"),
        col(Snapshot.id) != bindparam("snapshot_id"),
    )
)

_PLACE = Statement(
    sa.select(col(Snapshot.parent_id), col(Snapshot.is_current)).where(col(Snapshot.id) == bindparam("snapshot_id"))
)

_MADE = Statement(
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

_NONE_CURRENT = Statement(
    sa.update(Snapshot)
    .where(col(Snapshot.machine_id) == bindparam("machine_id"), sa.text("snapshot.is_current"))  # the index's words
    .values(is_current=False)
)

_CURRENT = Statement(sa.update(Snapshot).where(col(Snapshot.id) == bindparam("snapshot_id")).values(is_current=True))

_REVERTED = Statement(
    sa.update(Snapshot)
    .where(col(Snapshot.id) == bindparam("snapshot_id"))
    .values(state=SnapshotState.READY, is_current=bindparam("is_current"), observed_at=bindparam("observed_at"))
)

_MOVE_CHILDREN = Statement(
    sa.update(Snapshot).where(col(Snapshot.parent_id) == bindparam("snapshot_id")).values(parent_id=bindparam("to"))
)


async def created(tx: Transaction, operation: Any, seen: ReportedSnapshot, tree: bool) -> None:
    """The snapshot is as the provider made it. `tree`: the provider knows parents and a current one."""
    refs = [seen.ref] + ([seen.parent_ref] if seen.parent_ref is not None else [])
    rows = await tx.all(_BY_REF, machine_id=operation.machine_id, refs=refs, snapshot_id=operation.snapshot_id)
    known = {row.provider_ref: row.id for row in rows}
    if seen.ref in known:  # a refresh has met it before the answer came: two rows for one snapshot
        await _take_out(tx, known[seen.ref], operation.snapshot_id)
    if tree:
        await tx.run(_NONE_CURRENT, machine_id=operation.machine_id)
    await tx.run(
        _MADE,
        snapshot_id=operation.snapshot_id,
        memory=seen.memory,
        is_current=tree,
        size_bytes=seen.size_bytes,
        provider_ref=seen.ref,
        created_at=seen.created_at,
        observed_at=now(),
        parent=known.get(seen.parent_ref) if tree and seen.parent_ref is not None else None,
    )


async def reverted(tx: Transaction, operation: Any, tree: bool) -> None:
    """The machine runs on top of the snapshot, where the provider knows such a thing."""
    if tree:
        await tx.run(_NONE_CURRENT, machine_id=operation.machine_id)  # first: the database allows one
    await tx.run(_REVERTED, snapshot_id=operation.snapshot_id, is_current=tree, observed_at=now())


async def deleted(tx: Transaction, operation: Any) -> None:
    """The snapshot is gone; its children are its parent's, and so is being current."""
    place = await tx.first(_PLACE, snapshot_id=operation.snapshot_id)
    if place is None:
        return  # a refresh has noticed before
    await _take_out(tx, operation.snapshot_id, place.parent_id)
    if place.is_current and place.parent_id is not None:
        await tx.run(_CURRENT, snapshot_id=place.parent_id)


async def failed(tx: Transaction, operation: Any) -> None:
    """A snapshot that was to be made is an error that can be deleted; every other is as it was before."""
    if operation.kind is OperationKind.CREATE_SNAPSHOT:
        await tx.run(SET_STATE, snapshot_id=operation.snapshot_id, new_state=SnapshotState.ERROR)
    else:
        await _restore(tx, operation)


async def undo(tx: Transaction, operation: Any) -> None:
    """As if the operation had never been asked for."""
    if operation.kind is OperationKind.CREATE_SNAPSHOT:
        await tx.run(DELETE_SNAPSHOT, snapshot_id=operation.snapshot_id)
    else:
        await _restore(tx, operation)


async def _restore(tx: Transaction, operation: Any) -> None:
    previous = orjson.loads(operation.wish).get("previous")
    if previous is not None:
        await tx.run(SET_STATE, snapshot_id=operation.snapshot_id, new_state=SnapshotState(previous))


async def _take_out(tx: Transaction, snapshot_id: int, heir: int | None) -> None:
    await tx.run(_MOVE_CHILDREN, snapshot_id=snapshot_id, to=heir)
    await tx.run(DELETE_SNAPSHOT, snapshot_id=snapshot_id)
