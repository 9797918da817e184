"""Limits the rate of failed authentications per client address. Each process counts separately.

Credentials are verified before the limit is looked at, so valid ones are accepted however often others at the address
fail: the users of a network or of a proxy share one. The limit is no defense against guessing, for which the secrets
are too long. It slows down clients that keep sending wrong credentials, and bounds what their failures write to the
log.
"""

import ipaddress
from collections.abc import Callable
from math import ceil
from time import monotonic

from gateway.access.token_bucket import Rate, TokenBucket
from gateway.bounded_cache import BoundedCache, CacheStats
from gateway.errors import Throttled

BURST = 20  # failures without a delay
SECONDS_PER_FAILURE = 3.0  # in which one further failure is allowed
MAX_ENTRIES = 10_000  # addresses; the one that failed longest ago is evicted first

_RATE = Rate(BURST, SECONDS_PER_FAILURE)


class LoginThrottle:
    """Counts failed authentications, each of which takes a token from the bucket of its address.

    `clock` returns monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._addresses = BoundedCache[str, TokenBucket](MAX_ENTRIES)

    def check(self, address: str) -> None:
        """Raises Throttled if `address` has no failure left."""
        bucket = self._addresses.peek(_network(address))
        if bucket is not None and (wait := bucket.wait()) > 0:
            raise _throttled(wait)

    def record_failure(self, address: str) -> None:
        """Count a failure of `address`. Raises Throttled, and counts nothing, if it has none left."""
        key = _network(address)
        bucket = self._addresses.get(key)
        if bucket is None:
            bucket = TokenBucket(_RATE, self._clock)
            self._addresses.put(key, bucket)
        if not bucket.take():
            raise _throttled(bucket.wait())

    def stats(self) -> CacheStats:
        """Return the counts of the cache of addresses."""
        return self._addresses.stats()


def _throttled(wait: float) -> Throttled:
    return Throttled("Too many failed login attempts. Retry later.", retry_after=ceil(wait))


def _network(address: str) -> str:
    """Return an IPv4 address as it is, and the /64 network of an IPv6 address, which belongs to one customer."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return address
    return str(parsed.ipv4_mapped or ipaddress.ip_network((int(parsed), 64), strict=False))
