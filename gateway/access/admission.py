"""Applies the quotas of callers to HTTP requests. GraphQL and REST share it.

Every response to an admitted request carries the headers `RateLimit` and `RateLimit-Policy` of
draft-ietf-httpapi-ratelimit-headers-11.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from math import ceil
from typing import Any

from gateway.access.caller import Caller
from gateway.access.quotas import CallerQuota, Quotas
from gateway.fair_queue import CLAIM, Claim

_REQUEST = (
    "gateway.counted_request"  # key in the ASGI scope, set from the start of a request to the end of its response
)

Application = Callable[[Any, Any, Any], Awaitable[None]]


def quota_key(caller: Caller, scope: Mapping[str, Any]) -> str:
    """Return what usage is counted by: the caller's key, or the client address of a caller without a key."""
    if caller.key:
        return caller.key
    client = scope.get("client")
    return f"address {client[0]}" if client else "address"


class Admission:
    """Counts HTTP requests against quotas. Endpoints are wrapped by `wrap` and call `admit` after authentication."""

    def __init__(self, quotas: Quotas) -> None:
        self.quotas = quotas
        quota, window = quotas.settings.caller_quota, quotas.settings.caller_window
        self.policy = (b"ratelimit-policy", b'"caller";q=%d;w=%d' % (quota, ceil(window)))
        self.seconds_per_request = ceil(window / quota)  # after which the quota has one more request

    def admit(self, scope: Mapping[str, Any], caller: Caller) -> None:
        """Count the request, and from now on its work, against the caller's quota. Raises LimitExceeded."""
        quota = self.quotas.find(quota_key(caller, scope))
        scope[_REQUEST].begin(quota)
        CLAIM.set(Claim(quota.name))

    @contextmanager
    def event_stream(self, scope: Mapping[str, Any]) -> Iterator[None]:
        """Stop counting the request as running and count it as a stream with a subscription. Raises LimitExceeded."""
        request: _CountedRequest = scope[_REQUEST]
        quota = request.quota
        assert quota is not None
        request.end()
        CLAIM.set(Claim(quota.name, stream=True))
        with self.quotas.open_stream(quota), self.quotas.open_subscription(quota):
            yield

    def wrap(self, app: Application) -> "AdmissionMiddleware":
        return AdmissionMiddleware(self, app)


class _CountedRequest:
    """One HTTP request: the quota that it is counted against once its caller is known."""

    __slots__ = ("_admission", "_begun", "quota")

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._begun = False
        self.quota: CallerQuota | None = None

    def begin(self, quota: CallerQuota) -> None:
        self.quota = quota
        self._admission.quotas.begin_request(quota)
        self._begun = True

    def end(self) -> None:
        """Stop counting the request as running. Does nothing if it is not counted."""
        if self._begun:
            assert self.quota is not None
            self._admission.quotas.end_request(self.quota)
            self._begun = False

    def headers(self, quota: CallerQuota) -> list[tuple[bytes, bytes]]:
        remaining = max(int(quota.bucket.tokens), 0)
        limit = b'"caller";r=%d;t=%d' % (remaining, self._admission.seconds_per_request)
        return [(b"ratelimit", limit), self._admission.policy]


class AdmissionMiddleware:
    """ASGI middleware for HTTP: ends the counted request with its response and adds the rate limit headers."""

    def __init__(self, admission: Admission, app: Application) -> None:
        self._admission = admission
        self._app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        request = scope[_REQUEST] = _CountedRequest(self._admission)

        async def send_with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start" and request.quota is not None:
                message["headers"] = [*message["headers"], *request.headers(request.quota)]
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        finally:
            request.end()
