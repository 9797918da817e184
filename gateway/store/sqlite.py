"""SQLite: reads on the event loop or in threads, and one writer thread that commits writes in groups.

Group commit
============

SQLite allows one writer at a time, and a durable COMMIT waits for an fsync, which takes much longer than a small
statement. The gateway therefore does not commit each write separately. All writes of a process go through one thread
(named "write") with one connection, and the writes that arrive while a COMMIT is in progress share the next one.

 1. `write` puts the work into a queue, as a `_QueuedWrite` with a future, and awaits the future. When
    `DatabaseLimits.max_waiting` writes are unfinished, it raises Unavailable instead.
 2. The writer thread blocks until the queue has a write, then takes what else is queued at that moment, up to
    `_MAX_GROUP` writes. It does not wait for more, so a single write is committed immediately. The gateway's own writes
    (those without a claim) come first, then those of callers, one of each in turn. When writes of several callers wait,
    a group has at most `_MAX_OF_CALLER` of each: a caller that has queued 200 delays one of another by at most the
    group that is being committed, and not by its own next ones.
 3. It sends BEGIN IMMEDIATE, which waits up to `write_timeout` for the lock of another process.
 4. It runs the writes one after the other, in the order of the group, each between SAVEPOINT and RELEASE. When the
    work raises, ROLLBACK TO undoes that write alone, and the exception is kept for its future. A write that had waited
    longer than `write_timeout` when its group began is not run; it fails with Unavailable.
 5. It sends COMMIT. With journal_mode=WAL and synchronous=FULL, it returns after the log has been synced to disk.
 6. It schedules `_resolve` on the event loop, which sets the results and exceptions of the futures, `_RESOLVED_AT_ONCE`
    of them in each iteration of the loop, so that requests that arrive meanwhile need not wait for what all the
    resolved ones do next. After the last one it wakes the listeners. The writer thread meanwhile runs the next group.

When BEGIN or COMMIT fails, or when SQLite itself rolls back the whole transaction during a write (disk full, I/O error,
out of memory), every write of the group that has no error of its own fails with the translated error.

Example, with a COMMIT that takes 2 ms:

    0.0 ms  write A is queued. The writer is idle and takes the group [A]: BEGIN, A, COMMIT ...
    0.4 ms  writes B, C and D are queued while the COMMIT of A is in progress.
    2.1 ms  COMMIT returns. The future of A is resolved. The writer takes the group [B, C, D] and sends BEGIN.
    2.2 ms  SAVEPOINT, B inserts a row, RELEASE.
    2.3 ms  SAVEPOINT, C raises Conflict, ROLLBACK TO, RELEASE.
    2.4 ms  SAVEPOINT, D reads and sees the row of B, RELEASE. COMMIT ...
    4.5 ms  COMMIT returns. B and D get their results and C gets Conflict: three writes, one fsync.

Invariants:

 * A future gets a result only after the COMMIT of its group has returned. An acknowledged write is on disk.
 * A write that raises leaves no change, and does not affect the other writes of its group.
 * Writes are serialized, those of one caller in the order of the queue. Each sees the changes of the ones before it,
    in its group too; if the group cannot be committed, all of them fail, so no success depends on a write that was
    lost.
 * The work of a write awaits its transaction only. `run_to_completion` raises RuntimeError when it awaits anything
    else, since the other writes of the group would wait for it.
 * Canceling the caller does not cancel a queued write: the write may still be committed, and its result is dropped.
 * Only an I/O error of COMMIT leaves the outcome open. It raises Unconfirmed; every other error means that nothing was
    written.

Reads
=====

Most reads take less time than waking a thread. `read` therefore runs the work on the event loop first, with a
connection that waits for no lock and a time limit of `inline_seconds`. SQLite calls a progress handler every
`progress_steps` virtual machine instructions; the handler interrupts a statement that is past its deadline. A read
that is interrupted, or finds the database busy, runs again from the start in a thread, with `read_timeout` as its
limit. The work of a read may therefore run twice. Callers share `read_connections` threads, and one more is reserved
for the gateway's own reads (`fair_slots`).

A read in a thread is limited by a `ReadDeadline`, which other threads may move. When the client disconnects, the task
is canceled, the deadline is moved into the past, and the statement is interrupted at the next call of the handler.
"""

