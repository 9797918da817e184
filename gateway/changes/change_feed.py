"""The outbox's reader: every change, once, in commit order, to whoever listens in this process.

Design notes. Sequence numbers are handed out before their transactions commit, so on PostgreSQL the reader stays
behind the oldest open transaction and goes by (transaction, id); SQLite has one writer, whose order is the id's.
A notification only wakes the reader; it looks every `poll` seconds anyhow. One read serves all listeners.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from typing import NamedTuple

from gateway.errors import Unavailable
from gateway.models import Change
from gateway.store.database import Database, Transaction
from gateway.store.retry import Backoff

log = logging.getLogger(__name__)

_IDLE = 0.1  # seconds between reads for nobody
_BATCH = 1_000
_BUFFER = 10_000  # changes a listener may be behind

_PARAMETERS = {"sqlite": ("?1", "?2"), "postgresql": ("$1", "$2")}
_HORIZON = {
    "sqlite": "9223372036854775807",
    "postgresql": "pg_snapshot_xmin(pg_current_snapshot())::text::bigint",
}


Position = tuple[int, int]  # in the order of the outbox: transaction and id

_BEFORE_ALL: Position = (0, 0)


class ChangeEvent(NamedTuple):
    """One row of the outbox."""

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


class Lagged(Exception):
    """There were changes that the listener cannot be told."""


class Listener:
    """The changes that one subscriber wants, from the moment it was made or from `after` on.

    `start` is that moment; None with `after`.
    """

    def __init__(self, wants: Callable[[ChangeEvent], bool], after: Position | None, start: Position | None) -> None:
        self._wants = wants
        self._after = after
        self.start = start if after is None else None
        self._pending: deque[ChangeEvent] = deque()
        self._ready = asyncio.Event()
        self._lagged = False

    def offer(self, event: ChangeEvent) -> None:
        if not self._wants(event) or (self._after is not None and event.position <= self._after):
            return
        if len(self._pending) >= _BUFFER:
            self._lagged = True
        else:
            self._pending.append(event)
        self._ready.set()

    def lose(self) -> None:
        """Changes have come to nothing, or cannot be known any more."""
        self._lagged = True
        self._ready.set()

    def precede(self, events: Iterable[ChangeEvent]) -> None:
        """These came before all that was offered."""
        offered, self._pending = self._pending, deque()
        for event in [*events, *offered]:
            self.offer(event)

    async def batch(self) -> list[ChangeEvent]:
        """Waits for changes and takes all there are. Raises Lagged when some were lost."""
        await self._ready.wait()
        self._ready.clear()
        if self._lagged:
            raise Lagged
        events = list(self._pending)
        self._pending.clear()
        return events


class ChangeFeed:
    """Reads the outbox while anybody listens."""

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
        """How many listen."""
        return len(self._listeners)

    @property
    def ended(self) -> bool:
        """Whether it reads nothing more."""
        return self._task is None or self._task.done()

    async def start(self) -> None:
        """Starts to follow the outbox from its present end."""
        self._position = await self._database.read(_end, single=True)
        await self._database.listen(self._wake.set)
        self._task = asyncio.create_task(self._follow(), name="feed")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    @contextlib.asynccontextmanager
    async def listen(
        self, wants: Callable[[ChangeEvent], bool], after: Position | None = None
    ) -> AsyncIterator[Listener]:
        """A listener that misses nothing committed after this was entered; with `after`, nothing since that event.

        Raises Lagged when it cannot be told what has happened since.
        """
        start = self._position
        listener = Listener(wants, after, start)
        self._listeners.add(listener)
        self._joined.set()
        try:
            if after is not None and start is not None:
                listener.precede(
                    await self._database.read(lambda transaction: _between(transaction, after, start, wants))
                )
            yield listener
        finally:
            self._listeners.discard(listener)

    async def _follow(self) -> None:
        backoff = Backoff(self._poll)
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll):
                    await self._wake.wait()
            await self._idle()
            self._wake.clear()
            try:
                await self._catch_up()
                self.worked_at = time.monotonic()
                backoff.reset()
            except Unavailable as error:
                self.worked_at = time.monotonic()  # it is the database that does not
                log.info("the outbox cannot be read now: %s", error.message)
                await asyncio.sleep(backoff.next())
            except Exception:
                log.exception("the outbox could not be read; trying again")
                await asyncio.sleep(backoff.next())

    async def _idle(self) -> None:
        """While nobody listens, not every commit is worth a read: but who comes begins at most so long ago."""
        if not self._listeners:
            self._joined.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_IDLE):
                    await self._joined.wait()

    async def _catch_up(self) -> None:
        try:
            while len(events := await self._database.read(self._read, single=True)) == _BATCH:
                self._publish(events)
            self._publish(events)
        except Lagged:
            log.warning("the database no longer has changes that it had told: subscribers have to read again")
            await self._begin_anew()

    async def _read(self, transaction: Transaction) -> list[ChangeEvent]:
        assert self._position is not None
        return await _after(transaction, self._position)

    async def _begin_anew(self) -> None:
        """Follows from the present end. Whoever listens has missed what nobody knows. Raises Unavailable."""
        self._position = await self._database.read(_end, single=True)
        for listener in self._listeners:
            listener.lose()

    def _publish(self, events: list[ChangeEvent]) -> None:
        for event in events:
            for listener in self._listeners:
                listener.offer(event)
        if events:
            self._position = events[-1].position


async def _end(transaction: Transaction) -> Position:
    """The last event that none can come before any more."""
    horizon = _HORIZON[transaction.dialect]
    end = f"SELECT xid, id FROM event WHERE xid < {horizon} ORDER BY xid DESC, id DESC LIMIT 1"
    rows = await transaction.rows(end)
    return (rows[0][0], rows[0][1]) if rows else _BEFORE_ALL


async def _after(transaction: Transaction, position: Position) -> list[ChangeEvent]:
    """The next events after `position`, a batch at most.

    Raises Lagged unless the event at `position` is still there. Events are cleared away in their order, so then nothing
    since is; and a standby that took over without the last changes numbers its own from where it was.
    """
    one, two = _PARAMETERS[transaction.dialect]
    rows = await transaction.rows(
        "SELECT xid, id, tenant, noun, change, machine_id, subject_id FROM event"
        f" WHERE (xid, id) >= ({one}, {two}) AND xid < {_HORIZON[transaction.dialect]}"
        f" ORDER BY xid, id LIMIT {_BATCH + 1}",
        position,
    )
    if position == _BEFORE_ALL:
        return [ChangeEvent(*row) for row in rows[:_BATCH]]
    if not rows or (rows[0][0], rows[0][1]) != position:
        raise Lagged
    return [ChangeEvent(*row) for row in rows[1:]]


async def _between(
    transaction: Transaction, after: Position, until: Position, wants: Callable[[ChangeEvent], bool]
) -> list[ChangeEvent]:
    """The events that are wanted of those after the one and up to the other: what others missed counts for nothing.

    Raises Lagged when some are no longer there, or too many are.
    """
    if after == _BEFORE_ALL:
        raise Lagged
    events: list[ChangeEvent] = []
    while True:
        batch = await _after(transaction, after)
        events += [event for event in batch if event.position <= until and wants(event)]
        if len(events) > _BUFFER:
            raise Lagged
        if len(batch) < _BATCH or batch[-1].position >= until:
            return events
        after = batch[-1].position
