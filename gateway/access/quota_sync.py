"""Synchronizes the usage of callers between all processes, through the table `caller_use`.

When a process has admitted a twentieth of a caller's quota since the last synchronization, it adds those requests to
the caller's row and reads back the usage of all processes. Therefore each process may exceed the quota by a twentieth
of it in the short run, but not in the long run. A caller that sends fewer requests costs no SQL statement.

The row stores one number, `full_at`: the Unix time at which the quota is full again. Each request moves it later by
`caller_window / caller_quota` seconds.

The time of the next request is at most two windows before `full_at`: one that an exhausted quota takes to become full,
and one for what the processes exceed it by. A later `full_at`, as after the clock was set back, counts as that.
"""

import time
from typing import NamedTuple

import sqlalchemy as sa
from sqlmodel import col

from gateway.access.quotas import CallerQuota, Quotas
from gateway.models import CallerUse
from gateway.store.database import Database, Transaction
from gateway.store.statements import Query, Statement, insert

SYNC_INTERVAL = 0.1  # seconds between two rounds, which bound by how much a process may exceed a quota


class _Usage(NamedTuple):
    full_at: float


_now, _seconds = sa.bindparam("now", type_=sa.Float()), sa.bindparam("seconds", type_=sa.Float())
_latest = sa.bindparam("latest", type_=sa.Float())
_USE = Query(
    sa.update(CallerUse)
    .where(col(CallerUse.caller) == sa.bindparam("name"))
    .values(
        full_at=sa.case(
            (col(CallerUse.full_at) > _latest, _latest),
            (col(CallerUse.full_at) > _now, col(CallerUse.full_at)),
            else_=_now,
        )
        + _seconds
    )
    .returning(sa.literal_column("full_at")),  # has no type, so the driver's float is returned as it is
    _Usage,
)
_INSERT = insert(CallerUse, "caller", "full_at")
_DELETE_FULL = Statement(sa.delete(CallerUse).where(col(CallerUse.full_at) < _now))


async def delete_full_quotas(database: Database) -> None:
    """Delete the rows of callers whose quotas are full, which need none."""
    await database.write(lambda tx: tx.run(_DELETE_FULL, now=time.time()))


class QuotaSync:
    """Synchronizes the callers that `Quotas` reports, whenever `synchronize` is called."""

    def __init__(self, database: Database, quotas: Quotas) -> None:
        self._database = database
        self._limit = quotas.settings.caller_quota
        self._window = quotas.settings.caller_window
        self._seconds_per_request = quotas.settings.caller_window / self._limit
        self._due: dict[str, CallerQuota] = {}
        quotas.on_sync_due = self._enqueue

    def has_due(self) -> bool:
        """Return whether a caller has to be synchronized."""
        return bool(self._due)

    async def synchronize(self) -> None:
        """Synchronize the callers that are due. Raises the first error, when all were tried; what failed stays due."""
        due, self._due = self._due, {}
        errors = []
        for quota in due.values():
            try:
                await self._synchronize(quota)
            except Exception as error:  # noqa: BLE001 - raised below
                self._enqueue(quota)
                errors.append(error)
        if errors:
            raise errors[0]

    def _enqueue(self, quota: CallerQuota) -> None:
        self._due[quota.name] = quota

    async def _synchronize(self, quota: CallerQuota) -> None:
        used, now = quota.unsynced, time.time()

        async def work(tx: Transaction) -> float:
            seconds = used * self._seconds_per_request
            row = await tx.first(_USE, name=quota.name, now=now, latest=now + 2 * self._window, seconds=seconds)
            if row is not None:
                return row.full_at
            full_at = now + seconds
            await tx.run(_INSERT, caller=quota.name, full_at=full_at)
            return full_at

        full_at = await self._database.write(work)
        quota.unsynced -= used  # requests admitted during the transaction stay unsynced
        remaining = self._limit - max(full_at - time.time(), 0.0) / self._seconds_per_request
        quota.bucket.set(remaining - quota.unsynced)
