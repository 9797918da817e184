"""Shares what heavy callers use of their quotas among all processes, through the database.

A caller that has sent a twentieth of its quota unnoticed is noted, and the others' use is learned in return. So beyond
the quota each process may let in what comes until then, and in the long run nothing. Light callers cost no statement.
"""

import asyncio
import logging
import time

import sqlalchemy as sa
from sqlmodel import col

from gateway.access.quotas import CallerQuota, Quotas
from gateway.models import CallerUse
from gateway.store.database import Database, Transaction
from gateway.store.statements import Statement, insert

log = logging.getLogger(__name__)

_PAUSE = 0.1  # seconds between two rounds

_now, _seconds = sa.bindparam("now", type_=sa.Float()), sa.bindparam("seconds", type_=sa.Float())
_USE = Statement(
    sa.update(CallerUse)
    .where(col(CallerUse.caller) == sa.bindparam("name"))
    .values(full_at=sa.case((col(CallerUse.full_at) > _now, col(CallerUse.full_at)), else_=_now) + _seconds)
    .returning(sa.literal_column("full_at"))  # as the driver gives it: SQLAlchemy would ask for its type
)
_BEGIN = insert(CallerUse, "caller", "full_at")
_CLEAR = Statement(sa.delete(CallerUse).where(col(CallerUse.full_at) < _now))


class QuotaSync:
    """Shares while it is started."""

    def __init__(self, database: Database, callers: Quotas) -> None:
        self._database = database
        self._callers = callers
        self._quota = callers.settings.caller_quota
        self._seconds = callers.settings.caller_window / self._quota  # in which one request is made good
        self._heavy: dict[str, CallerQuota] = {}
        self._some = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        callers.heavy = self._note

    async def start(self) -> None:
        """Begins, and clears away what says nothing any more."""
        await self._database.write(lambda tx: tx.run(_CLEAR, now=time.time()))
        self._task = asyncio.create_task(self._share_forever())

    async def stop(self) -> None:
        """What is not shared by now is let off."""
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def _note(self, standing: CallerQuota) -> None:
        self._heavy[standing.name] = standing
        self._some.set()

    async def _share_forever(self) -> None:
        while True:
            await self._some.wait()
            self._some.clear()
            heavy, self._heavy = self._heavy, {}
            for standing in heavy.values():
                try:
                    await self._share(standing)
                except Exception:
                    log.warning("the use of a caller could not be shared", exc_info=True)
                    self._note(standing)
            await asyncio.sleep(_PAUSE)

    async def _share(self, standing: CallerQuota) -> None:
        used, now = standing.unshared, time.time()

        async def work(tx: Transaction) -> float:
            row = await tx.first(_USE, name=standing.name, now=now, seconds=used * self._seconds)
            if row is not None:
                full_at: float = row.full_at
                return full_at
            full_at = now + used * self._seconds
            await tx.run(_BEGIN, caller=standing.name, full_at=full_at)
            return full_at

        full_at = await self._database.write(work)
        standing.unshared -= used
        left = self._quota - max(full_at - time.time(), 0.0) / self._seconds
        self._callers.correct(standing, left - standing.unshared)
