"""Clears away what has been kept long enough, in small transactions, so that nobody waits for it."""

import logging

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlmodel import col

from gateway.config import Settings
from gateway.models import AuditEntry, Event, IdempotencyKey, Machine, Operation, Snapshot
from gateway.operations.clock import FromNow
from gateway.operations.idempotency import LIFETIME
from gateway.operations.statements import LOCK_MACHINE, unfinished
from gateway.store.database import Database, Transaction
from gateway.store.statements import OneOf, Statement

log = logging.getLogger(__name__)

_BATCH = 500

# Looked for among the oldest alone, which are the first to be due; so a round costs the same however many are kept.
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
_ENTRIES = Statement(
    sa.delete(AuditEntry).where(
        col(AuditEntry.id).in_(sa.select(_oldest_entries.c.id).where(_oldest_entries.c.created_at < FromNow("since")))
    )
)

_used_up = (
    sa.select(col(IdempotencyKey.created_at))
    .where(col(IdempotencyKey.created_at) < FromNow("since"))
    .order_by(col(IdempotencyKey.created_at))
    .limit(_BATCH)
    .subquery("used_up")
)
_KEYS = Statement(
    sa.delete(IdempotencyKey).where(
        col(IdempotencyKey.created_at) <= sa.select(sa.func.max(_used_up.c.created_at)).scalar_subquery()
    )
)

# In their order and without a gap, so that whoever finds one event finds all that came after it. The last one stays:
# by it a subscriber of a gateway where nothing happens is taken up again.
_first = (
    sa.select(col(Event.xid), col(Event.id), col(Event.at)).order_by(col(Event.xid), col(Event.id)).limit(_BATCH)
).subquery("first")
_kept = _first.alias("kept")
_last = sa.select(col(Event.id)).order_by(col(Event.xid).desc(), col(Event.id).desc()).limit(1).scalar_subquery()
_EVENTS = Statement(
    sa.delete(Event).where(
        col(Event.id).in_(
            sa.select(_first.c.id).where(
                _first.c.at < FromNow("since"),
                _first.c.id != _last,
                ~sa.exists().where(
                    _kept.c.at >= FromNow("since"),
                    sa.tuple_(_kept.c.xid, _kept.c.id) < sa.tuple_(_first.c.xid, _first.c.id),
                ),
            )
        )
    )
)

_forgotten = (
    col(Machine.gone_at) < FromNow("since"),
    ~sa.exists().where(col(Operation.machine_id) == col(Machine.id), unfinished()),
)
_GONE = Statement(sa.select(col(Machine.id)).where(*_forgotten).order_by(col(Machine.id)).limit(_BATCH))
_STILL_GONE = Statement(sa.select(col(Machine.id)).where(col(Machine.id) == bindparam("machine_id"), *_forgotten))
_SOME_SNAPSHOTS = Statement(
    sa.select(col(Snapshot.id)).where(col(Snapshot.machine_id) == bindparam("machine_id")).limit(_BATCH)
)
_DETACH = Statement(sa.update(Snapshot).where(OneOf(col(Snapshot.parent_id), "ids")).values(parent_id=None))
_DELETE_SNAPSHOTS = Statement(sa.delete(Snapshot).where(OneOf(col(Snapshot.id), "ids")))
_DELETE_MACHINE = Statement(sa.delete(Machine).where(col(Machine.id) == bindparam("machine_id")))


async def sweep(database: Database, settings: Settings) -> None:
    """One round of clearing away."""
    for statement, kept in (
        (_OPERATIONS, settings.keep_operations),
        (_KEYS, LIFETIME.total_seconds()),
        (_EVENTS, settings.keep_events),
        (_ENTRIES, settings.keep_audit),
    ):
        while await _delete(database, statement, kept) >= _BATCH:
            pass
    gone = await database.read(lambda tx: tx.all(_GONE, since=-settings.keep_gone), single=True)
    for row in gone:
        while await _clear_machine(database, row.id, settings.keep_gone):
            pass


async def _delete(database: Database, statement: Statement, kept: float) -> int:
    return await database.write(lambda tx: tx.run(statement, since=-kept))


async def _clear_machine(database: Database, machine_id: int, kept: float) -> bool:
    """Deletes some snapshots of a machine that is gone, or the machine itself; whether there is more to do."""

    async def work(tx: Transaction) -> bool:
        await tx.first(LOCK_MACHINE, machine_id=machine_id)
        if await tx.first(_STILL_GONE, machine_id=machine_id, since=-kept) is None:
            return False
        ids = [row.id for row in await tx.all(_SOME_SNAPSHOTS, machine_id=machine_id)]
        if ids:
            await tx.run(_DETACH, ids=ids)
            await tx.run(_DELETE_SNAPSHOTS, ids=ids)
            return True
        await tx.run(_DELETE_MACHINE, machine_id=machine_id)
        log.info("machine %d, gone long enough, was cleared away", machine_id)
        return False

    return await database.write(work)
