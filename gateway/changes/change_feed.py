"""Reader of the outbox: delivers every committed change once, in one order, to all listeners of this process.

Triggers write a row of the table `event` for each change of a snapshot or operation, in the transaction of the change.
So an event exists if and only if its change was committed. One `ChangeFeed` per process reads the table, and one read
serves all listeners.

Order on PostgreSQL
    Event ids come from a sequence and are assigned before the transactions commit, so transactions commit in another
    order than that of their ids. A reader that continued after the highest id it has seen would miss a lower id that is
    committed later. Therefore each event also stores `xid`, the id of its transaction, and the order is (xid, id):

    * A read returns only events with xid < pg_snapshot_xmin(pg_current_snapshot()), the horizon. All transactions below
      it have ended, so no event can appear there any more.
    * The position of a reader is the (xid, id) of the last event it has delivered. Every later event is above it.

    The order of transactions is that of their first write, which can differ from the order of their commits. An event
    says which row changed, not what it has become; readers read the row. A transaction that has written and stays
    open, in any database of the server, holds the horizon and thus the feed back. Transactions that only read do not.

Order on SQLite
    There is one writer at a time, so ids are assigned in the order of the commits and a committed event is never
    followed by a lower one. `xid` is 0 and there is no horizon.

Example with three transactions on PostgreSQL
    time  T1, xid 100        T2, xid 101        T3, xid 102        horizon   a read returns
    1     writes event 1                                           100       -
    2                        writes event 2                        100       -
    3                        COMMIT                                100       - (101 is not below the horizon)
    4                                           writes event 3     100       -
    5     writes event 4
    6     COMMIT                                                   102       (100, 1), (100, 4), (101, 2)
    7                                           COMMIT             103       (102, 3)
    A reader that went by id alone would have read event 2 at time 3, continued with ids over 2, and missed event 1.

Wake-ups
    `Database.listen` wakes the reader after commits: by NOTIFY on PostgreSQL, in the process and by a check for commits
    of other processes on SQLite. A notification carries no data and may be lost or superfluous: the reader also reads
    every `poll` seconds. Without listeners it reads at most every 0.1 s, to keep its position recent.

Lost history
    Housekeeping deletes old events in their order, and a standby that takes over may lack the last ones. So each read
    begins at the event of the position. If that one is missing, the changes after it are not known: listeners receive
    `Lagged`, and must read the data again. So do listeners with more than 10,000 pending changes.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlmodel import col

from gateway.errors import Unavailable
from gateway.models import Change, Event
from gateway.store.database import Database, Transaction
from gateway.store.retry import Backoff
from gateway.store.statements import Query

log = logging.getLogger(__name__)

_IDLE_INTERVAL = 0.1  # seconds between reads without listeners
_BATCH = 1_000  # events per read
_MAX_PENDING = 10_000  # changes that a listener may be behind

Position = tuple[int, int]  # of an event, in the order of the feed: xid and id

_START: Position = (0, 0)


class ChangeEvent(NamedTuple):
    """One row of the outbox. `machine_id` is the machine of the snapshot or operation; `subject_id` is its own id."""

    xid: int
    id: int
    tenant: str
    noun: str  # "snapshot" or "operation"
    change: Change
    machine_id: int | None
    subject_id: int

    @property
    def position(self) -> Position:
        return self.xid, self.id


class _LastEvent(NamedTuple):
    xid: int
    id: int


class _Horizon(sa.ColumnElement[int]):
    """The id of the oldest open transaction, below which no event can appear any more. There is none on SQLite."""

    inherit_cache = False
    type = sa.BigInteger()


@compiles(_Horizon, "sqlite")
def _horizon_sqlite(element: _Horizon, compiler: SQLCompiler, **kw: object) -> str:
    return "9223372036854775807"


@compiles(_Horizon, "postgresql")
def _horizon_postgresql(element: _Horizon, compiler: SQLCompiler, **kw: object) -> str:
    return "pg_snapshot_xmin(pg_current_snapshot())::text::bigint"


_LAST = Query(
    sa.select(col(Event.xid), col(Event.id))
    .where(col(Event.xid) < _Horizon())
    .order_by(col(Event.xid).desc(), col(Event.id).desc())
    .limit(sa.literal_column("1")),
    _LastEvent,
)
_FROM_POSITION = Query(
    sa.select(
        col(Event.xid),
        col(Event.id),
        col(Event.tenant),
        col(Event.noun),
        col(Event.change),
        col(Event.machine_id),
        col(Event.subject_id),
    )
    .where(
        sa.tuple_(col(Event.xid), col(Event.id))
        >= sa.tuple_(bindparam("xid", type_=sa.BigInteger()), bindparam("id", type_=sa.BigInteger())),
        col(Event.xid) < _Horizon(),
    )
    .order_by(col(Event.xid), col(Event.id))
    # A literal: for a parameter, a generic plan of PostgreSQL assumes a tenth of the table.
    .limit(sa.literal_column(str(_BATCH + 1))),
    ChangeEvent,
)


class Lagged(Exception):
    """Changes after the position of the listener are not available any more. The listener must read the data again."""


class Listener:
    """Buffer of the changes that one subscriber has not read yet: those that `is_wanted` selects.

    It begins with the next change or, with `after`, with the first change after that position. `start` is the position
    of the feed when the listener was made; None with `after`.
    """

    def __init__(
        self, is_wanted: Callable[[ChangeEvent], bool], after: Position | None, start: Position | None
    ) -> None:
        self._is_wanted = is_wanted
        self._after = after
        self.start = start if after is None else None
        self._pending: deque[ChangeEvent] = deque()
        self._ready = asyncio.Event()
        self._lagged = False

    def offer(self, event: ChangeEvent) -> None:
        """Buffers the event if it is wanted. Over 10,000 pending events the listener lags."""
        if not self._is_wanted(event) or (self._after is not None and event.position <= self._after):
            return
        if len(self._pending) >= _MAX_PENDING:
            self._lagged = True
        else:
            self._pending.append(event)
        self._ready.set()

    def mark_lagged(self) -> None:
        """Makes `batch` raise Lagged, because changes were lost."""
        self._lagged = True
        self._ready.set()

    def prepend(self, events: Iterable[ChangeEvent]) -> None:
        """Buffers events that precede all those offered so far."""
        offered, self._pending = self._pending, deque()
        for event in [*events, *offered]:
            self.offer(event)

    async def batch(self) -> list[ChangeEvent]:
        """Waits for changes and returns all that are pending. Raises Lagged if some were lost."""
        await self._ready.wait()
        self._ready.clear()
        if self._lagged:
            raise Lagged
        events = list(self._pending)
        self._pending.clear()
        return events


class ChangeFeed:
    """Reads the outbox and delivers its events to the listeners, from `start` to `stop`. `poll` is in seconds."""

    def __init__(self, database: Database, *, poll: float = 0.5) -> None:
        self._database = database
        self._poll = poll
        self._listeners: set[Listener] = set()
        self._wake = asyncio.Event()
        self._joined = asyncio.Event()
        self._position: Position | None = None
        self._task: asyncio.Task[None] | None = None
        self.worked_at = time.monotonic()

    @property
    def listeners(self) -> int:
        """Number of listeners."""
        return len(self._listeners)

    @property
    def ended(self) -> bool:
        """Whether the reader is not running."""
        return self._task is None or self._task.done()

    async def start(self) -> None:
        """Starts reading at the current end of the outbox."""
        self._position = await self._database.read(_end, single=True)
        await self._database.listen(self._wake.set)
        self._task = asyncio.create_task(self._run(), name="feed")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    @contextlib.asynccontextmanager
    async def listen(
        self, is_wanted: Callable[[ChangeEvent], bool], after: Position | None = None
    ) -> AsyncIterator[Listener]:
        """A listener for all changes committed after this was entered; with `after`, for all after that event.

        Raises Lagged if the changes after that event are no longer stored, or are more than 10,000.
        """
        start = self._position
        listener = Listener(is_wanted, after, start)
        self._listeners.add(listener)
        self._joined.set()
        try:
            if after is not None and start is not None:
                listener.prepend(
                    await self._database.read(lambda transaction: _between(transaction, after, start, is_wanted))
                )
            yield listener
        finally:
            self._listeners.discard(listener)

    async def _run(self) -> None:
        backoff = Backoff(self._poll)
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll):
                    await self._wake.wait()
            await self._wait_for_listener()
            self._wake.clear()
            try:
                await self._catch_up()
                self.worked_at = time.monotonic()
                backoff.reset()
            except Unavailable as error:
                self.worked_at = time.monotonic()  # the reader works; the database is unavailable
                log.info("The outbox could not be read: the database is unavailable error=%s", error.message)
                await asyncio.sleep(backoff.next())
            except Exception:
                log.exception("The outbox could not be read and will be read again")
                await asyncio.sleep(backoff.next())

    async def _wait_for_listener(self) -> None:
        """Without listeners, waits up to 0.1 s for one, so that not every commit causes a read.

        The interval bounds how far the position, at which a new listener begins, is behind the end.
        """
        if not self._listeners:
            self._joined.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_IDLE_INTERVAL):
                    await self._joined.wait()

    async def _catch_up(self) -> None:
        try:
            while len(events := await self._database.read(self._read, single=True)) == _BATCH:
                self._publish(events)
            self._publish(events)
        except Lagged:
            log.warning("The database has lost changes that were delivered: all subscribers must reload their data")
            await self._restart()

    async def _read(self, transaction: Transaction) -> list[ChangeEvent]:
        assert self._position is not None
        return await _after(transaction, self._position)

    async def _restart(self) -> None:
        """Continues at the current end of the outbox and marks all listeners as lagged. Raises Unavailable."""
        self._position = await self._database.read(_end, single=True)
        for listener in self._listeners:
            listener.mark_lagged()

    def _publish(self, events: list[ChangeEvent]) -> None:
        for event in events:
            for listener in self._listeners:
                listener.offer(event)
        if events:
            self._position = events[-1].position


async def _end(transaction: Transaction) -> Position:
    """Position of the last event below the horizon, before which no event can appear any more."""
    return await transaction.first(_LAST) or _START


async def _after(transaction: Transaction, position: Position) -> list[ChangeEvent]:
    """The next events after `position`, up to 1,000.

    Raises Lagged if the event at `position` is not there any more: it and possibly later ones were deleted by
    housekeeping, or the database is a standby that took over without the last changes, whose ids continue from where
    it was.
    """
    xid, id_ = position
    events = await transaction.all(_FROM_POSITION, xid=xid, id=id_)
    if position == _START:
        return events[:_BATCH]
    if not events or events[0].position != position:
        raise Lagged
    return events[1:]


async def _between(
    transaction: Transaction, after: Position, until: Position, is_wanted: Callable[[ChangeEvent], bool]
) -> list[ChangeEvent]:
    """The wanted events after `after`, up to and including `until`.

    Raises Lagged if some are no longer stored, or more than 10,000 are wanted.
    """
    if after == _START:
        raise Lagged
    events: list[ChangeEvent] = []
    while True:
        batch = await _after(transaction, after)
        events += [event for event in batch if event.position <= until and is_wanted(event)]
        if len(events) > _MAX_PENDING:
            raise Lagged
        if len(batch) < _BATCH or batch[-1].position >= until:
            return events
        after = batch[-1].position