import asyncio
import contextlib
import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from math import inf
from typing import Any, TypeVar

from gateway.errors import LimitExceeded, Unavailable
from gateway.fair_queue import CLAIM, Claim
from gateway.store.database import DatabaseLimits, Load, Work
from gateway.store.fair_slots import FairSlots
from gateway.store.sqlite_errors import translate, translate_commit_error
from gateway.store.statements import Query, Row, Statement

T = TypeVar("T")

_MAX_GROUP = 256  # writes in one commit
_MAX_OF_CALLER = 32  # writes of one caller in a commit, when writes of several wait
_RESOLVED_AT_ONCE = 2  # futures of writes that are resolved in one iteration of the event loop
_MANY_PARAMETERS = 100  # of a statement that takes more than some milliseconds to compile, up to a second
_COMPILE_SECONDS = 0.1  # that are expected of it
_PYTHON_SECONDS = 0.02  # that a read may continue with work in Python after the time limit of its statements
_POLL_INTERVAL = 0.05  # seconds between checks for commits of other processes; a check takes some microseconds
_RESERVED_READERS = 1  # threads for the gateway's own reads
BUSY_TIMEOUT = 30.0  # seconds that a connection waits for the lock of another process, by default


class ReadDeadline:
    """The time, by time.monotonic(), at which a read is interrupted. May be moved during the read, from any thread.

    It is no `Watchdog`: SQLite itself compares the time, in the thread of the read, where there is no task to cancel.
    """

    __slots__ = ("at",)

    def __init__(self, at: float = inf) -> None:
        self.at = at


_NEVER = ReadDeadline()


class SqliteTransaction:
    """A `Transaction` on an open connection. For use in the thread of that connection only.

    `progress_steps` is the number of virtual machine instructions between two checks of the deadline.
    """

    dialect = "sqlite"

    def __init__(self, connection: sqlite3.Connection, progress_steps: int) -> None:
        self.connection = connection
        self.statement_count = 0
        self.deadline = _NEVER  # a statement that runs past it is interrupted
        # The handler compares the time instead of counting its calls, because SQLite counts the instructions of a
        # prepared statement over all its executions.
        connection.set_progress_handler(lambda: time.monotonic() > self.deadline.at, progress_steps)

    async def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Sequence[Any]]:
        if len(parameters) > _MANY_PARAMETERS:  # SQLite cannot be interrupted while it compiles
            await self.pause(_COMPILE_SECONDS)
        self.statement_count += 1
        return self.connection.execute(sql, parameters).fetchall()

    async def all(self, query: Query[Row], **values: Any) -> list[Row]:
        compiled = query.compiled("sqlite")
        return [compiled.row(row) for row in await self.rows(compiled.sql, compiled.parameters(values))]

    async def first(self, query: Query[Row], **values: Any) -> Row | None:
        rows = await self.all(query, **values)
        return rows[0] if rows else None

    async def run(self, statement: Statement, **values: Any) -> int:
        compiled = statement.compiled("sqlite")
        self.statement_count += 1
        return self.connection.execute(compiled.sql, compiled.parameters(values)).rowcount

    async def run_many(self, sql: str, parameters: Sequence[Sequence[Any]]) -> None:
        self.statement_count += 1
        self.connection.executemany(sql, parameters)

    async def pause(self, ahead: float = 0.0) -> None:
        if time.monotonic() + ahead > self.deadline.at + _PYTHON_SECONDS:
            error = sqlite3.OperationalError("interrupted")
            error.sqlite_errorcode = sqlite3.SQLITE_INTERRUPT  # as if a statement had been interrupted
            raise error


