"""How often a wrong credential may be tried. In this process's memory: each process counts for itself.

Whoever fails is slowed down by the address they come from. A token that is tried from many addresses slows down those
of them that have failed themselves, so nobody is locked out by what others do with the name of their token.
"""

import ipaddress
from collections.abc import Callable
from math import ceil
from time import monotonic

from gateway.errors import Throttled

BURST = 20  # failures that are answered at once
EVERY = 3.0  # seconds after which one of them is forgotten
MOST = 10_000  # addresses, and tokens, that are remembered; those that failed longest ago make way


class LoginThrottle:
    """Counts failures. `clock` counts seconds."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._addresses = _Failures(clock)
        self._tokens = _Failures(clock)

    def check(self, address: str, token: str | None) -> None:
        """Raises Throttled when nothing from `address` is to be looked at now."""
        place = _place(address)
        wait = self._addresses.wait(place)
        if token is not None and self._addresses.level(place) > 0:
            wait = max(wait, self._tokens.wait(token))
        if wait > 0:
            raise Throttled("Too many log-ins have failed: ask again later.", retry_after=ceil(wait))

    def failed(self, address: str, token: str | None) -> None:
        """Counts one more failure; `token` is what the tried token is called."""
        self._addresses.add(_place(address))
        if token is not None:
            self._tokens.add(token)


class _Failures:
    """Failures by key: each fills a bucket, which runs out by one every few seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._levels: dict[str, tuple[float, float]] = {}  # how full, and when that was

    def level(self, key: str) -> float:
        level, at = self._levels.get(key, (0.0, 0.0))
        return max(0.0, level - (self._clock() - at) / EVERY)

    def wait(self, key: str) -> float:
        """Seconds until there is room for one more."""
        return max(0.0, self.level(key) - (BURST - 1)) * EVERY

    def add(self, key: str) -> None:
        level = self.level(key) + 1
        self._levels.pop(key, None)
        self._levels[key] = (level, self._clock())
        if len(self._levels) > MOST:
            del self._levels[next(iter(self._levels))]


def _place(address: str) -> str:
    """The address, or the network that one customer has of IPv6 addresses."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return address
    return str(parsed.ipv4_mapped or ipaddress.ip_network((int(parsed), 64), strict=False))
