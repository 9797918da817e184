"""Sheds load: callers take turns on the event loop, and requests that would wait too long are rejected.

Under overload, serving every request would answer all of them too late. So a request is rejected at once, with 503 and
`Retry-After`, when its estimated wait exceeds GATEWAY_LONGEST_WAIT; the others are answered within about that time. The
estimate needs no configured capacity, because it is measured.

What is measured
    Work on the event loop, and nothing else: how long requests wait for their turn on it. A request that waits for its
    client (its body is incomplete, or the client reads slowly) or for the database is not in the queue, so it delays no
    other request and causes no rejection. Waiting for the database has a queue of its own with the same rules
    (`gateway.store.fair_slots`).

Turns
    Some requests block the event loop while they run (short reads on SQLite do). If 200 of them were ready in one
    iteration of the loop, a new request would be read from its socket only after all 200, and its rejection would
    come as late as a response. So the loop must look at its sockets after at most a few requests.

    A turn begins with the first request of a loop iteration. Requests that arrive within 10 ms of it run at once; later
    ones wait in a `FairQueue`, and so does every new request while the queue is not empty. `call_soon` runs
    `_next_turn` in the following iteration, after the loop has polled its sockets: it starts the next waiting request,
    whose turn begins then. So under load one request runs per iteration, and between two of them the loop accepts
    connections, rejects requests and answers health checks.

Whose turn
    The queue serves callers in turn, so a caller that sends little waits for one request of each other caller, and the
    estimated wait is the longest for the caller that has queued the most: it is rejected first. How long each request
    holds the loop is charged to its caller, so callers share its time and not only turns. Example: one caller has
    200 requests waiting, and a turn takes 5 ms. Its next request would wait 1 s and is rejected; the first request of
    another caller waits 5 ms.

    The caller is known after authentication, so turns are taken there: by GraphQL and REST when the body is complete
    (`admitted`), by each operation on a WebSocket, and by each message of a subscription. Streams wait in a lane of
    their own and are never rejected, because their number is limited.

    Before authentication, only the address is known. `LoadSheddingMiddleware` makes each request take a turn under its
    address, except requests to GraphQL and REST with a credential that was verified before. So a flood of unknown
    credentials delays unknown callers at its own address (a NAT, for example), but no caller who is known already.

The first health check of an address in an iteration of the loop passes at once, further ones take turns under the
address. A request that the middleware outside this one rejects takes a turn for its rejection.

Invariants: requests of one caller start in the order in which they arrived; a canceled request loses its turn to the
next one; while the queue is not empty, `_next_turn` is scheduled; an empty queue rejects nothing.
"""

import asyncio
import time
from collections.abc import Callable
from math import inf

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.errors import Unavailable
from gateway.fair_queue import CLAIM, Claim, FairQueue
from gateway.http.errors import ErrorFormats, HttpError
from gateway.http.health import HEALTH_PATHS

_TURN_SECONDS = 0.01  # after the start of a turn, in which further requests run without waiting
_NO_CLAIM = Claim("")


class LoopTurns:
    """The turns on the event loop. A request that would wait for more than `max_wait` seconds is rejected.

    `clock` is monotonic, in seconds.
    """

    def __init__(self, max_wait: float = inf, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_wait = max_wait
        self._clock = clock
        self._queue = FairQueue(clock)
        self._turn_started: float | None = None  # None when no request has run in this iteration of the loop
        self._running = ""  # the caller of the request that ran last
        self._running_since = 0.0

    async def take(self, claim: Claim | None = None) -> None:
        """Waits for the next turn of `claim`, by default that of the running task. Raises Unavailable."""
        claim = claim or CLAIM.get() or _NO_CLAIM
        if self._turn_started is None:
            self._begin_turn(claim.caller)
        elif len(self._queue) or self._clock() - self._turn_started > _TURN_SECONDS:
            await self._wait(claim)
        else:
            self._charge(claim.caller)

    async def _wait(self, claim: Claim) -> None:
        if not claim.stream and self._queue.estimated_wait(claim.caller) > self._max_wait:
            raise Unavailable("The gateway is overloaded. Retry the request after the delay in `Retry-After`.")
        waiting = self._queue.add(claim)
        try:
            await waiting
        except BaseException:
            self._queue.remove(claim, waiting)
            raise

    def _begin_turn(self, caller: str) -> None:
        self._turn_started = self._running_since = self._clock()
        self._running = caller
        asyncio.get_running_loop().call_soon(self._next_turn)

    def _next_turn(self) -> None:
        """Starts the next waiting request. Runs one loop iteration after `_begin_turn`, when sockets were polled."""
        self._charge("")
        self._turn_started = None
        if len(self._queue) and (caller := self._queue.pop()) is not None:
            self._begin_turn(caller)

    def _charge(self, next_caller: str) -> None:
        """Counts the time since the last request began, which held the event loop until now, as its caller's."""
        now = self._clock()
        self._queue.charge(self._running, now - self._running_since)
        self._running, self._running_since = next_caller, now


class LoadSheddingMiddleware:
    """Makes requests whose caller is not known yet take a turn under their address.

    `is_known`: whether the credential of a request was verified before. Such requests to a surface of `formats` take
    their turn there.
    """

    def __init__(
        self, app: ASGIApp, turns: LoopTurns, formats: ErrorFormats, is_known: Callable[[Scope], bool]
    ) -> None:
        self._app = app
        self._turns = turns
        self._formats = formats
        self._is_known = is_known
        self._checking: set[str] = set()  # addresses whose health check has passed in this iteration of the loop

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        CLAIM.set(None)  # a pipelined request inherits the context of the one before it
        if self._takes_turn(scope):
            try:
                await self._turns.take(address_claim(scope))
            except Unavailable as error:
                await self._formats.response(scope, HttpError.of(error))(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _takes_turn(self, scope: Scope) -> bool:
        if scope["type"] == "lifespan":
            return False
        if scope["path"] in HEALTH_PATHS:
            return self._is_repeated_check(scope)
        return not (self._formats.serves(scope["path"]) and self._is_known(scope))

    def _is_repeated_check(self, scope: Scope) -> bool:
        """Whether a health check of the same address has passed in this iteration of the loop."""
        address = address_claim(scope).caller
        if address in self._checking:
            return True
        if not self._checking:
            asyncio.get_running_loop().call_soon(self._checking.clear)
        self._checking.add(address)
        return False


def address_claim(scope: Scope) -> Claim:
    """The claim of a caller that is not known yet. WebSockets and health checks are streams, which are not rejected."""
    client = scope.get("client")
    stream = scope["type"] == "websocket" or scope["path"] in HEALTH_PATHS
    return Claim(f"address {client[0]}" if client else "address", stream)
