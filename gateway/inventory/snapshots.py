"""Merges the snapshots that a provider reports for one machine into the inventory.

The merge runs in one transaction with the machine's row locked, and writes only rows that changed. Rows without a
`provider_ref` are left unchanged: they belong to creates that are queued, running or failed.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import NamedTuple, TypedDict

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlmodel import col

from gateway.drivers.base import ReportedSnapshot, ReportedSnapshots
from gateway.inventory.counts import RowCounts
from gateway.models import Operation, OperationKind, OperationState, Snapshot, SnapshotState
from gateway.store.database import Transaction
from gateway.store.statements import OneOf, Query, RowId, Statement, assignments, insert

_SAME_TIME = timedelta(seconds=1)  # tolerance, as some providers report fractions of seconds in some answers only


class _ReportedColumns(TypedDict):
    """The values of the columns that a provider reports."""

    name: str
    description: str | None
    memory: bool
    is_current: bool
    size_bytes: int | None
    created_at: datetime
    parent_id: int | None
    state: SnapshotState


class _KnownSnapshot(NamedTuple):
    """A snapshot of the inventory."""

    id: int
    provider_ref: str | None
    name: str
    description: str | None
    memory: bool
    is_current: bool
    size_bytes: int | None
    created_at: datetime
    parent_id: int | None
    state: SnapshotState | None  # None: a state that this version does not know


class _Create(NamedTuple):
    """A CREATE_SNAPSHOT operation."""

    snapshot_id: int | None
    token: str


_REPORTED = tuple(_ReportedColumns.__annotations__)
_OF_MACHINE = col(Snapshot.machine_id) == bindparam("of")

# The merge is skipped when an operation works on the machine, or has ended since the listing was requested. The listing
# may predate the operation's effect, and the merge would undo it; or contain a snapshot that the operation is about to
# record, and the merge would insert it a second time. Operations that only wait in the queue do not count, nor does
# REFRESH_MACHINE, which causes the merge.
_CONFLICTING_OPERATION = Query(
    sa.select(col(Operation.id))
    .where(
        col(Operation.machine_id) == bindparam("of"),
        col(Operation.kind) != OperationKind.REFRESH_MACHINE,
        sa.or_(
            col(Operation.state) == OperationState.RUNNING,
            sa.and_(col(Operation.state) == OperationState.QUEUED, col(Operation.dispatched)),
            col(Operation.finished_at) >= bindparam("listed_at"),
        ),
    )
    .limit(1),
    RowId,
)
_ROWS = Query(
    sa.select(*(col(getattr(Snapshot, name)) for name in _KnownSnapshot._fields))
    .where(_OF_MACHINE)
    .order_by(col(Snapshot.id)),
    _KnownSnapshot,
)
_CREATES_BY_TOKEN = Query(
    sa.select(col(Operation.snapshot_id), col(Operation.token)).where(
        col(Operation.machine_id) == bindparam("of"),
        col(Operation.kind) == OperationKind.CREATE_SNAPSHOT,
        OneOf(col(Operation.token), "tokens"),
    ),
    _Create,
)
_INSERT = insert(Snapshot, "tenant", "machine_id", "provider_ref", *_REPORTED, "observed_at")
_BY_ID = col(Snapshot.id) == bindparam("snapshot_id")
_UPDATE = Statement(sa.update(Snapshot).where(_BY_ID).values(**assignments(Snapshot, *_REPORTED)))
_SET_REF = Statement(sa.update(Snapshot).where(_BY_ID).values(**assignments(Snapshot, "provider_ref", "created_at")))
_CLEAR_CURRENT = Statement(sa.update(Snapshot).where(_BY_ID).values(is_current=False))
_SET_PARENT = Statement(sa.update(Snapshot).where(_BY_ID).values(**assignments(Snapshot, "parent_id")))
_DELETE = Statement(sa.delete(Snapshot).where(OneOf(col(Snapshot.id), "ids")))
_OBSERVED = Statement(
    sa.update(Snapshot)
    .where(_OF_MACHINE, col(Snapshot.provider_ref).is_not(None))
    .values(**assignments(Snapshot, "observed_at"))
)


async def merge_snapshots(
    tx: Transaction,
    machine_id: int,
    listing: ReportedSnapshots,
    *,
    tenant: str,
    listed_at: datetime,
    moment: datetime,
    counts: RowCounts,
    stuck_after: timedelta,
    adopted: bool = False,
) -> None:
    """Makes the rows of the machine agree with `listing`, which was requested at `listed_at`, and adds to `counts`.

    Does nothing while an operation works on the machine, or when one has ended since `listed_at`; nor while a snapshot
    is in a state that this version does not know, since its row may be meant to differ from the listing. A snapshot
    that the provider has not completed after `stuck_after` becomes ERROR, so that it can be deleted. `adopted`: the
    rows come from an import, whose times may be inexact, so `created_at` is not compared.
    """
    if await tx.first(_CONFLICTING_OPERATION, of=machine_id, listed_at=listed_at) is not None:
        return
    stored = await tx.all(_ROWS, of=machine_id)
    if any(row.state is None for row in stored):
        return
    reported = {snapshot.ref: snapshot for snapshot in listing.snapshots}
    rows = await _match_failed_creates(tx, machine_id, stored, reported)
    kept = {
        row.provider_ref: row
        for row in rows
        if row.provider_ref in reported and (adopted or _is_same_snapshot(row, reported[row.provider_ref]))
    }
    staying = {row.id for row in kept.values()} | {row.id for row in rows if row.provider_ref is None}
    vanished = {row.id: row for row in rows if row.id not in staying}

    for row in rows:  # before any insert or update: an index allows one current snapshot per machine
        if row.is_current and (row.provider_ref != listing.current_ref or row.id in vanished):
            await tx.run(_CLEAR_CURRENT, snapshot_id=row.id)
    ids = {ref: row.id for ref, row in kept.items()}
    for ref, snapshot in reported.items():
        if ref not in kept:
            values = _values(snapshot, None, ids, listing.current_ref, moment - stuck_after)
            keys = {"tenant": tenant, "machine_id": machine_id, "provider_ref": ref, "observed_at": moment}
            (inserted,) = await tx.all(_INSERT, **values, **keys)
            ids[ref] = inserted.id
    updated = 0
    for ref, row in kept.items():
        values = _values(reported[ref], row, ids, listing.current_ref, moment - stuck_after)
        if row._replace(**values) != row:
            await tx.run(_UPDATE, snapshot_id=row.id, **values)
            updated += 1
    await _delete_vanished(tx, rows, vanished)
    await tx.run(_OBSERVED, of=machine_id, observed_at=moment)
    counts.add(RowCounts(len(reported) - len(kept), updated, len(kept) - updated, len(vanished)))


async def _match_failed_creates(
    tx: Transaction, machine_id: int, rows: list[_KnownSnapshot], reported: Mapping[str, ReportedSnapshot]
) -> list[_KnownSnapshot]:
    """Finds rows whose create was recorded as failed although the provider did create the snapshot, by the operation's
    token, and sets their `provider_ref`. Returns all rows, with these updated.
    """
    known = {row.provider_ref for row in rows}
    by_token = {found.token: found for ref, found in reported.items() if found.token is not None and ref not in known}
    if None not in known or not by_token:
        return rows
    creates = await tx.all(_CREATES_BY_TOKEN, of=machine_id, tokens=list(by_token))
    by_row = {operation.snapshot_id: by_token[operation.token] for operation in creates}
    updated = []
    for row in rows:
        snapshot = by_row.get(row.id) if row.provider_ref is None else None
        if snapshot is None:
            updated.append(row)
            continue
        await tx.run(_SET_REF, snapshot_id=row.id, provider_ref=snapshot.ref, created_at=snapshot.created_at)
        updated.append(row._replace(provider_ref=snapshot.ref, created_at=snapshot.created_at))
    return updated


def _is_same_snapshot(row: _KnownSnapshot, reported: ReportedSnapshot) -> bool:
    """Compares the times of creation. Some providers identify snapshots by name only, so a snapshot with the same ref
    and another time of creation is a new one.
    """
    return abs(row.created_at - reported.created_at) < _SAME_TIME


def _values(
    reported: ReportedSnapshot,
    row: _KnownSnapshot | None,
    ids: Mapping[str, int],
    current_ref: str | None,
    stuck_since: datetime,
) -> _ReportedColumns:
    """The column values of a reported snapshot. One that the gateway created keeps the name that the caller gave it."""
    named = reported if row is None or reported.token is None else row
    state = SnapshotState.CREATING if row is None else row.state
    assert state is not None  # `merge_snapshots` leaves unknown states alone
    if state in (SnapshotState.CREATING, SnapshotState.ERROR):
        incomplete = SnapshotState.CREATING if reported.created_at > stuck_since else SnapshotState.ERROR
        state = SnapshotState.READY if reported.ready else incomplete
    size = reported.size_bytes
    return {
        "name": named.name,
        "description": named.description,
        "memory": reported.memory,
        "is_current": reported.ref == current_ref,
        "size_bytes": row.size_bytes if size is None and row is not None else size,
        "created_at": reported.created_at,
        "parent_id": None if reported.parent_ref is None else ids.get(reported.parent_ref),
        "state": state,
    }


async def _delete_vanished(tx: Transaction, rows: list[_KnownSnapshot], vanished: Mapping[int, _KnownSnapshot]) -> None:
    """Deletes the rows of snapshots that the provider no longer has. Their children that the provider has not created
    yet are moved to the nearest ancestor that remains.
    """
    if not vanished:
        return
    for row in rows:
        if row.provider_ref is None and row.parent_id in vanished:
            parent = row.parent_id
            while parent is not None and parent in vanished:
                parent = vanished[parent].parent_id
            await tx.run(_SET_PARENT, snapshot_id=row.id, parent_id=parent)
    await tx.run(_DELETE, ids=list(vanished))
