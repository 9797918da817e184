"""Merges the snapshots of one machine, as its provider reports them, into the inventory.

Runs in one transaction with the machine's row locked, and writes only what has changed. What the gateway itself is
doing or has failed to do has no `provider_ref` yet and is left to the operation it belongs to.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlmodel import col

from gateway.drivers.base import ReportedSnapshot, ReportedSnapshots
from gateway.inventory.columns import assignments
from gateway.inventory.counts import Tally
from gateway.models import Operation, OperationKind, OperationState, Snapshot, SnapshotState
from gateway.store.database import Transaction
from gateway.store.statements import OneOf, Statement, insert

_SAME_TIME = timedelta(seconds=1)  # some report whole seconds at one time and fractions at another

_REPORTED = ("name", "description", "memory", "is_current", "size_bytes", "created_at", "parent_id", "state")
_OF_MACHINE = col(Snapshot.machine_id) == bindparam("of")

# A merge would undo what the provider had not shown yet when the listing was made, or show twice what an operation is
# about to record. What only waits in the queue, and the refresh that asks, do not count.
_AT_WORK = Statement(
    sa.select(col(Operation.id))
    .where(
        col(Operation.machine_id) == bindparam("of"),
        col(Operation.kind) != OperationKind.REFRESH_MACHINE,
        sa.or_(
            col(Operation.state) == OperationState.RUNNING,
            sa.and_(col(Operation.state) == OperationState.QUEUED, col(Operation.issued)),
            col(Operation.finished_at) >= bindparam("begun"),
        ),
    )
    .limit(1)
)
_ROWS = Statement(
    sa.select(col(Snapshot.id), col(Snapshot.provider_ref), *(col(getattr(Snapshot, name)) for name in _REPORTED))
    .where(_OF_MACHINE)
    .order_by(col(Snapshot.id))
)
_MADE_BY_US = Statement(
    sa.select(col(Operation.snapshot_id), col(Operation.token)).where(
        col(Operation.machine_id) == bindparam("of"),
        col(Operation.kind) == OperationKind.CREATE_SNAPSHOT,
        OneOf(col(Operation.token), "tokens"),
    )
)
_INSERT = insert(Snapshot, "tenant", "machine_id", "provider_ref", *_REPORTED, "observed_at")
_BY_ID = col(Snapshot.id) == bindparam("snapshot_id")
_UPDATE = Statement(sa.update(Snapshot).where(_BY_ID).values(**assignments(Snapshot, *_REPORTED)))
_FOUND = Statement(sa.update(Snapshot).where(_BY_ID).values(**assignments(Snapshot, "provider_ref", "created_at")))
_STEP_DOWN = Statement(sa.update(Snapshot).where(_BY_ID).values(is_current=False))
_MOVE = Statement(sa.update(Snapshot).where(_BY_ID).values(**assignments(Snapshot, "parent_id")))
_DELETE = Statement(sa.delete(Snapshot).where(OneOf(col(Snapshot.id), "ids")))
_OBSERVED = Statement(
    sa.update(Snapshot)
    .where(_OF_MACHINE, col(Snapshot.provider_ref).is_not(None))
    .values(**assignments(Snapshot, "observed_at"))
)


async def merge_snapshots(
    tx: Transaction,
    machine_id: int,
    seen: ReportedSnapshots,
    *,
    tenant: str,
    begun: datetime,
    moment: datetime,
    tally: Tally,
    stuck_after: timedelta,
    adopted: bool = False,
) -> None:
    """Makes the rows of the machine agree with `seen`, whose listing began at `begun`.

    Does nothing while an operation is at work on the machine, or when one has ended since. What the provider has been
    making for longer than `stuck_after` is an error, and so can be deleted. `adopted`: the rows come from an import,
    whose times may be less exact.
    """
    if await tx.first(_AT_WORK, of=machine_id, begun=begun) is not None:
        return
    reported = {snapshot.ref: snapshot for snapshot in seen.snapshots}
    rows = await _find_lost(tx, machine_id, await tx.all(_ROWS, of=machine_id), reported)
    kept = {
        row.provider_ref: row
        for row in rows
        if row.provider_ref in reported and (adopted or _is_same(row, reported[row.provider_ref]))
    }
    staying = {row.id for row in kept.values()} | {row.id for row in rows if row.provider_ref is None}
    vanished = {row.id: row for row in rows if row.id not in staying}

    for row in rows:  # first of all, because a machine has one current snapshot at every moment
        if row.is_current and (row.provider_ref != seen.current_ref or row.id in vanished):
            await tx.run(_STEP_DOWN, snapshot_id=row.id)
    ids = {ref: row.id for ref, row in kept.items()}
    for ref, snapshot in reported.items():
        if ref not in kept:
            values = _values(snapshot, None, ids, seen.current_ref, moment - stuck_after)
            about = {"tenant": tenant, "machine_id": machine_id, "provider_ref": ref, "observed_at": moment}
            ids[ref] = (await tx.first(_INSERT, **values, **about)).id
    updated = 0
    for ref, row in kept.items():
        values = _values(reported[ref], row, ids, seen.current_ref, moment - stuck_after)
        if any(getattr(row, name) != value for name, value in values.items()):
            await tx.run(_UPDATE, snapshot_id=row.id, **values)
            updated += 1
    await _take_out(tx, rows, vanished)
    await tx.run(_OBSERVED, of=machine_id, observed_at=moment)
    tally.add(Tally(len(reported) - len(kept), updated, len(kept) - updated, len(vanished)))


async def _find_lost(
    tx: Transaction, machine_id: int, rows: list[Any], reported: Mapping[str, ReportedSnapshot]
) -> list[Any]:
    """The rows; a create that seemed to have failed, but left a snapshot after all, has got its `provider_ref`."""
    known = {row.provider_ref for row in rows}
    marked = {seen.token: seen for ref, seen in reported.items() if seen.token is not None and ref not in known}
    if None not in known or not marked:
        return rows
    made = await tx.all(_MADE_BY_US, of=machine_id, tokens=list(marked))
    lost = {operation.snapshot_id: marked[operation.token] for operation in made}
    found = []
    for row in rows:
        seen = lost.get(row.id) if row.provider_ref is None else None
        if seen is None:
            found.append(row)
            continue
        await tx.run(_FOUND, snapshot_id=row.id, provider_ref=seen.ref, created_at=seen.created_at)
        found.append(row._replace(provider_ref=seen.ref, created_at=seen.created_at))
    return found


def _is_same(row: Any, seen: ReportedSnapshot) -> bool:
    """Some providers know snapshots by name alone: another time of creation is another snapshot of that name."""
    return bool(abs(row.created_at - seen.created_at) < _SAME_TIME)


def _values(
    seen: ReportedSnapshot, row: Any, ids: Mapping[str, int], current_ref: str | None, stuck_since: datetime
) -> dict[str, Any]:
    """The columns as they should be. What the gateway made keeps the name that its user gave it."""
    named = seen if row is None or seen.token is None else row
    state = SnapshotState.CREATING if row is None else row.state
    if state in (SnapshotState.CREATING, SnapshotState.ERROR):
        half_made = SnapshotState.CREATING if seen.created_at > stuck_since else SnapshotState.ERROR
        state = SnapshotState.READY if seen.ready else half_made
    size = seen.size_bytes
    return {
        "name": named.name,
        "description": named.description,
        "memory": seen.memory,
        "is_current": seen.ref == current_ref,
        "size_bytes": row.size_bytes if size is None and row is not None else size,
        "created_at": seen.created_at,
        "parent_id": None if seen.parent_ref is None else ids.get(seen.parent_ref),
        "state": state,
    }


async def _take_out(tx: Transaction, rows: list[Any], vanished: Mapping[int, Any]) -> None:
    """Removes rows. Children that are not made yet, and so unknown to the provider, go to the next of kin."""
    if not vanished:
        return
    for row in rows:
        if row.provider_ref is None and row.parent_id in vanished:
            heir = row.parent_id
            while heir in vanished:
                heir = vanished[heir].parent_id
            await tx.run(_MOVE, snapshot_id=row.id, parent_id=heir)
    await tx.run(_DELETE, ids=list(vanished))
