"""A small pool of PostgreSQL connections, whose number and whose queue are those of `FairSlots`.

A list and slots instead of asyncpg's pool, which adds 10 % to the CPU time of a read even without its reset
query, and would need the slots too (docs/decisions/0002-postgresql-pool.md).
"""

import asyncio
from typing import Any

from gateway.fair_queue import Claim
from gateway.store.database import Load
from gateway.store.fair_slots import FairSlots
from gateway.store.postgres_hosts import Connector


class ConnectionPool:
    """At most one connection per slot, each opened when it is first needed."""

    def __init__(self, connector: Connector, slots: FairSlots, **settings: str) -> None:
        self._connector = connector
        self._settings = settings
        self._closed = False
        self._idle: list[Any] = []
        self._slots = slots

    @property
    def load(self) -> Load:
        return self._slots.load

    async def acquire(self) -> tuple[Any, Claim | None]:
        """Returns a connection and the claim that holds it; both must be released. Waits for a slot.

        Raises Throttled and Unavailable, as `FairSlots.acquire` does, and Unavailable when no connection can be opened.
        """
        claim = await self._slots.acquire()
        try:
            while self._idle:
                connection = self._idle.pop()
                if not connection.is_closed():
                    return connection, claim
            return await self._connector.connect(**self._settings), claim
        except BaseException:
            self._slots.release(claim)
            raise

    def release(self, connection: Any, claim: Claim | None) -> None:
        """Returns a connection to the pool. One that is closed, or still inside a transaction, is discarded."""
        if not connection.is_closed():
            if self._closed or connection.is_in_transaction():
                connection.terminate()
            else:
                self._idle.append(connection)
        self._slots.release(claim)

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
