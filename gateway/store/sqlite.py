"""SQLite: reads on the event loop or, when they are long, in threads; one writer that commits in groups.

Every acknowledged write is on disk: WAL with synchronous=FULL, and futures are resolved after COMMIT. Writes that
arrive while a commit is on its way share the next one; each has its own savepoint, so one that fails takes only
itself back.
"""

import asyncio
import contextlib
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import inf
from typing import Any, TypeVar

from gateway.errors import LimitExceeded, Unavailable
from gateway.store.database import Limits, Load, Work
from gateway.store.sqlite_errors import commit_failed, sorted_out
from gateway.store.statements import Statement

T = TypeVar("T")

_GROUP = 256  # writes in one commit, at most
_AT_ONCE = 2  # writes that are answered in one round of the event loop
_GLANCE = 0.05  # seconds between two looks for commits of other processes; each takes some microseconds
_STEPS = 20_000  # virtual machine steps between looks at the clock: some tenths of a millisecond
_INLINE_SECONDS = 0.005  # that a read may hold the event loop
BUSY_SECONDS = 30.0  # how long a connection waits for another process's lock


class Deadline:
    """When a read has to be done, by time.monotonic(). May be moved while it runs, from any thread."""

    __slots__ = ("at",)

    def __init__(self, at: float = inf) -> None:
        self.at = at


_NEVER = Deadline()


class SqliteTransaction:
    """A `Transaction` on an open connection, for use in that connection's thread only."""

    dialect = "sqlite"

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.statements = 0
        self.deadline = _NEVER  # a statement that runs past it is interrupted
        # Looks at the clock, for SQLite adds up the steps of a statement over all the times that it is run.
        connection.set_progress_handler(lambda: time.monotonic() > self.deadline.at, _STEPS)

    async def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Sequence[Any]]:
        self.statements += 1
        return self.connection.execute(sql, parameters).fetchall()

    async def all(self, statement: Statement, **values: Any) -> list[Any]:
        compiled = statement.compiled("sqlite")
        return [compiled.row(row) for row in await self.rows(compiled.sql, compiled.parameters(values))]

    async def first(self, statement: Statement, **values: Any) -> Any:
        rows = await self.all(statement, **values)
        return rows[0] if rows else None

    async def run(self, statement: Statement, **values: Any) -> int:
        compiled = statement.compiled("sqlite")
        self.statements += 1
        return self.connection.execute(compiled.sql, compiled.parameters(values)).rowcount

    async def run_many(self, sql: str, parameters: Sequence[Sequence[Any]]) -> None:
        self.statements += 1
        self.connection.executemany(sql, parameters)


def connect(path: str, busy_seconds: float = BUSY_SECONDS) -> sqlite3.Connection:
    """Opens the file with the settings that every connection to it must share."""
    connection = sqlite3.connect(
        path, timeout=busy_seconds, isolation_level=None, check_same_thread=False, cached_statements=1_024
    )
    for pragma in (
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
        "temp_store = MEMORY",
        # Pages of the file are mapped, which is the system's memory; each connection's own are few, and stay with it.
        "cache_size = -16384",
        "mmap_size = 1073741824",
    ):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def drive(work: Work[T], transaction: SqliteTransaction) -> T:
    """Runs `work` to its end in this thread. It has nothing to wait for: the transaction answers at once."""
    coroutine: Any = work(transaction)
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    coroutine.close()
    raise RuntimeError("work in a transaction waited for something other than its transaction")


class _Wish:
    """A write that waits for its commit."""

    def __init__(self, work: Work[Any], loop: asyncio.AbstractEventLoop) -> None:
        self.work = work
        self.since = time.monotonic()
        self.future: asyncio.Future[Any] = loop.create_future()
        self.result: Any = None
        self.error: BaseException | None = None

    def settle(self) -> None:
        if self.future.done():
            return  # its caller is gone
        if self.error is None:
            self.future.set_result(self.result)
        else:
            self.future.set_exception(self.error)


