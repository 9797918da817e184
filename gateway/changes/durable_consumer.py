"""Durable consumers: readers of the outbox whose position is stored, so that they continue where they stopped.

    consumer = DurableConsumer(database, "webhooks", ["operation"])

    async def work(transaction: Transaction) -> None:
        await consumer.commit(transaction, batch)
        ...  # the effects

    batch = await consumer.batch()
    await database.write(work)

Guarantees
    * The effects and the position are committed together, so every change has its effects exactly once, whatever
      crashes, as far as they are rows of the same database. A consumer with other effects writes what is to be done.
    * Any number of processes may run a consumer. `commit` moves the position only from where the batch began, and a
      second process that does so waits for the first to end: of two that process the same batch, one commits, and the
      other gets `BatchTaken` and rolls back. No lease is needed for this; one saves the work of those that lose.
    * Events are kept until every consumer in `CONSUMERS` has processed them, for `GATEWAY_KEEP_EVENTS_FOR_CONSUMERS` at
      most. A consumer that is further behind gets `Lagged`: it calls `restart` and reads the data again.
    * A position whose name is not in `CONSUMERS`, of a newer version or of a consumer that was removed, is left alone
      and holds no events back.
"""

import logging
from collections.abc import Collection
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlalchemy.dialects.postgresql import insert as upsert  # SQLite understands the same ON CONFLICT
from sqlmodel import col

from gateway.changes.outbox import START, ChangeEvent, Position, events_after, last_position
from gateway.models import Change, ChangeConsumer, Event
from gateway.store.clock import DatabaseNow
from gateway.store.database import Database, Transaction
from gateway.store.statements import Query, RowId, Statement, assignments

log = logging.getLogger(__name__)

# The names of the consumers that this version runs, for which housekeeping keeps events.
CONSUMERS: frozenset[str] = frozenset()


class BatchTaken(Exception):
    """Another process has processed the batch, or the consumer was restarted. The transaction must be rolled back."""


class ConsumerBatch(NamedTuple):
    """The next changes for a consumer. There may be none although the position moves: those of nouns not wanted."""

    events: list[ChangeEvent]
    after: Position  # of the consumer, before the batch
    until: Position  # of the consumer, once the batch is committed

    @property
    def is_end(self) -> bool:
        """Whether there was nothing to read, so that there is nothing to commit."""
        return self.after == self.until


class _StoredPosition(NamedTuple):
    xid: int
    id: int


class _ConsumerName(NamedTuple):
    name: str


_OF = col(ChangeConsumer.name) == bindparam("consumer")
_POSITION = Query(sa.select(col(ChangeConsumer.xid), col(ChangeConsumer.id)).where(_OF), _StoredPosition)
_NAMES = Query(sa.select(col(ChangeConsumer.name)).order_by(col(ChangeConsumer.name)), _ConsumerName)
_MOVED = {**assignments(ChangeConsumer, "xid", "id"), "updated_at": DatabaseNow()}
_INSERT = Statement(upsert(ChangeConsumer).values(name=bindparam("consumer"), **_MOVED).on_conflict_do_nothing())
_SET = Statement(sa.update(ChangeConsumer).where(_OF).values(**_MOVED))
_MOVE = Statement(
    sa.update(ChangeConsumer)
    .where(
        _OF,
        col(ChangeConsumer.xid) == bindparam("after_xid", type_=sa.BigInteger()),
        col(ChangeConsumer.id) == bindparam("after_id", type_=sa.BigInteger()),
    )
    .values(**_MOVED)
)
# An event before all others, on both databases. Readers skip its noun.
_INSERT_FIRST_EVENT = Query(
    sa.insert(Event)
    .values(xid=0, at=DatabaseNow(), tenant="", noun="change_consumer", change=Change.CREATED, subject_id=0)
    .returning(col(Event.id)),
    RowId,
)


class DurableConsumer:
    """Reads the changes of `nouns` from the position that is stored under `name`. See the module's description."""

    def __init__(self, database: Database, name: str, nouns: Collection[str]) -> None:
        self._database = database
        self._name = name
        self._nouns = frozenset(nouns)

    async def batch(self) -> ConsumerBatch:
        """The changes after the position, of up to 1,000 events. Does not wait: at the end of the outbox it is empty.

        A new consumer begins at the present end: the first call stores that position. Raises Lagged if changes after
        the position are no longer stored.
        """
        if (batch := await self._database.read(self._read)) is None:
            await self._database.write(self._insert)
            batch = await self._database.read(self._read)
        assert batch is not None
        return batch

    async def commit(self, transaction: Transaction, batch: ConsumerBatch) -> None:
        """Stores that the changes of the batch are processed, when the transaction is committed.

        Call it first in the transaction, so that another process with the same batch waits instead of working in vain.
        Raises BatchTaken.
        """
        (after_xid, after_id), (xid, id_) = batch.after, batch.until
        values = {"after_xid": after_xid, "after_id": after_id, "xid": xid, "id": id_}
        if await transaction.run(_MOVE, consumer=self._name, **values) == 0:
            raise BatchTaken(f"The batch of the consumer {self._name!r} after {batch.after} was processed elsewhere.")

    async def restart(self, transaction: Transaction) -> None:
        """Moves the position to the present end, after Lagged. What is read later in the same transaction, or in later
        ones, includes every change that the consumer does not receive.
        """
        xid, id_ = await _end(transaction)
        await transaction.run(_SET, consumer=self._name, xid=xid, id=id_)

    async def _read(self, transaction: Transaction) -> ConsumerBatch | None:
        position = await transaction.first(_POSITION, consumer=self._name)
        if position is None:
            return None
        events = await events_after(transaction, position)
        wanted = [event for event in events if event.noun in self._nouns and event.change is not None]
        return ConsumerBatch(wanted, position, events[-1].position if events else position)

    async def _insert(self, transaction: Transaction) -> None:
        xid, id_ = await _end(transaction)
        await transaction.run(_INSERT, consumer=self._name, xid=xid, id=id_)


async def _end(transaction: Transaction) -> Position:
    """The position of the last event. It exists, so that a consumer that begins there notices when later ones are lost:
    in an empty outbox an event is inserted.
    """
    position = await last_position(transaction)
    if position == START:
        (first,) = await transaction.all(_INSERT_FIRST_EVENT)
        return 0, first.id
    return position


async def log_unknown_consumers(database: Database, known: Collection[str] = CONSUMERS) -> None:
    """Logs the stored consumers that this version does not run. Called once, at the start of a process."""
    rows = await database.read(lambda transaction: transaction.all(_NAMES), single=True)
    if unknown := [row.name for row in rows if row.name not in known]:
        log.info("Ignored consumers in the database that this process does not know consumers=%s", ",".join(unknown))
