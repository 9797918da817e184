"""A small set of PostgreSQL connections, and who waits for one: for a while, and not in a crowd.

A plain list instead of asyncpg's pool: its reset query costs more than most of our reads.
"""

import asyncio
from typing import Any

from gateway.errors import Unavailable
from gateway.store.database import Limits, Load
from gateway.store.postgres_hosts import Hosts


class Connections:
    """At most `limit` connections, opened when first wanted."""

    def __init__(self, hosts: Hosts, limit: int, limits: Limits, **settings: str) -> None:
        self._hosts = hosts
        self._settings = settings
        self._limits = limits
        self._closed = False
        self._taken = 0
        self._waiting = 0
        self._idle: list[Any] = []
        self._places = asyncio.Semaphore(limit)

    @property
    def load(self) -> Load:
        return Load(self._taken, self._waiting)

    async def take(self) -> Any:
        """A connection, to be given back. Raises Unavailable."""
        if self._places.locked():
            await self._wait_for_place()
        else:
            await self._places.acquire()
        self._taken += 1
        try:
            while self._idle:
                connection = self._idle.pop()
                if not connection.is_closed():
                    return connection
            return await self._hosts.connect(**self._settings)
        except BaseException:
            self._release()
            raise

    async def _wait_for_place(self) -> None:
        if self._waiting >= self._limits.queue:
            raise Unavailable(f"{self._waiting} requests are waiting for the database already")
        self._waiting += 1
        try:
            async with asyncio.timeout(self._limits.wait):
                await self._places.acquire()
        except TimeoutError:
            raise Unavailable("all database connections are busy") from None
        finally:
            self._waiting -= 1

    def give_back(self, connection: Any) -> None:
        """Keeps a connection for the next, unless it is closed or was left in the middle of something."""
        if not connection.is_closed():
            if self._closed or connection.is_in_transaction():
                connection.terminate()
            else:
                self._idle.append(connection)
        self._release()

    def _release(self) -> None:
        self._taken -= 1
        self._places.release()

    def drop_idle(self) -> None:
        """One connection was lost: the others are likely to be dead too, and each would cost somebody a failure."""
        while self._idle:
            self._idle.pop().terminate()

    async def close(self) -> None:
        """Says goodbye to a server that listens, and waits for no other."""
        self._closed = True
        idle, self._idle = self._idle, []
        await asyncio.gather(*(_close(connection) for connection in idle))


async def _close(connection: Any) -> None:
    try:
        await connection.close(timeout=1)
    except Exception:  # noqa: BLE001 - it is given up in any case
        connection.terminate()