class SqliteDatabase:
    """A `Database` in one file."""

    dialect = "sqlite"

    def __init__(self, path: str, limits: Limits) -> None:
        self._path = path
        self._limits = limits
        self._local = threading.local()
        self._inline: SqliteTransaction | None = None
        self._soon = Deadline()
        self._connections: list[sqlite3.Connection] = []
        self._readers = ThreadPoolExecutor(limits.read_connections, "read")
        self._reading = 0  # in threads, or waiting for one
        self._writing = 0  # writes that wait or are under way
        self._wishes: queue.SimpleQueue[_Wish | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write_forever, name="write", daemon=True)
        self._wakes: list[Callable[[], None]] = []
        self._glancing: asyncio.Task[None] | None = None
        self._counted = 0
        self._write_transaction = SqliteTransaction(connect(path, limits.write_timeout))
        self._writer.start()

    @property
    def statements(self) -> int:
        return self._counted + self._write_transaction.statements

    @property
    def load(self) -> Mapping[str, Load]:
        queued = self._wishes.qsize()
        limit = self._limits.read_connections
        return {
            "read": Load(min(self._reading, limit), max(self._reading - limit, 0)),
            "write": Load(max(self._writing - queued, 0), queued),
        }

    # ---- reads

    async def read(self, work: Work[T], *, single: bool = False) -> T:
        """Most reads are done in less time than a thread takes to be woken, so each is tried here first; one that needs
        more is begun anew in a thread. Work that reads may therefore run twice.
        """
        self._soon.at = time.monotonic() + _INLINE_SECONDS
        try:
            if self._inline is None:
                self._inline = self._reader(0)
            return self._read(work, single, self._inline, self._soon)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode not in (sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_BUSY):
                raise sorted_out(error) from error
        if self._reading >= self._limits.queue:
            raise Unavailable(f"{self._reading} reads are waiting for the database already")
        self._reading += 1
        deadline = Deadline()
        try:
            loop, since = asyncio.get_running_loop(), time.monotonic()
            return await loop.run_in_executor(self._readers, self._read_in_thread, work, single, deadline, since)
        except asyncio.CancelledError:
            deadline.at = -inf  # nobody waits for it any more
            raise
        finally:
            self._reading -= 1

    def _read(self, work: Work[T], single: bool, transaction: SqliteTransaction, deadline: Deadline) -> T:
        """Only the work has a deadline: a BEGIN or COMMIT that was interrupted would leave the transaction open."""
        before = transaction.statements
        if not single:
            transaction.connection.execute("BEGIN")
        transaction.deadline = deadline
        try:
            return drive(work, transaction)
        finally:
            transaction.deadline = _NEVER
            if not single:
                transaction.connection.execute("COMMIT")
            self._counted += transaction.statements - before

    def _read_in_thread(self, work: Work[T], single: bool, deadline: Deadline, since: float) -> T:
        now = time.monotonic()
        if now - since > self._limits.wait:
            raise Unavailable("all database connections are busy")
        deadline.at = min(deadline.at, now + self._limits.read_timeout)
        try:
            if not hasattr(self._local, "transaction"):
                self._local.transaction = self._reader(self._limits.wait)
            return self._read(work, single, self._local.transaction, deadline)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
                raise LimitExceeded(f"the read took longer than {self._limits.read_timeout:g} seconds") from error
            raise sorted_out(error) from error

    def _reader(self, busy_seconds: float) -> SqliteTransaction:
        connection = connect(self._path, busy_seconds)
        connection.execute("PRAGMA query_only = ON")
        self._connections.append(connection)
        return SqliteTransaction(connection)

    # ---- writes

    async def write(self, work: Work[T]) -> T:
        if self._writing >= self._limits.queue:
            raise Unavailable(f"{self._writing} writes are waiting for the database already")
        wish = _Wish(work, asyncio.get_running_loop())
        self._writing += 1
        self._wishes.put(wish)
        result: T = await wish.future
        return result

    def _write_forever(self) -> None:
        while (wish := self._wishes.get()) is not None:
            group = [wish]
            stop = False
            while len(group) < _GROUP and not stop:
                try:
                    another = self._wishes.get_nowait()
                except queue.Empty:
                    break
                if another is None:
                    stop = True
                else:
                    group.append(another)
            self._commit(group)
            group[0].future.get_loop().call_soon_threadsafe(self._settle, group)
            if stop:
                return

    def _commit(self, group: list[_Wish]) -> None:
        """Runs the group in one transaction. When that cannot be committed, every wish in it has failed.

        What has waited for too long, because another process held the lock, is not begun any more.
        """
        connection = self._write_transaction.connection
        told: Callable[[BaseException], BaseException] = sorted_out
        late = time.monotonic() - self._limits.write_timeout
        try:
            connection.execute("BEGIN IMMEDIATE")
            for wish in group:
                if wish.since < late:
                    wish.error = Unavailable("other work holds on to the database")
                else:
                    self._attempt(wish, connection)
            told = commit_failed
            connection.execute("COMMIT")
        except BaseException as error:  # noqa: BLE001 - told to everybody who waits
            if connection.in_transaction:
                with contextlib.suppress(sqlite3.Error):  # the next group tries again
                    connection.execute("ROLLBACK")
            shown = told(error)
            for wish in group:
                wish.error = wish.error or shown

    def _attempt(self, wish: _Wish, connection: sqlite3.Connection) -> None:
        connection.execute("SAVEPOINT wish")
        try:
            wish.result = drive(wish.work, self._write_transaction)
        except BaseException as error:
            wish.error = sorted_out(error)
            if not connection.in_transaction:
                raise  # SQLite took everything back by itself, such as for a full disk
            connection.execute("ROLLBACK TO wish")
        connection.execute("RELEASE wish")

    def _settle(self, group: list[_Wish]) -> None:
        """A few at once: what comes meanwhile is not to wait for all that they go on to do."""
        for wish in group[:_AT_ONCE]:
            self._writing -= 1
            wish.settle()
        if later := group[_AT_ONCE:]:
            asyncio.get_running_loop().call_soon(self._settle, later)
        else:
            for wake in self._wakes:
                wake()

    async def listen(self, wake: Callable[[], None]) -> None:
        self._wakes.append(wake)
        if self._glancing is None:
            self._glancing = asyncio.create_task(self._glance(), name="glance")

    async def _glance(self) -> None:
        """SQLite tells nobody of other processes' commits, but each connection can see cheaply that there was one."""
        if self._inline is None:
            self._inline = self._reader(0)
        seen = None
        while True:
            with contextlib.suppress(sqlite3.OperationalError):  # it is busy: the next look tells
                (now,) = self._inline.connection.execute("PRAGMA data_version").fetchone()
                if now != seen:
                    seen = now
                    for wake in self._wakes:
                        wake()
            await asyncio.sleep(_GLANCE)

    async def close(self) -> None:
        if self._glancing is not None:
            self._glancing.cancel()
            await asyncio.gather(self._glancing, return_exceptions=True)
        self._wishes.put(None)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self._writer.join)
        await loop.run_in_executor(None, self._readers.shutdown)
        for connection in (*self._connections, self._write_transaction.connection):
            connection.close()
