"""Looks up the rows of credentials by number, with one statement for all that wait.

Every request can make the gateway look up a row, by sending a token that was never issued. If each were a statement of
its own, a flood of them would occupy all connections of the database, and callers with valid tokens would wait behind
it. So look-ups that arrive while a statement runs share the next one: one statement runs at a time, however many
requests wait, and equal numbers are looked up once.

Example: while the statement for row 1 runs, requests arrive for rows 7, 1, 7 and 9. When it ends, one statement reads
rows 7, 1 and 9. Row 1 is read again, because it may have been changed since the first statement began.
"""

import asyncio
from contextvars import Context
from typing import Generic

from gateway.store.database import Database
from gateway.store.statements import Query, Row

MAX_NUMBERS = 500  # in one statement; the others wait for the next


class LookupBatch(Generic[Row]):
    """Looks up rows with `query`, whose first column is their number and whose list parameter is `ids`."""

    def __init__(self, database: Database, query: Query[Row]) -> None:
        self._database = database
        self._query = query
        self._waiting: dict[int, asyncio.Future[Row | None]] = {}
        self._running: asyncio.Task[None] | None = None

    async def find(self, number: int) -> Row | None:
        """Return the row with this number as it is now, or None. Raises the errors of the database."""
        found = self._waiting.get(number)
        if found is None:
            found = self._waiting[number] = asyncio.get_running_loop().create_future()
        if self._running is None:
            # In a context of its own, because it belongs to no request: several wait for it.
            self._running = asyncio.create_task(self._run(), name="look up credentials", context=Context())
        return await asyncio.shield(found)  # others may wait for the same row when this request is canceled

    async def _run(self) -> None:
        """Look up all that wait, until none does."""
        try:
            while self._waiting:
                numbers = list(self._waiting)[:MAX_NUMBERS]
                await self._look_up({number: self._waiting.pop(number) for number in numbers})
        finally:
            self._running = None

    async def _look_up(self, waiting: dict[int, asyncio.Future[Row | None]]) -> None:
        try:
            rows = await self._database.read(lambda tx: tx.all(self._query, ids=list(waiting)), single=True)
        except Exception as error:  # noqa: BLE001 - raised to all that wait
            for found in waiting.values():
                found.set_exception(error)
                found.exception()  # asyncio would log that of a request that was canceled
            return
        by_number: dict[int, Row] = {row[0]: row for row in rows}
        for number, found in waiting.items():
            found.set_result(by_number.get(number))
