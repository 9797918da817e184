"""Merges the snapshots that a provider reports for one machine into the inventory.

A merge writes only rows that have changed. Rows without a `provider_ref` are left unchanged: they belong to creates
that are queued, running or failed.

One transaction
===============

`merge_at_once` merges in the transaction that has merged the machine, whose row is locked, if the machine has at most
`SLICE` snapshots in the listing and in the inventory. That is the case for nearly all machines.

Slices
======

A transaction that writes 10,000 rows occupies SQLite's only writer for a second, and all other writes wait. So
`merge_in_slices` reads the rows outside of a transaction, compares them with the listing in a thread, and writes in
transactions of about `SLICE` rows. The same `_Plan` has the steps in both cases. Each step leaves a consistent
inventory: parents are written before their children, at most one snapshot is current, and what has vanished is deleted
last. What the steps have in common is not atomic. If the process dies between two steps, the next refresh writes what
is missing.

The rows must not have changed between the comparison and a step. Every merge sets the `observed_at` of the machine, so
a step begins with locking the machine's row if it still has the time that this merge has set. It has another one when
another merge has begun, which has read the provider later and completes this one. The second condition is that no
operation works on the machine, or has ended since the listing was requested. Only acceptance of an operation can still
change a row, and only the row's state: an update applies to the state that the comparison has seen.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import NamedTuple, TypedDict, TypeVar

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlmodel import col

from gateway.columns import UtcDateTime
from gateway.drivers.base import UNKNOWN_TIME, ReportedSnapshot
from gateway.inventory.counts import RowCounts
from gateway.inventory.listing import SnapshotListing
from gateway.models import Machine, Operation, OperationKind, OperationState, Snapshot, SnapshotState
from gateway.store.database import Database, Transaction
from gateway.store.statements import OneOf, Query, RowId, Statement, assignments, insert

T = TypeVar("T")
Step = Callable[[Transaction], Awaitable[RowCounts]]

SLICE = 500  # rows that one transaction of a large merge inserts, updates or deletes
_OBSERVED_SLICE = 5_000  # rows of which one transaction sets `observed_at` alone, which is faster
_PAGE = 1_000  # rows that are read at once; on PostgreSQL they are converted on the event loop
_SAME_TIME = timedelta(seconds=1)  # tolerance, as some providers report fractions of seconds in some answers only
_UNLIMITED = 2**31
_FIRST = datetime.min.replace(tzinfo=UTC)


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
    .where(
        _OF_MACHINE,
        # The order of the index `ix_snapshot_machine_created`, so that a page costs its own rows.
        sa.tuple_(col(Snapshot.created_at), col(Snapshot.id))
        > sa.tuple_(bindparam("after", type_=UtcDateTime()), bindparam("after_id", type_=sa.BigInteger())),
    )
    .order_by(col(Snapshot.created_at), col(Snapshot.id))
    .limit(bindparam("limit")),
    _KnownSnapshot,
)
_CREATES = Query(
    sa.select(col(Operation.snapshot_id), col(Operation.token)).where(
        OneOf(col(Operation.snapshot_id), "ids"), col(Operation.kind) == OperationKind.CREATE_SNAPSHOT
    ),
    _Create,
)
_LOCK_IF_LAST = Query(
    sa.select(col(Machine.id))
    .where(col(Machine.id) == bindparam("of"), col(Machine.observed_at) == bindparam("moment"))
    .with_for_update(),
    RowId,
)
_INSERT = insert(Snapshot, "tenant", "machine_id", "provider_ref", *_REPORTED, "observed_at")
_BY_ID = col(Snapshot.id) == bindparam("snapshot_id")
_UPDATE = Statement(
    sa.update(Snapshot)
    .where(_BY_ID, col(Snapshot.state) == bindparam("known_state"))
    .values(**assignments(Snapshot, "provider_ref", *_REPORTED, "observed_at"))
)
_CLEAR_CURRENT = Statement(sa.update(Snapshot).where(_BY_ID).values(is_current=False))
_SET_PARENT = Statement(sa.update(Snapshot).where(_BY_ID).values(**assignments(Snapshot, "parent_id")))
_DETACH_CHILDREN = Statement(sa.update(Snapshot).where(OneOf(col(Snapshot.parent_id), "ids")).values(parent_id=None))
_DELETE = Statement(sa.delete(Snapshot).where(OneOf(col(Snapshot.id), "ids")))
_OBSERVED = Statement(
    sa.update(Snapshot).where(OneOf(col(Snapshot.id), "ids")).values(**assignments(Snapshot, "observed_at"))
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotMerge:
    """What to merge: a listing of the snapshots of a machine, which was requested at `listed_at`.

    `moment` is the machine's `observed_at`. A snapshot that the provider has not completed after `stuck_after` becomes
    ERROR, so that it can be deleted. `adopted`: the rows come from an import, whose times may be inexact, so
    `created_at` is not compared. `absent_before`: the ids of the rows of snapshots that an earlier listing lacked.
    """

    machine_id: int
    tenant: str
    listing: SnapshotListing
    listed_at: datetime
    moment: datetime
    stuck_after: timedelta
    adopted: bool = False
    absent_before: Set[int] = frozenset()


@dataclass(slots=True)
class MergedSnapshots:
    """The numbers of changed rows, and the ids of the rows of snapshots that are absent from this listing only."""

    counts: RowCounts = field(default_factory=RowCounts)
    absent: Set[int] = frozenset()


async def merge_at_once(tx: Transaction, merge: SnapshotMerge) -> MergedSnapshots | None:
    """Makes the rows of the machine agree with the listing, in a transaction that has locked the machine's row.

    Deletes the rows of snapshots that are absent from this listing and from an earlier one. Does nothing while an
    operation works on the machine, or when one has ended since `listed_at`; nor while a snapshot is in a state that
    this version does not know, since its row may be meant to differ from the listing.

    Returns None, with nothing written, when there are more than `SLICE` snapshots: then use `merge_in_slices`. Those of
    a machine that is adopted are merged in any case, since a second attempt would compare their times.
    """
    if await tx.first(_CONFLICTING_OPERATION, of=merge.machine_id, listed_at=merge.listed_at) is not None:
        return MergedSnapshots()
    maximum = _UNLIMITED if merge.adopted else SLICE
    if len(merge.listing.snapshots) > maximum:
        return None
    rows = await tx.all(_ROWS, of=merge.machine_id, after=_FIRST, after_id=0, limit=maximum + 1)
    if len(rows) > maximum:
        return None
    plan = _make_plan(merge, rows, await _tokens(tx, rows))
    merged = MergedSnapshots(absent=plan.absent)
    for step in plan.steps():
        merged.counts.add(await step(tx))
    return merged


async def merge_in_slices(database: Database, merge: SnapshotMerge) -> MergedSnapshots:
    """Does what `merge_at_once` does in several transactions. The machine must have been merged at `merge.moment`.

    Ends early, without an error, when another merge of the machine has begun, or an operation works on it.
    """
    rows: list[_KnownSnapshot] = []
    after, after_id = _FIRST, 0
    while page := await database.read(
        partial(_page, machine_id=merge.machine_id, after=after, after_id=after_id), single=True
    ):
        rows += page
        after, after_id = page[-1].created_at, page[-1].id
    tokens = await database.read(partial(_tokens, rows=rows), single=True)
    plan = await asyncio.to_thread(_make_plan, merge, rows, tokens)
    merged = MergedSnapshots()
    for step in plan.steps():
        counts = await database.write(partial(_run_if_last, merge=merge, step=step))
        if counts is None:
            return merged
        merged.counts.add(counts)
    merged.absent = plan.absent
    return merged


async def _page(tx: Transaction, machine_id: int, after: datetime, after_id: int) -> list[_KnownSnapshot]:
    return await tx.all(_ROWS, of=machine_id, after=after, after_id=after_id, limit=_PAGE)


async def _tokens(tx: Transaction, rows: Sequence[_KnownSnapshot]) -> dict[str, int]:
    """The rows without a `provider_ref`, by the token of the operation that was to create the snapshot."""
    ids = [row.id for row in rows if row.provider_ref is None]
    creates = await tx.all(_CREATES, ids=ids) if ids else []
    return {create.token: create.snapshot_id for create in creates if create.snapshot_id is not None}


async def _run_if_last(tx: Transaction, merge: SnapshotMerge, step: Step) -> RowCounts | None:
    if await tx.first(_LOCK_IF_LAST, of=merge.machine_id, moment=merge.moment) is None:
        return None
    if await tx.first(_CONFLICTING_OPERATION, of=merge.machine_id, listed_at=merge.listed_at) is not None:
        return None
    return await step(tx)


_Change = tuple[ReportedSnapshot, _KnownSnapshot | None]  # and its row, or None for a new one


@dataclass(slots=True)
class _Plan:
    """The difference between the rows of a machine and a listing, and the steps that write it.

    `ids` has the rows by ref. Those of new snapshots are added when they are inserted, which is before their children.
    """

    merge: SnapshotMerge
    ids: dict[str, int] = field(default_factory=dict)
    cleared: int | None = None  # the current snapshot that ceases to be it
    changes: list[_Change] = field(default_factory=list)
    unchanged: list[int] = field(default_factory=list)
    moved: list[tuple[int, int | None]] = field(default_factory=list)  # children of what vanishes, and their new parent
    vanished: list[int] = field(default_factory=list)  # to be deleted
    absent: Set[int] = frozenset()  # from this listing alone, so that they remain

    def steps(self) -> Iterator[Step]:
        """The steps in order. Each is a transaction, or all are one, which may be retried."""
        if self.cleared is not None:  # before any insert or update: an index allows one current snapshot per machine
            yield self._clear_current
        for changes in _slices(self.changes, SLICE):
            yield partial(self._write, changes)
        if self.moved:
            yield self._move
        for ids in _slices(self.vanished, SLICE):
            yield partial(self._delete, ids)
        for ids in _slices(self.unchanged, _OBSERVED_SLICE):
            yield partial(self._observe, ids)

    async def _clear_current(self, tx: Transaction) -> RowCounts:
        await tx.run(_CLEAR_CURRENT, snapshot_id=self.cleared)
        return RowCounts()

    async def _write(self, changes: Sequence[_Change], tx: Transaction) -> RowCounts:
        merge, counts = self.merge, RowCounts()
        for snapshot, row in changes:
            values = _values(merge, snapshot, row, self.ids)
            keys = {"provider_ref": snapshot.ref, "observed_at": merge.moment}
            if row is not None:
                counts.updated += await tx.run(_UPDATE, snapshot_id=row.id, known_state=row.state, **values, **keys)
                continue
            (inserted,) = await tx.all(_INSERT, tenant=merge.tenant, machine_id=merge.machine_id, **values, **keys)
            self.ids[snapshot.ref] = inserted.id
            counts.created += 1
        return counts

    async def _move(self, tx: Transaction) -> RowCounts:
        for row_id, parent_id in self.moved:
            await tx.run(_SET_PARENT, snapshot_id=row_id, parent_id=parent_id)
        return RowCounts()

    async def _delete(self, ids: Sequence[int], tx: Transaction) -> RowCounts:
        await tx.run(_DETACH_CHILDREN, ids=ids)  # those that vanish too, and are in a later slice
        return RowCounts(removed=await tx.run(_DELETE, ids=ids))

    async def _observe(self, ids: Sequence[int], tx: Transaction) -> RowCounts:
        await tx.run(_OBSERVED, ids=ids, observed_at=self.merge.moment)
        return RowCounts(unchanged=len(ids))


def _slices(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _make_plan(merge: SnapshotMerge, stored: Sequence[_KnownSnapshot], tokens: Mapping[str, int]) -> _Plan:
    """Compares the rows with the listing. Linear, and pure."""
    plan, listing = _Plan(merge), merge.listing
    if any(row.state is None for row in stored):
        return plan
    rows = _match_failed_creates(stored, listing.snapshots, tokens)
    kept = {
        row.provider_ref: row
        for row in rows
        if row.provider_ref in listing.snapshots
        and (merge.adopted or _is_same_snapshot(row, listing.snapshots[row.provider_ref]))
    }
    staying = {row.id for row in kept.values()} | {row.id for row in rows if row.provider_ref is None}
    absent = {row.id: row for row in rows if row.id not in staying}
    # An entry without a valid ref may be any of the absent ones.
    confirmed = merge.absent_before if listing.complete else frozenset()
    vanished = {row_id: row for row_id, row in absent.items() if row_id in confirmed}
    plan.absent = absent.keys() - vanished.keys() if listing.complete else frozenset()
    plan.ids = {ref: each.id for each in absent.values() if each.id not in vanished and (ref := each.provider_ref)}
    # A new snapshot that has the ref of an absent one is inserted when that one is deleted.
    new = {ref for ref in listing.snapshots if ref not in kept and ref not in plan.ids}
    plan.ids |= {ref: row.id for ref, row in kept.items() if ref is not None}
    for row in rows:
        if row.is_current and (row.provider_ref != listing.current_ref or row.id in vanished):
            plan.cleared = row.id
    before = {row.id: row for row in stored}
    for ref, snapshot in listing.snapshots.items():
        known = kept.get(ref)
        if known is None:
            plan.changes += [(snapshot, None)] if ref in new else []
            continue
        after = before[known.id]._replace(provider_ref=ref, **_values(merge, snapshot, known, plan.ids))
        if after != before[known.id] or snapshot.parent_ref in new:
            plan.changes.append((snapshot, known))
        else:
            plan.unchanged.append(known.id)
    heirs = _heirs(vanished)
    plan.moved = [(row.id, heirs[row.parent_id]) for row in rows if row.provider_ref is None and row.parent_id in heirs]
    plan.vanished = sorted(vanished, reverse=True)  # a parent has the lower id, unless it was imported
    return plan


def _match_failed_creates(
    rows: Sequence[_KnownSnapshot], snapshots: Mapping[str, ReportedSnapshot], tokens: Mapping[str, int]
) -> list[_KnownSnapshot]:
    """The rows, with a `provider_ref` for those whose create was recorded as failed although the provider did create
    the snapshot, which has the operation's token.
    """
    known = {row.provider_ref for row in rows}
    found = {
        tokens[snapshot.token]: snapshot
        for ref, snapshot in snapshots.items()
        if snapshot.token is not None and snapshot.token in tokens and ref not in known
    }
    return [
        row._replace(provider_ref=found[row.id].ref, created_at=_created_at(row, found[row.id]))
        if row.id in found
        else row
        for row in rows
    ]


def _is_same_snapshot(row: _KnownSnapshot, reported: ReportedSnapshot) -> bool:
    """Compares the times of creation. Some providers identify snapshots by name only, so a snapshot with the same ref
    and another time of creation is a new one. A time that could not be read proves nothing.
    """
    times = (row.created_at, reported.created_at)
    return UNKNOWN_TIME in times or abs(row.created_at - reported.created_at) < _SAME_TIME


def _created_at(row: _KnownSnapshot | None, reported: ReportedSnapshot) -> datetime:
    """The time of creation as reported, or the known one if it could not be read."""
    return reported.created_at if row is None or reported.created_at != UNKNOWN_TIME else row.created_at


def _values(
    merge: SnapshotMerge, reported: ReportedSnapshot, row: _KnownSnapshot | None, ids: Mapping[str, int]
) -> _ReportedColumns:
    """The column values of a reported snapshot. One that the gateway created keeps the name that the caller gave it."""
    is_known = row is not None and (reported.token is not None or reported.token_unread)
    named = row if row is not None and is_known else reported
    created_at = _created_at(row, reported)
    state = SnapshotState.CREATING if row is None else row.state
    assert state is not None  # `_make_plan` leaves unknown states alone
    if state in (SnapshotState.CREATING, SnapshotState.ERROR):
        is_young = created_at > merge.moment - merge.stuck_after
        incomplete = SnapshotState.CREATING if is_young else SnapshotState.ERROR
        state = SnapshotState.READY if reported.ready else incomplete
    size = reported.size_bytes
    return {
        "name": named.name,
        "description": named.description,
        "memory": reported.memory,
        "is_current": reported.ref == merge.listing.current_ref,
        "size_bytes": row.size_bytes if size is None and row is not None else size,
        "created_at": created_at,
        "parent_id": None if reported.parent_ref is None else ids.get(reported.parent_ref),
        "state": state,
    }


def _heirs(vanished: Mapping[int, _KnownSnapshot]) -> dict[int, int | None]:
    """The nearest ancestor that remains, of each row that vanishes. Linear, also for a chain."""
    heirs: dict[int, int | None] = {}
    for row_id in vanished:
        path = []
        step: int | None = row_id
        while step is not None and step in vanished and step not in heirs:
            path.append(step)
            heirs[step] = None  # ends a cycle
            step = vanished[step].parent_id
        heirs |= dict.fromkeys(path, heirs.get(step, step) if step is not None else None)
    return heirs
