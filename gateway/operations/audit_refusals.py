"""Audit entries of refusals, at a limited rate. An entry is committed before the refusal is returned.

The rate is limited so that a flood of refusals neither fills the disk nor delays other writes. Refusals over the rate
of their source are only counted, and once a minute one entry records the count.
"""

import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from gateway.access.caller import Caller
from gateway.access.origin import RequestOrigin
from gateway.access.token_bucket import Rate, TokenBucket
from gateway.errors import ErrorCode, GatewayError, Refusal
from gateway.models import AuditAction, AuditOutcome
from gateway.operations.audit_log import AuditContext, AuditSubject, entry_values, record_entries
from gateway.store.database import Database

log = logging.getLogger(__name__)

COUNTS_INTERVAL = 60.0  # seconds between two entries with the counts
_MAX_SOURCES = 1_000  # distinguished at a time; further sources are counted as one


class Refused(NamedTuple):
    """One refused item, with the reason."""

    subject: AuditSubject
    error: GatewayError


class _Group(NamedTuple):
    """Common properties of refusals that are counted together."""

    context: AuditContext
    tenant: str
    code: ErrorCode


@dataclass(slots=True)
class _Source:
    """One caller at one address. `left_out` counts the refusals without an entry of their own."""

    bucket: TokenBucket  # of entries
    left_out: Counter[_Group] = field(default_factory=Counter)


class _Pool:
    """Sources that share a token bucket in addition to their own.

    Authenticated and unauthenticated callers have separate pools, so unauthenticated ones cannot use up the tokens of
    the others.
    """

    def __init__(self, per_source: Rate, total: Rate, clock: Callable[[], float]) -> None:
        self._per_source = per_source
        self._clock = clock
        self._total = TokenBucket(total, clock)
        self._sources: dict[Hashable, _Source] = {}  # no cache: a source stays until its counts are recorded

    def take(self, group: _Group) -> bool:
        """Whether a refusal may be recorded. If not, it is counted."""
        caller = group.context.caller
        key: Hashable = (group.tenant, caller and (caller.key, caller.name), group.context.origin.address)
        if key not in self._sources and len(self._sources) >= _MAX_SOURCES:
            key, group = None, _without_source(group)
        source = self._sources.get(key)
        if source is None:
            source = self._sources[key] = _Source(TokenBucket(self._per_source, self._clock))
        if source.bucket.take() and self._total.take():
            return True
        source.left_out[_without_request(group)] += 1
        return False

    def left_out(self) -> list[tuple[_Group, int]]:
        """Removes and returns the counts, as many as may be recorded now."""
        found = []
        for key, source in list(self._sources.items()):
            affordable = [group for group in source.left_out if self._total.take()]
            found += [(group, source.left_out.pop(group)) for group in affordable]
            if not source.left_out and source.bucket.is_full():
                del self._sources[key]
        return found

    @property
    def counted(self) -> int:
        """Number of refusals that are counted and not recorded yet."""
        return sum(source.left_out.total() for source in self._sources.values())


def _without_request(group: _Group) -> _Group:
    """The group without the properties of a single request, such as the request id."""
    caller, origin, action = group.context.caller, group.context.origin, group.context.action
    if caller is not None:
        caller = Caller(caller.name, caller.tenant, caller.roles, key=caller.key)
    return group._replace(context=AuditContext(caller, origin._replace(request_id=None), action))


def _without_source(group: _Group) -> _Group:
    """The group without caller and address, for sources over `_MAX_SOURCES`."""
    context = group.context
    return group._replace(context=AuditContext(None, RequestOrigin(context.origin.surface), context.action))


class RefusalLog:
    """Records refusals, until `stop`.

    Refusals of unauthenticated callers are recorded for `tenant`. `clock` returns seconds.
    """

    def __init__(self, database: Database, tenant: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._tenant = tenant
        self._authenticated = _Pool(per_source=Rate(1_000, 20.0), total=Rate(5_000, 5.0), clock=clock)
        self._unauthenticated = _Pool(per_source=Rate(20, 50.0), total=Rate(1_000, 5.0), clock=clock)

    async def stop(self) -> None:
        """Records the remaining counts. Raises nothing: a failed write is logged."""
        try:
            await self.record_counts()
        except Exception:
            log.exception("Counts of refusals could not be recorded")
        if counted := self._authenticated.counted + self._unauthenticated.counted:
            log.warning("Refusals were counted but not recorded count=%d", counted)

    async def record(self, context: AuditContext, refused: Sequence[Refused]) -> None:
        """Returns when the refusals are committed or counted. Raises nothing: a failed write is logged.

        Of refused reads, only FORBIDDEN ones are recorded.
        """
        if context.action is AuditAction.READ:
            refused = [item for item in refused if item.error.code is ErrorCode.FORBIDDEN]
        tenant = context.caller.tenant if context.caller else self._tenant
        pool = self._authenticated if context.caller else self._unauthenticated
        # A target that the request names twice is recorded once.
        distinct = dict.fromkeys((subject, error.code, error.message) for subject, error in refused)
        entries = [
            entry_values(context, tenant, AuditOutcome.REFUSED, subject, code=code, message=message)
            for subject, code, message in distinct
            if pool.take(_Group(context, tenant, code))
        ]
        try:
            await self._write(entries)
        except Exception:
            log.exception("Refusals could not be recorded count=%d", len(entries))

    async def record_login(self, origin: RequestOrigin, error: GatewayError, caller: Caller | None = None) -> None:
        """Records a refused login, without the credentials. `caller` is the owner of the credentials, if known."""
        await self.record(AuditContext(caller, origin, AuditAction.LOG_IN), [Refused(AuditSubject(), error)])

    async def record_read(self, caller: Caller, origin: RequestOrigin, target: str, error: GatewayError) -> None:
        """Records a read that the caller has no right to. `target` is the field or the path."""
        await self.record(
            AuditContext(caller, origin, AuditAction.READ), [Refused(AuditSubject(subject=target), error)]
        )

    @asynccontextmanager
    async def recording(self, context: AuditContext, subject: AuditSubject) -> AsyncIterator[None]:
        """Records a refusal that is raised inside, and raises it again."""
        try:
            yield
        except Refusal as refusal:
            await self.record(context, [Refused(subject, refusal)])
            raise

    async def record_counts(self) -> None:
        """Records one entry with the count for each group of counted refusals. Called every `COUNTS_INTERVAL`.

        Raises the errors of the database. The counts are lost then.
        """
        left_out = self._authenticated.left_out() + self._unauthenticated.left_out()
        await self._write(
            [
                entry_values(group.context, group.tenant, AuditOutcome.REFUSED, code=group.code, repeats=count)
                for group, count in left_out
            ]
        )

    async def _write(self, entries: Sequence[dict[str, Any]]) -> None:
        if entries:
            await self._database.write(lambda tx: record_entries(tx, entries))
