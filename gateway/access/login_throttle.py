"""Limits the rate of failed authentications, per client address and per token. Each process counts separately.

A token's limit applies only to addresses with failures of their own. Therefore an attacker who tries a token's number
with wrong secrets cannot lock out its owner at another address.
"""

import ipaddress
from collections.abc import Callable
from math import ceil
from time import monotonic

from gateway.errors import Throttled

BURST = 20  # failures without a delay
SECONDS_PER_FAILURE = 3.0  # in which one further failure is allowed
MAX_ENTRIES = 10_000  # addresses, and as many tokens; the one that failed longest ago is evicted first


class LoginThrottle:
    """Counts failed authentications in leaky buckets. `clock` returns monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._addresses = _LeakyBuckets(clock)
        self._tokens = _LeakyBuckets(clock)

    def check(self, address: str, token: str | None) -> None:
        """Raises Throttled if a credential from `address` must not be verified now."""
        network = _network(address)
        wait = self._addresses.wait(network)
        if token is not None and self._addresses.level(network) > 0:
            wait = max(wait, self._tokens.wait(token))
        if wait > 0:
            raise Throttled("Too many failed login attempts. Retry later.", retry_after=ceil(wait))

    def record_failure(self, address: str, token: str | None) -> None:
        """Count a failure. `token` is the public form of the credential, such as `sgw_7_…`, or None for other forms."""
        self._addresses.add(_network(address))
        if token is not None:
            self._tokens.add(token)


class _LeakyBuckets:
    """One bucket per key. Each failure adds 1, and 1 drains away every `SECONDS_PER_FAILURE`."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._levels: dict[str, tuple[float, float]] = {}  # by key: the level, and the clock when it had that level

    def level(self, key: str) -> float:
        level, at = self._levels.get(key, (0.0, 0.0))
        return max(0.0, level - (self._clock() - at) / SECONDS_PER_FAILURE)

    def wait(self, key: str) -> float:
        """Return the seconds until one more failure fits into the bucket."""
        return max(0.0, self.level(key) - (BURST - 1)) * SECONDS_PER_FAILURE

    def add(self, key: str) -> None:
        level = self.level(key) + 1
        self._levels.pop(key, None)
        self._levels[key] = (level, self._clock())
        if len(self._levels) > MAX_ENTRIES:
            del self._levels[next(iter(self._levels))]


def _network(address: str) -> str:
    """Return an IPv4 address as it is, and the /64 network of an IPv6 address, which belongs to one customer."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return address
    return str(parsed.ipv4_mapped or ipaddress.ip_network((int(parsed), 64), strict=False))