def connect(path: str, busy_timeout: float = BUSY_TIMEOUT) -> sqlite3.Connection:
    """Opens the file with the settings that every connection to it must share. `busy_timeout` is in seconds."""
    connection = sqlite3.connect(
        path, timeout=busy_timeout, isolation_level=None, check_same_thread=False, cached_statements=1_024
    )
    for pragma in (
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
        "temp_store = MEMORY",
        # Up to 1 GiB of the file is memory-mapped, which all connections share through the operating system's page
        # cache. The private cache of each connection is 16 MiB.
        "cache_size = -16384",
        "mmap_size = 1073741824",
    ):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def run_to_completion(work: Work[T], transaction: SqliteTransaction) -> T:
    """Runs `work` in this thread without an event loop. The methods of the transaction never suspend.

    Raises RuntimeError when the work awaits anything else.
    """
    coroutine: Any = work(transaction)
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    coroutine.close()
    raise RuntimeError("The work of a transaction awaited something other than its transaction.")


class _QueuedWrite:
    """A write in the queue of the writer thread, and its outcome."""

    def __init__(self, work: Work[Any], loop: asyncio.AbstractEventLoop) -> None:
        self.work = work
        self.claim = CLAIM.get()
        self.queued_at = time.monotonic()
        self.future: asyncio.Future[Any] = loop.create_future()
        self.result: Any = None
        self.error: BaseException | None = None

    def resolve(self) -> None:
        """Sets the outcome on the future. Must be called on the event loop."""
        if self.future.done():
            return  # its caller was canceled
        if self.error is None:
            self.future.set_result(self.result)
        else:
            self.future.set_exception(self.error)


class _WaitingWrites:
    """The writes that the writer thread has taken from the queue and not run yet, by caller."""

    def __init__(self) -> None:
        self._own: list[_QueuedWrite] = []  # of the gateway
        self._by_caller: dict[str, deque[_QueuedWrite]] = {}  # in the order of their turns
        self.count = 0

    def add(self, write: _QueuedWrite) -> None:
        self.count += 1
        if write.claim is None:
            self._own.append(write)
        else:
            self._by_caller.setdefault(write.claim.caller, deque()).append(write)

    def take_group(self) -> list[_QueuedWrite]:
        """Removes and returns the writes of the next commit."""
        group, self._own = self._own[:_MAX_GROUP], self._own[_MAX_GROUP:]
        rounds = _MAX_GROUP if len(self._by_caller) < 2 else _MAX_OF_CALLER
        for _ in range(rounds):
            for caller in list(self._by_caller)[: _MAX_GROUP - len(group)]:
                writes = self._by_caller.pop(caller)
                group.append(writes.popleft())
                if writes:
                    self._by_caller[caller] = writes
        self.count -= len(group)
        return group


