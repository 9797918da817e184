"""The tokens of `/api/auth`: opaque, in this process's memory, good for ten minutes after their last use.

None lives longer than twelve hours, so that whoever lost their rights does not keep them through a token.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from secrets import token_hex

from gateway.access.caller import Caller

TTL = 600  # seconds after the last use; ManageIQ's default
LONGEST = 12 * 3_600
MOST = 10_000  # the one unused for longest makes way


@dataclass(slots=True)
class _Token:
    caller: Caller
    until: float
    end: float


class Tokens:
    """Who holds which token. `clock` counts seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tokens: OrderedDict[str, _Token] = OrderedDict()

    def issue(self, caller: Caller) -> str:
        name, now = token_hex(16), self._clock()
        self._tokens[name] = _Token(caller, now + TTL, now + LONGEST)
        if len(self._tokens) > MOST:
            self._tokens.popitem(last=False)
        return name

    def caller(self, name: str) -> Caller | None:
        """Whose token it is, and ten minutes more for it; None when it is nobody's, or no longer."""
        token, now = self._tokens.get(name), self._clock()
        if token is None:
            return None
        if now >= min(token.until, token.end):
            del self._tokens[name]
            return None
        token.until = now + TTL
        self._tokens.move_to_end(name)
        return token.caller

    def revoke(self, name: str) -> None:
        self._tokens.pop(name, None)
