"""Synchronizes the usage of callers between all processes, through the table `caller_use`.

When a process has admitted a twentieth of a caller's quota since the last synchronization, it adds those requests to
the caller's row and reads back the usage of all processes. Therefore each process may exceed the quota by a twentieth
of it in the short run, but not in the long run. A caller that sends fewer requests costs no SQL statement.

The row stores one number, `full_at`: the Unix time at which the quota is full again. Each request moves it later by
`caller_window / caller_quota` seconds.
"""

import asyncio
import logging
import time
from typing import NamedTuple

import sqlalchemy as sa
from sqlmodel import col

from gateway.access.quotas import CallerQuota, Quotas
from gateway.models import CallerUse
from gateway.store.database import Database, Transaction
from gateway.store.statements import Query, Statement, insert

log = logging.getLogger(__name__)

_INTERVAL = 0.1  # seconds between two rounds


class _Usage(NamedTuple):
    full_at: float


_now, _seconds = sa.bindparam("now", type_=sa.Float()), sa.bindparam("seconds", type_=sa.Float())
_USE = Query(
    sa.update(CallerUse)
    .where(col(CallerUse.caller) == sa.bindparam("name"))
    .values(full_at=sa.case((col(CallerUse.full_at) > _now, col(CallerUse.full_at)), else_=_now) + _seconds)
    .returning(sa.literal_column("full_at")),  # has no type, so the driver's float is returned as it is
    _Usage,
)
_INSERT = insert(CallerUse, "caller", "full_at")
_DELETE_FULL = Statement(sa.delete(CallerUse).where(col(CallerUse.full_at) < _now))


class QuotaSync:
    """A background task that synchronizes the callers that `Quotas` reports, from `start` to `stop`."""

    def __init__(self, database: Database, quotas: Quotas) -> None:
        self._database = database
        self._limit = quotas.settings.caller_quota
        self._seconds_per_request = quotas.settings.caller_window / self._limit
        self._due: dict[str, CallerQuota] = {}
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        quotas.on_sync_due = self._enqueue

    async def start(self) -> None:
        """Delete the rows of callers whose quotas are full, and start the task."""
        await self._database.write(lambda tx: tx.run(_DELETE_FULL, now=time.time()))
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Cancel the task. Usage that is not synchronized yet is dropped."""
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def _enqueue(self, quota: CallerQuota) -> None:
        self._due[quota.name] = quota
        self._wake.set()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            due, self._due = self._due, {}
            for quota in due.values():
                try:
                    await self._synchronize(quota)
                except Exception:
                    log.warning("Synchronizing the quota of a caller failed and will be retried", exc_info=True)
                    self._enqueue(quota)
            await asyncio.sleep(_INTERVAL)

    async def _synchronize(self, quota: CallerQuota) -> None:
        used, now = quota.unsynced, time.time()

        async def work(tx: Transaction) -> float:
            row = await tx.first(_USE, name=quota.name, now=now, seconds=used * self._seconds_per_request)
            if row is not None:
                return row.full_at
            full_at = now + used * self._seconds_per_request
            await tx.run(_INSERT, caller=quota.name, full_at=full_at)
            return full_at

        full_at = await self._database.write(work)
        quota.unsynced -= used  # requests admitted during the transaction stay unsynced
        remaining = self._limit - max(full_at - time.time(), 0.0) / self._seconds_per_request
        quota.bucket.set(remaining - quota.unsynced)
