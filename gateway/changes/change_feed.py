"""Reader of the outbox of each process: delivers every committed change once, in one order, to all its listeners.

One read of the outbox (`gateway.changes.outbox`) serves all listeners. A listener names the nouns that it wants, so
that a change costs nothing for the listeners of other nouns.

Wake-ups
    The reader is no periodic job (`gateway.jobs`), because subscribers must not wait for a period.
    `Database.listen` wakes the reader after commits: by NOTIFY on PostgreSQL, in the process and by a check for commits
    of other processes on SQLite. A notification carries no data and may be lost or superfluous: the reader also reads
    every `poll` seconds. Without listeners it reads at most every 0.1 s, and only the position of
    the end.

Lost history
    When the event of the reader's position is missing (see `gateway.changes.outbox`), all listeners receive `Lagged`,
    and must read the data again. So do listeners with more than 10,000 pending changes.
"""

import asyncio
import contextlib
import logging
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Collection, Iterable

from gateway.changes.outbox import (
    BATCH,
    ChangeEvent,
    IsWanted,
    Lagged,
    Position,
    events_after,
    events_between,
    last_position,
)
from gateway.errors import Unavailable
from gateway.store.database import Database, Transaction
from gateway.store.retry import Backoff

log = logging.getLogger(__name__)

_IDLE_INTERVAL = 0.1  # seconds between reads without listeners
_MAX_PENDING = 10_000  # changes that a listener may be behind


class Listener:
    """Buffer of the changes that one subscriber has not read yet: those of its `nouns` that `is_wanted` selects.

    It begins with the next change or, with `after`, with the first change after that position. `start` is the position
    of the feed when the listener was made; None with `after`.
    """

    def __init__(
        self, nouns: Collection[str], is_wanted: IsWanted, after: Position | None, start: Position | None
    ) -> None:
        self.nouns = frozenset(nouns)
        self._is_wanted = is_wanted
        self._after = after
        self.start = start if after is None else None
        self._pending: deque[ChangeEvent] = deque()
        self._ready = asyncio.Event()
        self._lagged = False

    def wants(self, event: ChangeEvent) -> bool:
        """Whether the listener wants a change of one of its nouns."""
        return event.change is not None and self._is_wanted(event)

    def offer(self, event: ChangeEvent) -> None:
        """Buffers the event, which is of one of its nouns, if it is wanted. Over 10,000 pending events it lags."""
        if not self.wants(event) or (self._after is not None and event.position <= self._after):
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

    async def batch(self, limit: int = _MAX_PENDING) -> list[ChangeEvent]:
        """Waits for changes and returns those that are pending, at most `limit`. Raises Lagged if some were lost."""
        await self._ready.wait()
        if self._lagged:
            raise Lagged
        events = [self._pending.popleft() for _ in range(min(limit, len(self._pending)))]
        if not self._pending:
            self._ready.clear()
        return events


class ChangeFeed:
    """Reads the outbox and delivers its events to the listeners, from `start` to `stop`. `poll` is in seconds."""

    def __init__(self, database: Database, *, poll: float = 0.5) -> None:
        self._database = database
        self._poll = poll
        self._listeners: set[Listener] = set()
        self._by_noun: dict[str, set[Listener]] = defaultdict(set)
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
        self._position = await self._database.read(last_position, single=True)
        await self._database.listen(self._wake.set)
        self._task = asyncio.create_task(self._run(), name="feed")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    @contextlib.asynccontextmanager
    async def listen(
        self, nouns: Collection[str], is_wanted: IsWanted, after: Position | None = None
    ) -> AsyncIterator[Listener]:
        """A listener for the changes of these nouns that are committed after this was entered; with `after`, for all
        after that event.

        Raises Lagged if the changes after that event are no longer stored, or are more than 10,000.
        """
        start = self._position
        listener = Listener(nouns, is_wanted, after, start)
        self._join(listener)
        try:
            if after is not None and start is not None:
                listener.prepend(await self._missed(listener, after, start))
            yield listener
        finally:
            self._leave(listener)

    async def _missed(self, listener: Listener, after: Position, until: Position) -> list[ChangeEvent]:
        def is_wanted(event: ChangeEvent) -> bool:
            return event.noun in listener.nouns and listener.wants(event)

        return await self._database.read(
            lambda transaction: events_between(transaction, after, until, is_wanted, _MAX_PENDING)
        )

    def _join(self, listener: Listener) -> None:
        self._listeners.add(listener)
        for noun in listener.nouns:
            self._by_noun[noun].add(listener)
        self._joined.set()

    def _leave(self, listener: Listener) -> None:
        self._listeners.discard(listener)
        for noun in listener.nouns:
            self._by_noun[noun].discard(listener)

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
        if not self._listeners:
            end = await self._database.read(last_position, single=True)
            if not self._listeners:  # otherwise one has joined at the present position
                self._position = end
                return
        try:
            while len(events := await self._database.read(self._read, single=True)) == BATCH:
                self._publish(events)
                await asyncio.sleep(0)  # a read of SQLite that takes no time does not let other tasks run
            self._publish(events)
        except Lagged:
            log.warning("The database has lost changes that were delivered: all subscribers must reload their data")
            await self._restart()

    async def _read(self, transaction: Transaction) -> list[ChangeEvent]:
        assert self._position is not None
        return await events_after(transaction, self._position)

    async def _restart(self) -> None:
        """Continues at the current end of the outbox and marks all listeners as lagged. Raises Unavailable."""
        self._position = await self._database.read(last_position, single=True)
        for listener in self._listeners:
            listener.mark_lagged()

    def _publish(self, events: list[ChangeEvent]) -> None:
        for event in events:
            for listener in self._by_noun.get(event.noun, ()):
                listener.offer(event)
        if events:
            self._position = events[-1].position
