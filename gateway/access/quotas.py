"""What each caller has under way, and how much it may still ask for, in this process. Pure: knows no transport, no SQL.

The quota is a bucket that fills evenly: `quota` requests fit in, and it is full again a `window` after it was empty.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil

from gateway.config import Settings
from gateway.errors import Throttled

MOST_KNOWN = 10_000  # callers; the one that was idle for longest makes way


@dataclass(slots=True, eq=False)
class CallerQuota:
    """One caller's."""

    name: str
    left: float
    at: float  # when that was so
    unshared: int = 0  # requests that other processes have not been told of
    requests: int = 0
    streams: int = 0
    subscriptions: int = 0

    @property
    def busy(self) -> bool:
        return bool(self.requests or self.streams or self.subscriptions)


class Quotas:
    """The standing of every caller that asked lately. `heavy` is told of a caller whose requests are to be shared."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self.settings = settings
        self.share = max(1, settings.caller_quota // 20)  # requests that are kept from other processes, at most
        self.heavy: Callable[[CallerQuota], None] = lambda _standing: None
        self._clock = clock
        self._rate = settings.caller_quota / settings.caller_window
        self._subscriptions = 0
        self._known: OrderedDict[str, CallerQuota] = OrderedDict()

    def find(self, name: str) -> CallerQuota:
        known = self._known.get(name)
        if known is not None:
            self._known.move_to_end(name)
            return known
        found = self._known[name] = CallerQuota(name, self.settings.caller_quota, self._clock())
        # Who is busy holds a connection, so there are far fewer of them than are kept.
        while len(self._known) > MOST_KNOWN:
            _, oldest = self._known.popitem(last=False)
            if oldest.busy:
                self._known[oldest.name] = oldest
        return found

    # ---- requests

    def begin(self, standing: CallerQuota) -> None:
        """Counts a request, which must be ended. Raises LimitExceeded."""
        if standing.requests >= self.settings.caller_requests:
            raise Throttled(
                f"You have {standing.requests} requests under way, and more are not served at once.", retry_after=1
            )
        self._charge(standing)
        standing.requests += 1

    def end(self, standing: CallerQuota) -> None:
        standing.requests -= 1

    @contextmanager
    def request(self, standing: CallerQuota) -> Iterator[None]:
        """The same for as long as the block runs."""
        self.begin(standing)
        try:
            yield
        finally:
            self.end(standing)

    def _charge(self, standing: CallerQuota) -> None:
        now = self._clock()
        left = standing.left + (now - standing.at) * self._rate
        standing.left = left = min(left, self.settings.caller_quota)
        standing.at = now
        if left < 1:
            wait = ceil((1 - left) / self._rate)
            raise Throttled(
                f"You may send {self.settings.caller_quota} requests in {self.settings.caller_window:g} seconds:"
                f" wait for {wait} seconds.",
                retry_after=wait,
            )
        standing.left = left - 1
        standing.unshared += 1
        if standing.unshared >= self.share:
            self.heavy(standing)

    def correct(self, standing: CallerQuota, left: float) -> None:
        """What is left to it of what all processes together give, as it is now."""
        standing.left, standing.at = left, self._clock()

    # ---- streams

    @contextmanager
    def streaming(self, standing: CallerQuota) -> Iterator[None]:
        """Counts a WebSocket or an event stream. Raises LimitExceeded."""
        if standing.streams >= self.settings.caller_streams:
            raise Throttled(f"You have {standing.streams} streams open: close one first.", retry_after=10)
        standing.streams += 1
        try:
            yield
        finally:
            standing.streams -= 1

    @contextmanager
    def subscribed(self, standing: CallerQuota) -> Iterator[None]:
        """Counts a subscription. Raises LimitExceeded."""
        if standing.subscriptions >= self.settings.caller_subscriptions:
            raise Throttled(f"You have {standing.subscriptions} subscriptions: end one first.", retry_after=10)
        if self._subscriptions >= self.settings.max_subscriptions:
            raise Throttled("The gateway has as many subscriptions as it serves: try again later.", retry_after=10)
        standing.subscriptions += 1
        self._subscriptions += 1
        try:
            yield
        finally:
            standing.subscriptions -= 1
            self._subscriptions -= 1