class SqliteDatabase:
    """A `Database` in one SQLite file.

    `inline_seconds`: time limit of a read on the event loop. `progress_steps`: virtual machine instructions between two
    checks of a time limit; by default some tenths of a millisecond.
    """

    dialect = "sqlite"

    def __init__(
        self, path: str, limits: DatabaseLimits, *, inline_seconds: float = 0.005, progress_steps: int = 20_000
    ) -> None:
        self._path = path
        self._limits = limits
        self._inline_seconds = inline_seconds
        self._progress_steps = progress_steps
        self._local = threading.local()
        self._inline_transaction: SqliteTransaction | None = None
        self._inline_deadline = ReadDeadline()
        self._connections: list[sqlite3.Connection] = []
        self._reader_slots = FairSlots(limits.read_connections, limits, reserved=_RESERVED_READERS, shared=True)
        self._readers = ThreadPoolExecutor(limits.read_connections + _RESERVED_READERS, "read")
        self._writing = 0  # writes that are queued or running
        self._queued_writes: queue.SimpleQueue[_QueuedWrite | None] = queue.SimpleQueue()
        self._waiting_writes = _WaitingWrites()
        self._writer = threading.Thread(target=self._run_writer, name="write", daemon=True)
        self._wakes: list[Callable[[], None]] = []
        self._poll_task: asyncio.Task[None] | None = None
        self._read_statement_count = 0
        self._write_transaction = SqliteTransaction(connect(path, limits.write_timeout), progress_steps)
        self._writer.start()

    @property
    def statement_count(self) -> int:
        return self._read_statement_count + self._write_transaction.statement_count

    @property
    def load(self) -> Mapping[str, Load]:
        queued = self._queued_writes.qsize() + self._waiting_writes.count
        return {
            "read": self._reader_slots.load,
            "write": Load(max(self._writing - queued, 0), queued),
        }

    # ---- reads

    async def read(self, work: Work[T], *, single: bool = False) -> T:
        """Tries the read on the event loop; one that takes too long there runs again from the start in a thread."""
        self._inline_deadline.at = time.monotonic() + self._inline_seconds
        try:
            if self._inline_transaction is None:
                self._inline_transaction = self._open_reader(0)
            return self._read(work, single, self._inline_transaction, self._inline_deadline)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode not in (sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_BUSY):
                raise translate(error) from error
        claim = await self._reader_slots.acquire()
        deadline = ReadDeadline()
        try:
            loop = asyncio.get_running_loop()
            reading = loop.run_in_executor(self._readers, self._read_in_thread, work, single, deadline)
        except BaseException:
            self._reader_slots.release(claim)
            raise
        reading.add_done_callback(partial(self._end_read, claim))
        try:
            return await asyncio.shield(reading)
        except asyncio.CancelledError:
            deadline.at = -inf  # interrupts the statement, whose result has no receiver any more
            raise

    def _end_read(self, claim: Claim | None, reading: asyncio.Future[T]) -> None:
        """Frees the slot of a thread, which may be some time after the task of its read was canceled."""
        self._reader_slots.release(claim)
        if not reading.cancelled():
            reading.exception()  # of a read whose task was canceled, which asyncio would log

    def _read(self, work: Work[T], single: bool, transaction: SqliteTransaction, deadline: ReadDeadline) -> T:
        """The deadline applies to the work only: interrupting BEGIN or COMMIT would leave the transaction open."""
        before = transaction.statement_count
        if not single:
            transaction.connection.execute("BEGIN")
        transaction.deadline = deadline
        try:
            return run_to_completion(work, transaction)
        finally:
            transaction.deadline = _NEVER
            if not single:
                transaction.connection.execute("COMMIT")
            self._read_statement_count += transaction.statement_count - before

    def _read_in_thread(self, work: Work[T], single: bool, deadline: ReadDeadline) -> T:
        deadline.at = min(deadline.at, time.monotonic() + self._limits.read_timeout)
        try:
            if not hasattr(self._local, "transaction"):
                self._local.transaction = self._open_reader(self._limits.acquire_timeout)
            return self._read(work, single, self._local.transaction, deadline)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
                raise LimitExceeded(f"The read took longer than {self._limits.read_timeout:g} seconds.") from error
            raise translate(error) from error

    def _open_reader(self, busy_timeout: float) -> SqliteTransaction:
        connection = connect(self._path, busy_timeout)
        connection.execute("PRAGMA query_only = ON")
        self._connections.append(connection)
        return SqliteTransaction(connection, self._progress_steps)

    # ---- writes

    async def write(self, work: Work[T]) -> T:
        if self._writing >= self._limits.max_waiting:
            raise Unavailable(f"The database queue is full: {self._writing} writes are waiting already.")
        queued = _QueuedWrite(work, asyncio.get_running_loop())
        self._writing += 1
        self._queued_writes.put(queued)
        result: T = await queued.future
        return result

    def _run_writer(self) -> None:
        """The writer thread: gathers and commits groups until it takes None from the queue."""
        waiting, stop = self._waiting_writes, False
        while waiting.count or not stop:
            stop |= not self._take_queued(waiting, wait=not waiting.count)
            if group := waiting.take_group():
                self._commit(group)
                group[0].future.get_loop().call_soon_threadsafe(self._resolve, group)

    def _take_queued(self, waiting: _WaitingWrites, *, wait: bool) -> bool:
        """Takes what is queued at this moment. `wait`: at least one write. Returns False if no more will follow."""
        try:
            while (write := self._queued_writes.get(block=wait)) is not None:
                waiting.add(write)
                wait = False
        except queue.Empty:
            return True
        return False

    def _commit(self, group: list[_QueuedWrite]) -> None:
        """Runs and commits the group in one transaction. When the transaction fails, every write of the group fails.

        A write that has waited longer than the write timeout, because another process held the lock, is not run.
        """
        connection = self._write_transaction.connection
        translate_error: Callable[[BaseException], BaseException] = translate
        expired = time.monotonic() - self._limits.write_timeout
        try:
            connection.execute("BEGIN IMMEDIATE")
            for write in group:
                if write.queued_at < expired:
                    write.error = Unavailable("The database is locked by another transaction.")
                else:
                    self._run_in_savepoint(write, connection)
            translate_error = translate_commit_error
            connection.execute("COMMIT")
        except BaseException as error:  # noqa: BLE001 - raised to every caller of the group
            if connection.in_transaction:
                with contextlib.suppress(sqlite3.Error):  # the next group would fail at BEGIN and try this again
                    connection.execute("ROLLBACK")
            translated = translate_error(error)
            for write in group:
                write.error = write.error or translated

    def _run_in_savepoint(self, write: _QueuedWrite, connection: sqlite3.Connection) -> None:
        connection.execute("SAVEPOINT queued_write")
        try:
            write.result = run_to_completion(write.work, self._write_transaction)
        except BaseException as error:
            write.error = translate(error)
            if not connection.in_transaction:
                raise  # SQLite has rolled back the whole transaction itself, for example because the disk is full
            connection.execute("ROLLBACK TO queued_write")
        connection.execute("RELEASE queued_write")

    def _resolve(self, group: list[_QueuedWrite]) -> None:
        """Resolves a few futures per iteration of the event loop, then wakes the listeners."""
        for write in group[:_RESOLVED_AT_ONCE]:
            self._writing -= 1
            write.resolve()
        if later := group[_RESOLVED_AT_ONCE:]:
            asyncio.get_running_loop().call_soon(self._resolve, later)
        else:
            for wake in self._wakes:
                wake()

    async def listen(self, wake: Callable[[], None]) -> None:
        self._wakes.append(wake)
        if self._poll_task is None:
            self._poll_task = asyncio.create_task(self._poll_commits(), name="poll commits")

    async def _poll_commits(self) -> None:
        """Wakes the listeners when another process has committed. SQLite sends no notifications, but `PRAGMA
        data_version` changes with each commit of another connection.
        """
        if self._inline_transaction is None:
            self._inline_transaction = self._open_reader(0)
        known = None
        while True:
            with contextlib.suppress(sqlite3.OperationalError):  # the database is busy; the next poll will see it
                (version,) = self._inline_transaction.connection.execute("PRAGMA data_version").fetchone()
                if version != known:
                    known = version
                    for wake in self._wakes:
                        wake()
            await asyncio.sleep(_POLL_INTERVAL)

    async def close(self) -> None:
        if self._poll_task is not None:
            self._poll_task.cancel()
            await asyncio.gather(self._poll_task, return_exceptions=True)
        self._queued_writes.put(None)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self._writer.join)
        await loop.run_in_executor(None, self._readers.shutdown)
        for connection in (*self._connections, self._write_transaction.connection):
            connection.close()
