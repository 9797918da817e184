"""The token bucket, by which all rates are limited: of requests, of failed authentications, of audit entries."""

from collections.abc import Callable
from typing import NamedTuple


class Rate(NamedTuple):
    """A limit: `burst` at once, and one more every `seconds_per_token`."""

    burst: int
    seconds_per_token: float


class TokenBucket:
    """Holds at most `rate.burst` tokens, is full at first, and gets one every `rate.seconds_per_token`.

    `clock` returns monotonic seconds. `tokens` is the number at the last call of a method. It is a fraction, and
    negative after more tokens were taken than there were.
    """

    __slots__ = ("_clock", "_rate", "_refilled_at", "tokens")

    def __init__(self, rate: Rate, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._clock = clock
        self.tokens: float = rate.burst
        self._refilled_at = clock()

    def take(self) -> bool:
        """Take a token. Return False if there is none."""
        tokens = self._refill()
        if tokens < 1:
            return False
        self.tokens = tokens - 1
        return True

    def take_in_advance(self) -> None:
        """Take a token even if there is none, at the cost of later ones."""
        self.tokens = self._refill() - 1

    def wait(self) -> float:
        """Return the seconds until there is a token."""
        return max(0.0, 1 - self._refill()) * self._rate.seconds_per_token

    def is_full(self) -> bool:
        """Return whether no token is missing."""
        return self._refill() >= self._rate.burst

    def set(self, tokens: float) -> None:
        """Set the number of tokens now."""
        self.tokens, self._refilled_at = tokens, self._clock()

    def _refill(self) -> float:
        """Add the tokens since the last call. Return the number now."""
        now = self._clock()
        burst, seconds_per_token = self._rate
        tokens = self.tokens + (now - self._refilled_at) / seconds_per_token
        if tokens > burst:  # noqa: PLR1730 - each request comes here, and min() is slower
            tokens = burst
        self.tokens, self._refilled_at = tokens, now
        return tokens
