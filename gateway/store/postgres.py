"""PostgreSQL through asyncpg: two small connection pools, one for reads and one for writes.

Reads run in a REPEATABLE READ, READ ONLY transaction, so that all their statements see one state of the database; a
read that promises a single statement runs without a transaction. Callers share the connections for reads, and one more
is reserved for the gateway's own reads (`fair_slots`). Writes use a plain BEGIN, READ COMMITTED by default.

Time limits. The server enforces them: `statement_timeout` for reads, `lock_timeout` and
`idle_in_transaction_session_timeout` for writes. A server that is frozen or unreachable cannot, so the client ends the
transaction itself `_GRACE` seconds later and discards the connection. No server-side limit applies to COMMIT: when a
COMMIT that waits for a synchronous standby is canceled, PostgreSQL reports it as committed although the standby does
not have it, and a failover would lose it.

Retries. A transaction that certainly had no effect is retried without the caller's knowledge: once when its connection
was lost before COMMIT was sent, and up to `_MAX_CONFLICTS` times in all when the server rolled it back because of a
deadlock or a serialization failure. When the connection is lost, or the client's limit expires, during COMMIT, the
outcome is unknown and the write raises Unconfirmed.

Discarded connections. A connection whose task was canceled, or whose time limit expired on the client, is closed and
never reused: asyncpg may then take every later transaction on it for a nested one and commit none of them. When a
connection was lost, the idle ones of its pool are discarded too, because they are probably lost as well.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import asyncpg

from gateway.deadlines import Deadline
from gateway.errors import GatewayError, LimitExceeded, Unconfirmed
from gateway.store.database import DatabaseLimits, Load, Work
from gateway.store.fair_slots import FairSlots
from gateway.store.postgres_errors import ConnectionLost, TransactionConflict, translate
from gateway.store.postgres_hosts import Connector
from gateway.store.postgres_listener import CommitListener
from gateway.store.postgres_pool import ConnectionPool
from gateway.store.statements import Query, Row, Statement

T = TypeVar("T")

_BEGIN_READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_GRACE = 1.0  # seconds after the server's time limit at which the client ends a transaction itself
_MAX_CONFLICTS = 6  # attempts of a transaction that the server rolls back because of a conflict

_UNCONFIRMED = (
    "The connection to the database was lost during COMMIT, so the request may or may not have been accepted."
    " Repeat it with the same idempotency key, or check the current state before repeating it."
)


class PostgresTransaction:
    """A `Transaction` on a connection on which a transaction, or a single statement, is running."""

    dialect = "postgresql"

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.statement_count = 0

    async def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Sequence[Any]]:
        self.statement_count += 1
        rows: list[Sequence[Any]] = await self._connection.fetch(sql, *parameters)
        return rows

    async def all(self, query: Query[Row], **values: Any) -> list[Row]:
        compiled = query.compiled("postgresql")
        return [compiled.row(row) for row in await self.rows(compiled.sql, compiled.parameters(values))]

    async def first(self, query: Query[Row], **values: Any) -> Row | None:
        rows = await self.all(query, **values)
        return rows[0] if rows else None

    async def run(self, statement: Statement, **values: Any) -> int:
        compiled = statement.compiled("postgresql")
        self.statement_count += 1
        status: str = await self._connection.execute(compiled.sql, *compiled.parameters(values))
        return int(status.rpartition(" ")[2])

    async def run_many(self, sql: str, parameters: Sequence[Sequence[Any]]) -> None:
        self.statement_count += 1
        await self._connection.executemany(sql, parameters)

    async def pause(self, ahead: float = 0.0) -> None:
        await asyncio.sleep(0)


class PostgresDatabase:
    """A `Database` on a PostgreSQL server."""

    dialect = "postgresql"

    def __init__(self, url: str, limits: DatabaseLimits) -> None:
        self._limits = limits
        self._connector = Connector(url, limits.acquire_timeout)
        write_timeout_ms = str(int(limits.write_timeout * 1_000))
        self._readers = ConnectionPool(
            self._connector,
            FairSlots(limits.read_connections, limits, reserved=1, shared=True),
            jit="off",
            statement_timeout=str(int(limits.read_timeout * 1_000)),
        )
        self._writers = ConnectionPool(
            self._connector,
            # Without shares: a write holds its connection for milliseconds, or waits for a lock with `lock_timeout`.
            FairSlots(limits.write_connections, limits),
            jit="off",
            # Writes find rows by key. A plan that was cached while a table was nearly empty must use the index too.
            enable_seqscan="off",
            statement_timeout="0",  # it would apply to COMMIT
            lock_timeout=write_timeout_ms,
            idle_in_transaction_session_timeout=write_timeout_ms,  # frees the locks of a gateway that is frozen
        )
        self._read_deadline = Deadline(limits.read_timeout + _GRACE)
        self._listener: CommitListener | None = None
        self._wakes: list[Callable[[], None]] = []
        self.statement_count = 0

    @property
    def load(self) -> Mapping[str, Load]:
        return {"read": self._readers.load, "write": self._writers.load}

    async def read(self, work: Work[T], *, single: bool = False) -> T:
        try:
            return await self._read(work, single)
        except ConnectionLost:
            return await self._read(work, single)

    async def _read(self, work: Work[T], single: bool) -> T:
        connection, claim = await self._readers.acquire()
        transaction = PostgresTransaction(connection)
        try:
            if single:
                return await self._read_deadline.run(work(transaction))
            return await self._read_deadline.run(_run_read(transaction, connection, work))
        except asyncpg.QueryCanceledError as error:
            raise LimitExceeded(f"The read took longer than {self._limits.read_timeout:g} seconds.") from error
        except BaseException as error:
            if (translated := _handle_error(error, connection, self._readers)) is error:
                raise
            raise translated from error
        finally:
            self.statement_count += transaction.statement_count
            self._readers.release(connection, claim)

    async def write(self, work: Work[T]) -> T:
        lost, conflicts = False, 0
        while True:
            try:
                return await self._write(work)
            except ConnectionLost:
                if lost:
                    raise
                lost = True
            except TransactionConflict:
                conflicts += 1
                if conflicts == _MAX_CONFLICTS:
                    raise
                # Jitter, so that the transactions that conflicted do not conflict again.
                await asyncio.sleep(0.01 * 2**conflicts * random.uniform(0.5, 1.0))  # noqa: S311

    async def _write(self, work: Work[T]) -> T:
        connection, claim = await self._writers.acquire()
        transaction = PostgresTransaction(connection)
        committing = False
        try:
            async with asyncio.timeout(self._limits.write_timeout + _GRACE):
                result = await _run_uncommitted(transaction, connection, work, "BEGIN")
                committing = True
                await _commit(connection)
                return result
        except BaseException as error:
            translated = _handle_error(error, connection, self._writers)
            if committing and (isinstance(translated, ConnectionLost) or isinstance(error, TimeoutError)):
                raise Unconfirmed(_UNCONFIRMED) from error
            if translated is error:
                raise
            raise translated from error
        finally:
            self.statement_count += transaction.statement_count
            self._writers.release(connection, claim)

    async def listen(self, wake: Callable[[], None]) -> None:
        self._wakes.append(wake)
        if self._listener is None:
            self._listener = CommitListener(self._connector, self._wake)

    def _wake(self) -> None:
        for wake in self._wakes:
            wake()

    async def close(self) -> None:
        if self._listener is not None:
            await self._listener.close()
        await self._readers.close()
        await self._writers.close()


async def _run_read(transaction: PostgresTransaction, connection: Any, work: Work[T]) -> T:
    """Runs `work` in a read-only transaction, that is on one state of the database."""
    result = await _run_uncommitted(transaction, connection, work, _BEGIN_READ)
    await connection.execute("ROLLBACK")
    return result


async def _run_uncommitted(transaction: PostgresTransaction, connection: Any, work: Work[T], begin: str) -> T:
    """Begins a transaction, runs `work` in it, and leaves it open. Rolls it back when `work` raises an Exception; after
    a cancellation it sends nothing more.
    """
    await connection.execute(begin)
    try:
        return await work(transaction)
    except Exception:
        with contextlib.suppress(Exception):  # the error of `work` is the one to raise
            await connection.execute("ROLLBACK")
        raise


async def _commit(connection: Any) -> None:
    """Commits. Raises RuntimeError when PostgreSQL rolled the transaction back instead, which it does without an error
    when a statement in it has failed.
    """
    if await connection.execute("COMMIT") != "COMMIT":
        raise RuntimeError("A statement failed and the work ignored the error, so the transaction was rolled back.")


def _handle_error(error: BaseException, connection: Any, pool: ConnectionPool) -> BaseException:
    """The exception to raise instead of `error`. Closes a connection that was lost or whose state is unknown."""
    if isinstance(error, GatewayError):
        return error
    if not isinstance(error, Exception) or isinstance(error, TimeoutError):
        # After a BEGIN that was canceled, asyncpg takes every later transaction on the connection for a nested one and
        # commits none of them, so the connection must not be reused.
        connection.terminate()
        if not isinstance(error, Exception):
            return error
        pool.drop_idle()  # the server did not enforce its own time limit, so it is frozen or unreachable
        return translate(error, connection)
    translated = translate(error, connection)
    if isinstance(translated, ConnectionLost):
        connection.terminate()
        pool.drop_idle()
    return translated
