"""PostgreSQL through asyncpg: two small sets of connections, one for reads and one for writes.

A plain list of connections instead of asyncpg's pool: its reset query costs more than most of our reads.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import asyncpg

from gateway.errors import LimitExceeded
from gateway.store.database import Load, Work
from gateway.store.statements import Statement

T = TypeVar("T")

CHANNEL = "gateway_event"  # what the outbox's trigger notifies


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


class _Places(asyncio.Semaphore):
    """Knows what it has given away, which costs nothing until it is asked."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self._limit = limit

    @property
    def load(self) -> Load:
        return Load(self._limit - self._value, len(self._waiters or ()))


class _Connections:
    """At most `limit` connections, opened when first wanted."""

    def __init__(self, url: str, limit: int, **settings: str) -> None:
        self._url = url
        self._settings = settings
        self._idle: list[Any] = []
        self._places = _Places(limit)

    @property
    def load(self) -> Load:
        """How many are in use, and how many are waited for."""
        return self._places.load

    @asynccontextmanager
    async def one(self) -> AsyncIterator[Any]:
        async with self._places:
            while self._idle and self._idle[-1].is_closed():
                self._idle.pop()
            connection = self._idle.pop() if self._idle else await self._connect()
            try:
                yield connection
            except asyncio.CancelledError:
                # A BEGIN that was cancelled makes asyncpg take every later transaction for a part of it, and commit
                # none of them: nobody may have this connection again.
                connection.terminate()
                raise
            finally:
                if not connection.is_closed():
                    if connection.is_in_transaction():  # left in the middle
                        connection.terminate()
                    else:
                        self._idle.append(connection)

    async def _connect(self) -> Any:
        connection = await asyncpg.connect(
            self._url,
            statement_cache_size=1_024,
            max_cached_statement_lifetime=0,
            server_settings={"application_name": "snapshot-gateway", "jit": "off", **self._settings},
        )
        await _stop_for_nobody(connection)
        return connection

    async def close(self) -> None:
        while self._idle:
            await self._idle.pop().close()


async def _stop_for_nobody(connection: Any) -> None:
    """Has the server look every second whether somebody still waits for a statement, be it a gateway that was killed.

    It would otherwise be noticed at the statement's end. Servers on some systems cannot, and those before 14.
    """
    with suppress(asyncpg.PostgresError):
        await connection.execute("SET client_connection_check_interval = '1s'")


class PostgresDatabase:
    """A `Database` on a PostgreSQL server."""

    dialect = "postgresql"

    def __init__(self, url: str, *, read_connections: int, write_connections: int, read_timeout: float) -> None:
        self._timeout = read_timeout
        self._readers = _Connections(url, read_connections, statement_timeout=str(int(read_timeout * 1_000)))
        self._writers = _Connections(url, write_connections)
        self._url = url
        self._listener: Any = None
        self.statements = 0

    @property
    def load(self) -> Mapping[str, Load]:
        return {"read": self._readers.load, "write": self._writers.load}

    async def read(self, work: Work[T], *, single: bool = False) -> T:
        async with self._readers.one() as connection:
            transaction = PostgresTransaction(connection)
            try:
                if single:
                    return await work(transaction)
                await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                try:
                    return await work(transaction)
                finally:
                    await connection.execute("ROLLBACK")
            except asyncpg.QueryCanceledError as error:
                raise LimitExceeded(f"the read took longer than {self._timeout:g} seconds") from error
            finally:
                self.statements += transaction.statements

    async def write(self, work: Work[T]) -> T:
        async with self._writers.one() as connection:
            transaction = PostgresTransaction(connection)
            try:
                async with connection.transaction():
                    return await work(transaction)
            finally:
                self.statements += transaction.statements

    async def listen(self, wake: Callable[[], None]) -> None:
        if self._listener is None or self._listener.is_closed():
            self._listener = await asyncpg.connect(self._url, server_settings={"application_name": "snapshot-gateway"})
        await self._listener.add_listener(CHANNEL, lambda *_: wake())

    async def check(self) -> None:
        async with self._readers.one() as connection:
            await connection.execute("SELECT 1")

    async def close(self) -> None:
        await self._readers.close()
        await self._writers.close()
        if self._listener is not None:
            await self._listener.close()
