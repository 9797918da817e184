"""Limits the rate of failed authentications, per client address and per token. Each process counts separately.

A token's limit applies only to addresses with failures of their own. Therefore an attacker who tries a token's number
with wrong secrets cannot lock out its owner at another address.
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
MAX_ENTRIES = 10_000  # addresses, and as many tokens; the one that failed longest ago is evicted first

_RATE = Rate(BURST, SECONDS_PER_FAILURE)


class LoginThrottle:
    """Counts failed authentications, each of which takes a token from two buckets. `clock` returns monotonic seconds.

    A failure is counted also if the bucket is empty, because several verifications may run at the same time.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._addresses = BoundedCache[str, TokenBucket](MAX_ENTRIES)
        self._tokens = BoundedCache[str, TokenBucket](MAX_ENTRIES)

    def check(self, address: str, token: str | None) -> None:
        """Raises Throttled if a credential from `address` must not be verified now."""
        failures = self._addresses.peek(_network(address))
        if failures is None or failures.is_full():
            return
        wait = failures.wait()
        if token is not None and (failures_of_token := self._tokens.peek(token)) is not None:
            wait = max(wait, failures_of_token.wait())
        if wait > 0:
            raise Throttled("Too many failed login attempts. Retry later.", retry_after=ceil(wait))

    def record_failure(self, address: str, token: str | None) -> None:
        """Count a failure. `token` is the public form of the credential, such as `sgw_7_…`, or None for other forms."""
        self._count(self._addresses, _network(address))
        if token is not None:
            self._count(self._tokens, token)

    def stats(self) -> tuple[CacheStats, CacheStats]:
        """Return the counts of the caches of addresses and of tokens."""
        return self._addresses.stats(), self._tokens.stats()

    def _count(self, buckets: BoundedCache[str, TokenBucket], key: str) -> None:
        bucket = buckets.get(key)
        if bucket is None:
            bucket = TokenBucket(_RATE, self._clock)
            buckets.put(key, bucket)
        bucket.take_in_advance()


def _network(address: str) -> str:
    """Return an IPv4 address as it is, and the /64 network of an IPv6 address, which belongs to one customer."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return address
    return str(parsed.ipv4_mapped or ipaddress.ip_network((int(parsed), 64), strict=False))
