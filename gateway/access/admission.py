"""Lets requests in or not, and tells in every answer what is left: what `api` and `rest` have in common.

The headers are `RateLimit` and `RateLimit-Policy` as draft-ietf-httpapi-ratelimit-headers-11 has them.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from math import ceil
from typing import Any

from gateway.access.caller import Caller
from gateway.access.quotas import CallerQuota, Quotas

_VISIT = "gateway.visit"  # in the scope: one request from its beginning to the end of its answer

Application = Callable[[Any, Any, Any], Awaitable[None]]


def counted_as(caller: Caller, scope: Mapping[str, Any]) -> str:
    """By what use is counted: the caller's key, or the address of whoever has none."""
    if caller.key:
        return caller.key
    client = scope.get("client")
    return f"address {client[0]}" if client else "address"


class Admission:
    """Endpoints are wrapped in `guarded`, and call `admit` when they know who is asking."""

    def __init__(self, callers: Quotas) -> None:
        self.callers = callers
        quota, window = callers.settings.caller_quota, callers.settings.caller_window
        self.policy = (b"ratelimit-policy", b'"caller";q=%d;w=%d' % (quota, ceil(window)))
        self.more_in = ceil(window / quota)  # seconds, in which one more request can be sent

    def admit(self, scope: Mapping[str, Any], caller: Caller) -> None:
        """Raises LimitExceeded."""
        scope[_VISIT].begin(self.callers.find(counted_as(caller, scope)))

    @contextmanager
    def subscribed(self, scope: Mapping[str, Any]) -> Iterator[None]:
        """The request becomes an event stream, which takes the place of none. Raises LimitExceeded."""
        visit: _Visit = scope[_VISIT]
        standing = visit.standing
        assert standing is not None
        visit.end()
        with self.callers.streaming(standing), self.callers.subscribed(standing):
            yield

    def guarded(self, app: Application) -> "Guarded":
        return Guarded(self, app)


class _Visit:
    __slots__ = ("_admission", "_begun", "standing")

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._begun = False
        self.standing: CallerQuota | None = None

    def begin(self, standing: CallerQuota) -> None:
        self.standing = standing
        self._admission.callers.begin(standing)
        self._begun = True

    def end(self) -> None:
        if self._begun:
            assert self.standing is not None
            self._admission.callers.end(self.standing)
            self._begun = False

    def headers(self, standing: CallerQuota) -> list[tuple[bytes, bytes]]:
        left = max(int(standing.left), 0)
        return [(b"ratelimit", b'"caller";r=%d;t=%d' % (left, self._admission.more_in)), self._admission.policy]


class Guarded:
    """An ASGI application for HTTP whose requests end when they end, and whose answers tell what is left."""

    def __init__(self, admission: Admission, app: Application) -> None:
        self._admission = admission
        self._app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        visit = scope[_VISIT] = _Visit(self._admission)

        async def send_with_rest(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start" and visit.standing is not None:
                message["headers"] = [*message["headers"], *visit.headers(visit.standing)]
            await send(message)

        try:
            await self._app(scope, receive, send_with_rest)
        finally:
            visit.end()
