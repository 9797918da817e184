"""Deletes expired rows in batches of 500, one short transaction each, so that other writes do not wait long."""

import logging
from collections.abc import Collection
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlmodel import col

from gateway.config import Settings
from gateway.models import AuditEntry, ChangeConsumer, Event, IdempotencyKey, JobLease, Machine, Operation, Snapshot
from gateway.operations.idempotency import LIFETIME
from gateway.operations.statements import LOCK_MACHINE, unfinished
from gateway.store.clock import FromNow
from gateway.store.database import Database, Transaction
from gateway.store.statements import OneOf, Query, RowId, Statement

log = logging.getLogger(__name__)

SWEEP_INTERVAL = 60.0  # seconds between two sweeps
_BATCH = 500
_KEEP_JOB_LEASES = 7 * 86_400.0  # seconds after which the row of a job that no process runs any more is deleted

# Only the oldest rows are examined, because they expire first. So the cost of a run does not grow with the table.
_oldest = (
    sa.select(col(Operation.id), col(Operation.finished_at))
    .where(col(Operation.finished_at).is_not(None))
    .order_by(col(Operation.id))
    .limit(_BATCH)
    .subquery("oldest")
)
_OPERATIONS = Statement(
    sa.delete(Operation).where(
        col(Operation.id).in_(sa.select(_oldest.c.id).where(_oldest.c.finished_at < FromNow("since")))
    )
)

_oldest_entries = (
    sa.select(col(AuditEntry.id), col(AuditEntry.created_at))
    .order_by(col(AuditEntry.id))
    .limit(_BATCH)
    .subquery("oldest_entries")
)
_AUDIT_ENTRIES = Statement(
    sa.delete(AuditEntry).where(
        col(AuditEntry.id).in_(sa.select(_oldest_entries.c.id).where(_oldest_entries.c.created_at < FromNow("since")))
    )
)

_expired_keys = (
    sa.select(col(IdempotencyKey.created_at))
    .where(col(IdempotencyKey.created_at) < FromNow("since"))
    .order_by(col(IdempotencyKey.created_at))
    .limit(_BATCH)
    .subquery("expired_keys")
)
_KEYS = Statement(
    sa.delete(IdempotencyKey).where(
        col(IdempotencyKey.created_at) <= sa.select(sa.func.max(_expired_keys.c.created_at)).scalar_subquery()
    )
)

# Events are deleted in their order and without gaps, so if an event exists, all later ones do too. The last event is
# kept, because a subscriber that reconnects to an idle gateway resumes from it. One that a durable consumer has yet to
# process is kept for longer, and so is the last one that it has processed, which is its position.
_awaited = sa.exists().where(
    OneOf(col(ChangeConsumer.name), "consumers"),
    sa.tuple_(col(ChangeConsumer.xid), col(ChangeConsumer.id)) <= sa.tuple_(col(Event.xid), col(Event.id)),
)
_is_expired = sa.and_(
    col(Event.at) < FromNow("since"), sa.or_(col(Event.at) < FromNow("awaited_since"), ~_awaited)
).label("is_expired")
_first = (
    sa.select(col(Event.xid), col(Event.id), _is_expired).order_by(col(Event.xid), col(Event.id)).limit(_BATCH)
).subquery("first")
_kept = _first.alias("kept")
_last = sa.select(col(Event.id)).order_by(col(Event.xid).desc(), col(Event.id).desc()).limit(1).scalar_subquery()
_EVENTS = Statement(
    sa.delete(Event).where(
        col(Event.id).in_(
            sa.select(_first.c.id).where(
                _first.c.is_expired,
                _first.c.id != _last,
                ~sa.exists().where(
                    ~_kept.c.is_expired,
                    sa.tuple_(_kept.c.xid, _kept.c.id) < sa.tuple_(_first.c.xid, _first.c.id),
                ),
            )
        )
    )
)

# A job that runs has a lease; one that waits for its next run has a time in the future. If another process deletes the
# row of a job that this one knows, `gateway.jobs` creates it again.
_JOB_LEASES = Statement(
    sa.delete(JobLease).where(
        col(JobLease.next_run_at) < FromNow("since"),
        sa.or_(col(JobLease.lease_until).is_(None), col(JobLease.lease_until) < FromNow("since")),
    )
)

_expired_machine = (
    col(Machine.gone_at) < FromNow("since"),
    ~sa.exists().where(col(Operation.machine_id) == col(Machine.id), unfinished()),
)
_EXPIRED_MACHINES = Query(
    sa.select(col(Machine.id)).where(*_expired_machine).order_by(col(Machine.id)).limit(_BATCH), RowId
)
_STILL_EXPIRED = Query(
    sa.select(col(Machine.id)).where(col(Machine.id) == bindparam("machine_id"), *_expired_machine), RowId
)
_SNAPSHOT_BATCH = Query(
    sa.select(col(Snapshot.id)).where(col(Snapshot.machine_id) == bindparam("machine_id")).limit(_BATCH), RowId
)
_DETACH_CHILDREN = Statement(sa.update(Snapshot).where(OneOf(col(Snapshot.parent_id), "ids")).values(parent_id=None))
_DELETE_SNAPSHOTS = Statement(sa.delete(Snapshot).where(OneOf(col(Snapshot.id), "ids")))
_DELETE_MACHINE = Statement(sa.delete(Machine).where(col(Machine.id) == bindparam("machine_id")))


async def sweep(database: Database, settings: Settings, consumers: Collection[str] = ()) -> None:
    """Deletes everything that has expired: operations, keys, events, audit entries, machines that are gone, and rows of
    jobs that no longer exist. Called every `SWEEP_INTERVAL`. `consumers`: names of the durable consumers of the change
    feed for which events are kept.
    """
    for statement, max_age in (
        (_OPERATIONS, settings.keep_operations),
        (_KEYS, LIFETIME.total_seconds()),
        (_AUDIT_ENTRIES, settings.keep_audit),
        (_JOB_LEASES, _KEEP_JOB_LEASES),
    ):
        while await _delete(database, statement, max_age) >= _BATCH:
            pass
    awaited = {"awaited_since": -settings.keep_events_for_consumers, "consumers": list(consumers)}
    while await _delete(database, _EVENTS, settings.keep_events, **awaited) >= _BATCH:
        pass
    expired = await database.read(lambda tx: tx.all(_EXPIRED_MACHINES, since=-settings.keep_gone), single=True)
    for row in expired:
        while await _delete_machine(database, row.id, settings.keep_gone):
            pass


async def _delete(database: Database, statement: Statement, max_age: float, **values: Any) -> int:
    return await database.write(lambda tx: tx.run(statement, since=-max_age, **values))


async def _delete_machine(database: Database, machine_id: int, max_age: float) -> bool:
    """Deletes a batch of the machine's snapshots, or the machine if none is left. Returns whether more is left."""

    async def work(tx: Transaction) -> bool:
        await tx.first(LOCK_MACHINE, machine_id=machine_id)
        if await tx.first(_STILL_EXPIRED, machine_id=machine_id, since=-max_age) is None:
            return False
        ids = [row.id for row in await tx.all(_SNAPSHOT_BATCH, machine_id=machine_id)]
        if ids:
            await tx.run(_DETACH_CHILDREN, ids=ids)
            await tx.run(_DELETE_SNAPSHOTS, ids=ids)
            return True
        await tx.run(_DELETE_MACHINE, machine_id=machine_id)
        log.info("Deleted expired machine machine_id=%d", machine_id)
        return False

    return await database.write(work)
