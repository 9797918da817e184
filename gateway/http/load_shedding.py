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

    Every request takes a turn before anything else is done for it, whatever becomes of it: a request that is refused
    (400, 401, 404, 429) or answered from memory holds the loop too. `LoadSheddingMiddleware` takes it, under the caller
    if the credential was verified before, and otherwise under the address. So a flood of unknown credentials delays
    unknown callers at its own address (a NAT, for example), but no caller who is known already.

    GraphQL and REST take a second one when the caller is known and the body is complete (`admitted`), which is free if
    the request has not waited for anything since the first. So does each operation on a WebSocket, and each message of
    a subscription. Streams wait in a lane of their own and are never rejected, because their number is limited.

Rejections
    A rejection holds the loop as well, and the connection that received it may send the next request at once. So
    rejections wait too, but not long: eight are sent in each iteration of the loop, of the callers in turn.

The first health check of an address in an iteration of the loop passes at once, further ones take turns under the
address. A request that the middleware outside this one rejects takes a turn for its rejection.

Invariants: requests of one caller start in the order in which they arrived; a canceled request loses its turn to the
next one; while the queue is not empty, `_next_turn` is scheduled; an empty queue rejects nothing.
"""

import asyncio
import time
from collections.abc import Callable
from math import inf
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.access.admission import quota_key
from gateway.access.caller import Caller
from gateway.errors import Unavailable
from gateway.fair_queue import CLAIM, Claim, FairQueue
from gateway.http.errors import ErrorFormats, HttpError
from gateway.http.health import HEALTH_PATHS

_TURN_SECONDS = 0.01  # after the start of a turn, in which further requests run without waiting
_REJECTIONS = 8  # in one iteration of the loop
_NO_CLAIM = Claim("")


class LoopTurns:
    """The turns on the event loop. A request that would wait for more than `max_wait` seconds is rejected.

    `clock` is monotonic, in seconds.
    """

    def __init__(self, max_wait: float = inf, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_wait = max_wait
        self._clock = clock
        self._queue = FairQueue(clock)
        self._rejections = FairQueue(clock)
        self._turn_started: float | None = None  # None when no request has run in this iteration of the loop
        self._running = ""  # the caller of the request that ran last
        self._running_since = 0.0
        self._arrived: asyncio.Task[Any] | None = None  # whose turn it is, if it may be continued

    async def arrive(self, claim: Claim) -> None:
        """Waits for the next turn of `claim`, which the next call of `take` continues. Raises Unavailable."""
        await self._take(claim)
        self._arrived = asyncio.current_task()

    async def take(self, claim: Claim | None = None) -> None:
        """Waits for the next turn of `claim`, by default that of the running task. Raises Unavailable.

        Does nothing, once, if the task has just arrived: if it has not been suspended since its turn began.
        """
        if self._arrived is not None and self._arrived is asyncio.current_task():
            self._arrived = None
        else:
            await self._take(claim or CLAIM.get() or _NO_CLAIM)

    async def _take(self, claim: Claim) -> None:
        if self._turn_started is None:
            self._begin_turn()
        elif len(self._queue) or self._clock() - self._turn_started > _TURN_SECONDS:
            if not claim.stream and self._queue.estimated_wait(claim.caller) > self._max_wait:
                await self._rejections.wait(claim)
                self._run(claim.caller)
                raise Unavailable("The gateway is overloaded. Retry the request after the delay in `Retry-After`.")
            await self._queue.wait(claim)
        self._run(claim.caller)

    def _run(self, caller: str) -> None:
        """Counts the time since the last request began, which held the event loop until now, as its caller's."""
        now = self._clock()
        if self._running:
            self._queue.charge(self._running, now - self._running_since)
        self._running, self._running_since = caller, now
        self._arrived = None

    def _begin_turn(self) -> None:
        self._turn_started = self._clock()
        asyncio.get_running_loop().call_soon(self._next_turn)

    def _next_turn(self) -> None:
        """Starts the next waiting request. Runs one loop iteration after `_begin_turn`, when sockets were polled."""
        self._run("")
        self._turn_started = None
        begins = False
        for _ in range(min(_REJECTIONS, len(self._rejections))):
            begins |= self._rejections.pop() is not None
        if len(self._queue):
            begins |= self._queue.pop() is not None
        if begins:
            self._begin_turn()


class LoadSheddingMiddleware:
    """Makes every request take a turn.

    One to a surface of `formats` takes it under its caller if that is known, others take it under their address.
    `known_caller`: the caller of a request whose credential was verified before. `on_shed` is called for each request
    that is rejected.
    """

    def __init__(
        self,
        app: ASGIApp,
        turns: LoopTurns,
        formats: ErrorFormats,
        known_caller: Callable[[Scope], Caller | None],
        on_shed: Callable[[Scope], None] = lambda _scope: None,
    ) -> None:
        self._app = app
        self._turns = turns
        self._formats = formats
        self._known_caller = known_caller
        self._on_shed = on_shed
        self._checking: set[str] = set()  # addresses whose health check has passed in this iteration of the loop

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        CLAIM.set(None)  # a pipelined request inherits the context of the one before it
        if scope["type"] != "lifespan" and (scope["path"] not in HEALTH_PATHS or self._is_repeated_check(scope)):
            try:
                await self._turns.arrive(self._claim(scope))
            except Unavailable as error:
                self._on_shed(scope)
                await self._formats.response(scope, HttpError.of(error))(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _claim(self, scope: Scope) -> Claim:
        claim = address_claim(scope)
        caller = self._known_caller(scope) if self._formats.serves(scope["path"]) else None
        return claim if caller is None else Claim(quota_key(caller, scope), claim.stream)

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
