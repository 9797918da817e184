"""PostgreSQL through asyncpg: two small sets of connections, one for reads and one for writes.

What the server does not end by itself, because it is frozen or gone, is ended here; and what certainly left no trace is
begun anew. Waits for locks are ended by the server, but never a COMMIT: one that waits for a standby and is ended
counts as done, and would be lost with the server.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import asyncpg

from gateway.deadlines import Deadline
from gateway.errors import GatewayError, LimitExceeded, Unconfirmed
from gateway.store.database import Limits, Load, Work
from gateway.store.postgres_errors import ConnectionLost, Contended, sorted_out
from gateway.store.postgres_hosts import Hosts
from gateway.store.postgres_listening import Listening
from gateway.store.postgres_pool import Connections
from gateway.store.statements import Statement

T = TypeVar("T")

_READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_GRACE = 1.0  # seconds that the server has to end by itself what takes too long
_TRIES = 6  # of a transaction that others stood in the way of

_UNCONFIRMED = (
    "the database went away while it was told to commit, so this may or may not have been accepted: repeat it with the"
    " same idempotency key, or look before you ask again"
)


class PostgresTransaction:
    """A `Transaction` on a connection that is inside one."""

    dialect = "postgresql"

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.statements = 0

    async def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Sequence[Any]]:
        self.statements += 1
        rows: list[Sequence[Any]] = await self._connection.fetch(sql, *parameters)
        return rows

    async def all(self, statement: Statement, **values: Any) -> list[Any]:
        compiled = statement.compiled("postgresql")
        return [compiled.row(row) for row in await self.rows(compiled.sql, compiled.parameters(values))]

    async def first(self, statement: Statement, **values: Any) -> Any:
        rows = await self.all(statement, **values)
        return rows[0] if rows else None

    async def run(self, statement: Statement, **values: Any) -> int:
        compiled = statement.compiled("postgresql")
        self.statements += 1
        status: str = await self._connection.execute(compiled.sql, *compiled.parameters(values))
        return int(status.rpartition(" ")[2])

    async def run_many(self, sql: str, parameters: Sequence[Sequence[Any]]) -> None:
        self.statements += 1
        await self._connection.executemany(sql, parameters)


class PostgresDatabase:
    """A `Database` on a PostgreSQL server."""

    dialect = "postgresql"

    def __init__(self, url: str, limits: Limits) -> None:
        self._limits = limits
        self._hosts = Hosts(url, limits.wait)
        milliseconds = str(int(limits.write_timeout * 1_000))
        self._readers = Connections(
            self._hosts,
            limits.read_connections,
            limits,
            jit="off",
            statement_timeout=str(int(limits.read_timeout * 1_000)),
        )
        self._writers = Connections(
            self._hosts,
            limits.write_connections,
            limits,
            jit="off",
            enable_seqscan="off",  # rows are found by key, also by a plan of a minute ago, when a table was empty
            statement_timeout="0",
            lock_timeout=milliseconds,
            idle_in_transaction_session_timeout=milliseconds,  # a gateway that is frozen holds no locks for ever
        )
        self._reading = Deadline(limits.read_timeout + _GRACE)
        self._listening: Listening | None = None
        self._wakes: list[Callable[[], None]] = []
        self.statements = 0

    @property
    def load(self) -> Mapping[str, Load]:
        return {"read": self._readers.load, "write": self._writers.load}

    async def read(self, work: Work[T], *, single: bool = False) -> T:
        try:
            return await self._read(work, single)
        except ConnectionLost:
            return await self._read(work, single)

    async def _read(self, work: Work[T], single: bool) -> T:
        connection = await self._readers.take()
        transaction = PostgresTransaction(connection)
        try:
            if single:
                return await self._reading.keep(work(transaction))
            return await self._reading.keep(_looked(transaction, connection, work))
        except asyncpg.QueryCanceledError as error:
            raise LimitExceeded(f"the read took longer than {self._limits.read_timeout:g} seconds") from error
        except BaseException as error:
            if (told := _told(error, connection, self._readers)) is error:
                raise
            raise told from error
        finally:
            self.statements += transaction.statements
            self._readers.give_back(connection)

    async def write(self, work: Work[T]) -> T:
        lost, tries = False, 0
        while True:
            try:
                return await self._write(work)
            except ConnectionLost:
                if lost:
                    raise
                lost = True
            except Contended:
                tries += 1
                if tries == _TRIES:
                    raise
                await asyncio.sleep(0.01 * 2**tries * random.uniform(0.5, 1.0))  # noqa: S311 - so that one goes first

    async def _write(self, work: Work[T]) -> T:
        connection = await self._writers.take()
        transaction = PostgresTransaction(connection)
        committing = False
        try:
            async with asyncio.timeout(self._limits.write_timeout + _GRACE):
                result = await _begun(transaction, connection, work, "BEGIN")
                committing = True
                await _commit(connection)
                return result
        except BaseException as error:
            told = _told(error, connection, self._writers)
            if committing and (isinstance(told, ConnectionLost) or isinstance(error, TimeoutError)):
                raise Unconfirmed(_UNCONFIRMED) from error
            if told is error:
                raise
            raise told from error
        finally:
            self.statements += transaction.statements
            self._writers.give_back(connection)

    async def listen(self, wake: Callable[[], None]) -> None:
        self._wakes.append(wake)
        if self._listening is None:
            self._listening = Listening(self._hosts, self._wake)

    def _wake(self) -> None:
        for wake in self._wakes:
            wake()

    async def close(self) -> None:
        if self._listening is not None:
            await self._listening.close()
        await self._readers.close()
        await self._writers.close()


async def _looked(transaction: PostgresTransaction, connection: Any, work: Work[T]) -> T:
    """Runs `work` on one state of the database."""
    result = await _begun(transaction, connection, work, _READ)
    await connection.execute("ROLLBACK")
    return result


async def _begun(transaction: PostgresTransaction, connection: Any, work: Work[T], begin: str) -> T:
    """Runs `work` in a transaction that is left open. One that is canceled waits for nothing more."""
    await connection.execute(begin)
    try:
        return await work(transaction)
    except Exception:
        with contextlib.suppress(Exception):  # what has gone wrong before is what is told
            await connection.execute("ROLLBACK")
        raise


async def _commit(connection: Any) -> None:
    """A COMMIT of a transaction in which a statement has failed takes it back, and calls that no error."""
    if await connection.execute("COMMIT") != "COMMIT":
        raise RuntimeError("a statement failed, and the work went on as if it had not")


def _told(error: BaseException, connection: Any, pool: Connections) -> BaseException:
    """What is raised instead of `error`. A connection that was lost, or may have more to say, is given up."""
    if isinstance(error, GatewayError):
        return error
    if not isinstance(error, Exception) or isinstance(error, TimeoutError):
        # A BEGIN that was cancelled makes asyncpg take every later transaction for a part of it, and commit none of
        # them: nobody may have this connection again.
        connection.terminate()
        if not isinstance(error, Exception):
            return error
        pool.drop_idle()  # the server had time to end it by itself, so it is frozen or gone
        return sorted_out(error, connection)
    told = sorted_out(error, connection)
    if isinstance(told, ConnectionLost):
        connection.terminate()
        pool.drop_idle()
    return told
