"""Refusals on record: written before they are answered, and so few that a flood fills no disk and holds no writes up.

Whoever is refused too often is only counted; once a minute an entry says how many more there were.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from gateway.access.caller import Caller
from gateway.access.origin import RequestOrigin
from gateway.errors import ErrorCode, GatewayError, Refusal
from gateway.models import AuditAction, AuditOutcome
from gateway.operations.audit_log import AuditContext, AuditSubject, record, values
from gateway.store.database import Database

log = logging.getLogger(__name__)

_EVERY = 60.0  # seconds between entries that say how many more there were
_MOST_SOURCES = 1_000  # that are told apart at a time; all others are counted as one


class Refused(NamedTuple):
    """One thing that was refused, and why."""

    about: AuditSubject
    error: GatewayError


class _Rate(NamedTuple):
    """So many at once, and then so many a second."""

    burst: int
    per_second: float


class _Allowance:
    """What is left of a rate."""

    def __init__(self, rate: _Rate, now: float) -> None:
        self._rate = rate
        self._left: float = rate.burst
        self._at = now

    def take(self, now: float) -> bool:
        self._refill(now)
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def full(self, now: float) -> bool:
        self._refill(now)
        return self._left >= self._rate.burst

    def _refill(self, now: float) -> None:
        self._left = min(self._rate.burst, self._left + (now - self._at) * self._rate.per_second)
        self._at = now


class _Like(NamedTuple):
    """What refusals have in common that are counted together."""

    asked: AuditContext
    tenant: str
    code: ErrorCode


@dataclass(slots=True)
class _Source:
    """One caller at one address."""

    allowance: _Allowance
    left_out: Counter[_Like] = field(default_factory=Counter)


class _Pool:
    """Sources that share an allowance, so that those that nobody knows cannot use up that of the others."""

    def __init__(self, each: _Rate, together: _Rate, now: float) -> None:
        self._each = each
        self._together = _Allowance(together, now)
        self._sources: dict[Hashable, _Source] = {}

    def take(self, like: _Like, now: float) -> bool:
        """Whether it may be recorded; if not, it is counted."""
        caller = like.asked.caller
        who: Hashable = (like.tenant, caller and (caller.key, caller.name), like.asked.origin.address)
        if who not in self._sources and len(self._sources) >= _MOST_SOURCES:
            who, like = None, _anybody(like)
        source = self._sources.get(who)
        if source is None:
            source = self._sources[who] = _Source(_Allowance(self._each, now))
        if source.allowance.take(now) and self._together.take(now):
            return True
        source.left_out[_counted_as(like)] += 1
        return False

    def left_out(self, now: float) -> list[tuple[_Like, int]]:
        """What was counted, as much of it as may be recorded now. It is not counted any more."""
        found = []
        for who, source in list(self._sources.items()):
            affordable = [like for like in source.left_out if self._together.take(now)]
            found += [(like, source.left_out.pop(like)) for like in affordable]
            if not source.left_out and source.allowance.full(now):
                del self._sources[who]
        return found

    @property
    def counted(self) -> int:
        return sum(source.left_out.total() for source in self._sources.values())


def _counted_as(like: _Like) -> _Like:
    """Without what differs from one request to the next."""
    caller, origin, action = like.asked.caller, like.asked.origin, like.asked.action
    if caller is not None:
        caller = Caller(caller.name, caller.tenant, caller.roles, key=caller.key)
    return like._replace(asked=AuditContext(caller, origin._replace(request_id=None), action))


def _anybody(like: _Like) -> _Like:
    asked = like.asked
    return like._replace(asked=AuditContext(None, RequestOrigin(asked.origin.surface), asked.action))


class RefusalLog:
    """Records refusals while it is started. Refused log-ins of nobody known are `tenant`'s. `clock` counts seconds."""

    def __init__(self, database: Database, tenant: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._tenant = tenant
        self._clock = clock
        self._known = _Pool(each=_Rate(1_000, 0.05), together=_Rate(5_000, 0.2), now=clock())
        self._unknown = _Pool(each=_Rate(20, 0.02), together=_Rate(1_000, 0.2), now=clock())

    async def start(self) -> None:
        self._counting = asyncio.create_task(self._tell_forever(), name="refusals")

    async def stop(self) -> None:
        """Records what is still only counted."""
        self._counting.cancel()
        await asyncio.gather(self._counting, return_exceptions=True)
        await self.tell()
        if counted := self._known.counted + self._unknown.counted:
            log.warning("%d refusals were counted and not recorded", counted)

    async def record(self, asked: AuditContext, refused: Sequence[Refused]) -> None:
        """Returns when they are on disk, or counted. Raises nothing: a refusal that cannot be recorded is logged.

        Of what only asks, what is forbidden alone goes on record.
        """
        if asked.action is AuditAction.READ:
            refused = [item for item in refused if item.error.code is ErrorCode.FORBIDDEN]
        tenant = asked.caller.tenant if asked.caller else self._tenant
        pool = self._known if asked.caller else self._unknown
        # What was named twice was refused once.
        distinct = dict.fromkeys((about, error.code, error.message) for about, error in refused)
        entries = [
            values(asked, tenant, AuditOutcome.REFUSED, about, code=code, message=message)
            for about, code, message in distinct
            if pool.take(_Like(asked, tenant, code), self._clock())
        ]
        await self._write(entries)

    async def log_in(self, origin: RequestOrigin, error: GatewayError, caller: Caller | None = None) -> None:
        """A refused log-in. `caller`: whose credentials they were, if that is known. What was sent is not told."""
        await self.record(AuditContext(caller, origin, AuditAction.LOG_IN), [Refused(AuditSubject(), error)])

    async def read(self, caller: Caller, origin: RequestOrigin, what: str, error: GatewayError) -> None:
        """A read that the caller has no right to. `what` is the field or the path."""
        await self.record(AuditContext(caller, origin, AuditAction.READ), [Refused(AuditSubject(subject=what), error)])

    @asynccontextmanager
    async def of(self, asked: AuditContext, about: AuditSubject) -> AsyncIterator[None]:
        """Records the refusal that is raised inside, and lets it through."""
        try:
            yield
        except Refusal as refusal:
            await self.record(asked, [Refused(about, refusal)])
            raise

    async def tell(self) -> None:
        """An entry for each kind of refusal that was only counted."""
        now = self._clock()
        left_out = self._known.left_out(now) + self._unknown.left_out(now)
        await self._write(
            [
                values(like.asked, like.tenant, AuditOutcome.REFUSED, code=like.code, repeats=count)
                for like, count in left_out
            ]
        )

    async def _write(self, entries: Sequence[dict[str, Any]]) -> None:
        if not entries:
            return
        try:
            await self._database.write(lambda tx: record(tx, entries))
        except Exception:
            log.exception("%d refusals could not be recorded", len(entries))

    async def _tell_forever(self) -> None:
        while True:
            await asyncio.sleep(_EVERY)
            await self.tell()
