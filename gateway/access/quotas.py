"""Limits each caller's request rate, concurrent requests, streams and subscriptions in this process.

The request rate is limited by a token bucket per caller: it holds `caller_quota` requests, and an empty bucket is full
again after `caller_window` seconds. Pure: no transport, no SQL.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil

from gateway.access.token_bucket import Rate, TokenBucket
from gateway.bounded_cache import BoundedCache, CacheStats
from gateway.config import Settings
from gateway.errors import Throttled

MAX_CALLERS = 10_000  # in memory; the idle one that sent its last request longest ago is evicted first


@dataclass(slots=True, eq=False)
class CallerQuota:
    """The usage of one caller."""

    name: str
    bucket: TokenBucket  # of requests
    unsynced: int = 0  # admitted requests that `QuotaSync` has not yet added to the database
    requests: int = 0  # running now
    streams: int = 0
    subscriptions: int = 0

    @property
    def busy(self) -> bool:
        """Whether the caller has a running request, an open stream or a subscription."""
        return bool(self.requests or self.streams or self.subscriptions)


class Quotas:
    """The usage of recent callers. `on_sync_due` is called with a caller whose usage must be synchronized."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self.settings = settings
        self.sync_threshold = max(1, settings.caller_quota // 20)  # unsynced requests at which `on_sync_due` is called
        self.on_sync_due: Callable[[CallerQuota], None] = lambda _quota: None
        self._clock = clock
        self._rate = Rate(settings.caller_quota, settings.caller_window / settings.caller_quota)
        self._subscriptions = 0
        # A busy caller is kept, because its counts must not be lost. Busy callers have connections and are fewer than
        # MAX_CALLERS.
        self._known = BoundedCache[str, CallerQuota](MAX_CALLERS, keep=lambda quota: quota.busy)

    def find(self, name: str) -> CallerQuota:
        """Return the usage of the caller with this quota key, creating it with a full bucket."""
        quota = self._known.get(name)
        if quota is None:
            quota = CallerQuota(name, TokenBucket(self._rate, self._clock))
            self._known.put(name, quota)
        return quota

    def stats(self) -> CacheStats:
        """Return the counts of the cache of callers."""
        return self._known.stats()

    # ---- requests

    def begin_request(self, quota: CallerQuota) -> None:
        """Count a request as running until `end_request`. Raises LimitExceeded."""
        if quota.requests >= self.settings.caller_requests:
            raise Throttled(
                f"You have {quota.requests} running requests, the maximum. Retry when one has finished.", retry_after=1
            )
        self._charge(quota)
        quota.requests += 1

    def end_request(self, quota: CallerQuota) -> None:
        quota.requests -= 1

    @contextmanager
    def request(self, quota: CallerQuota) -> Iterator[None]:
        """Count a request as running while the block runs. Raises LimitExceeded."""
        self.begin_request(quota)
        try:
            yield
        finally:
            self.end_request(quota)

    def _charge(self, quota: CallerQuota) -> None:
        """Take one request from the bucket. Raises LimitExceeded."""
        if not quota.bucket.take():
            wait = max(1, ceil(quota.bucket.wait()))
            raise Throttled(
                f"Rate limit exceeded: at most {self.settings.caller_quota} requests in"
                f" {self.settings.caller_window:g} seconds. Retry after {wait} seconds.",
                retry_after=wait,
            )
        quota.unsynced += 1
        if quota.unsynced >= self.sync_threshold:
            self.on_sync_due(quota)

    # ---- streams

    @contextmanager
    def open_stream(self, quota: CallerQuota) -> Iterator[None]:
        """Count a WebSocket or an event stream while the block runs. Raises LimitExceeded."""
        if quota.streams >= self.settings.caller_streams:
            raise Throttled(f"You have {quota.streams} open streams, the maximum. Close one and retry.", retry_after=10)
        quota.streams += 1
        try:
            yield
        finally:
            quota.streams -= 1

    @contextmanager
    def open_subscription(self, quota: CallerQuota) -> Iterator[None]:
        """Count a subscription while the block runs. Raises LimitExceeded."""
        if quota.subscriptions >= self.settings.caller_subscriptions:
            raise Throttled(
                f"You have {quota.subscriptions} subscriptions, the maximum. End one and retry.", retry_after=10
            )
        if self._subscriptions >= self.settings.max_subscriptions:
            raise Throttled("The gateway has reached its maximum number of subscriptions. Retry later.", retry_after=10)
        quota.subscriptions += 1
        self._subscriptions += 1
        try:
            yield
        finally:
            quota.subscriptions -= 1
            self._subscriptions -= 1
