"""A small pool of PostgreSQL connections with a bounded queue and a bounded wait.

A list and a semaphore instead of asyncpg's pool, which adds 10 % to the CPU time of a read even without its reset
query, and would need the semaphore and the counters too (docs/decisions/0002-postgresql-pool.md).
"""

import asyncio
from typing import Any

from gateway.errors import Unavailable
from gateway.store.database import DatabaseLimits, Load
from gateway.store.postgres_hosts import Connector


class ConnectionPool:
    """At most `size` connections, each opened when it is first needed."""

    def __init__(self, connector: Connector, size: int, limits: DatabaseLimits, **settings: str) -> None:
        self._connector = connector
        self._settings = settings
        self._limits = limits
        self._closed = False
        self._acquired = 0
        self._waiting = 0
        self._idle: list[Any] = []
        self._slots = asyncio.Semaphore(size)

    @property
    def load(self) -> Load:
        return Load(self._acquired, self._waiting)

    async def acquire(self) -> Any:
        """Returns a connection, which the caller must release. Waits for a free one up to the acquire timeout.

        Raises Unavailable when the queue is full, when the wait times out, and when no connection can be opened.
        """
        if self._slots.locked():
            await self._wait_for_slot()
        else:
            await self._slots.acquire()
        self._acquired += 1
        try:
            while self._idle:
                connection = self._idle.pop()
                if not connection.is_closed():
                    return connection
            return await self._connector.connect(**self._settings)
        except BaseException:
            self._free_slot()
            raise

    async def _wait_for_slot(self) -> None:
        if self._waiting >= self._limits.max_waiting:
            raise Unavailable(f"The database queue is full: {self._waiting} requests are waiting already.")
        self._waiting += 1
        try:
            async with asyncio.timeout(self._limits.acquire_timeout):
                await self._slots.acquire()
        except TimeoutError:
            raise Unavailable("All database connections are busy.") from None
        finally:
            self._waiting -= 1

    def release(self, connection: Any) -> None:
        """Returns a connection to the pool. One that is closed, or still inside a transaction, is discarded."""
        if not connection.is_closed():
            if self._closed or connection.is_in_transaction():
                connection.terminate()
            else:
                self._idle.append(connection)
        self._free_slot()

    def _free_slot(self) -> None:
        self._acquired -= 1
        self._slots.release()

    def drop_idle(self) -> None:
        """Discards all idle connections. Called when one connection was lost: the others are probably lost too, and
        each would cost one request a failure.
        """
        while self._idle:
            self._idle.pop().terminate()

    async def close(self) -> None:
        """Closes the idle connections, and from now on each one that is released. Waits at most 1 s for the server."""
        self._closed = True
        idle, self._idle = self._idle, []
        await asyncio.gather(*(_close(connection) for connection in idle))


async def _close(connection: Any) -> None:
    try:
        await connection.close(timeout=1)
    except Exception:  # noqa: BLE001 - the connection is discarded in any case
        connection.terminate()
