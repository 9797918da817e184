"""Sheds load: rejects requests whose estimated wait exceeds the limit, and makes requests take turns on the event loop.

Under overload, serving every request would answer all of them too late. So a request is rejected at once, with 503 and
`Retry-After`, when its estimated wait exceeds GATEWAY_LONGEST_WAIT; the others are answered within about that time. The
estimate needs no configured capacity, because it is measured.

The estimated wait
    A request counts as in flight from its admission until its response starts. After that its duration depends on how
    fast the client reads, and an event stream stays open for hours.

    While at least 32 requests are in flight, `_interval` is the moving average of the time between two response starts
    (the newest interval has the weight 1/64). With N requests in flight, a new one would wait N * `_interval` seconds
    (Little's law). Example: with one response every 5 ms and 120 requests in flight the estimate is 0.6 s, which is
    over the default limit of 0.5 s, so the request is rejected.

    The average is only updated when a response starts. So the time since the last response start is a second lower
    bound for the wait: it rejects requests while nothing is answered at all, for example while the database hangs. The
    larger of the two values counts.

    With fewer than 32 requests in flight, every request is admitted, and the average is not updated: intervals would
    then show how often requests arrive, not how fast they are served. This also ends an overload, since an outdated
    average can never reject all requests.

Turns
    Some requests block the event loop while they run (short reads on SQLite do). If 200 of them were ready in one
    iteration of the loop, a new request would be read from its socket only after all 200, and its rejection would
    come as late as a response. So the loop must look at its sockets after at most a few requests.

    A turn begins with the first request of a loop iteration. Requests that arrive within 10 ms of it run at once; later
    ones wait in a FIFO queue, and so does every new request while the queue is not empty. `call_soon` runs `_next_turn`
    in the following iteration, after the loop has polled its sockets: it starts the oldest waiting request, whose turn
    begins then. So under load one request runs per iteration, and between two of them the loop accepts connections,
    rejects requests and answers health checks.

Health checks, WebSockets and lifespan events pass unconditionally.

Invariants: a request is counted once and uncounted once, also when it fails or is canceled; requests start in the order
in which they arrived; a canceled request loses its turn to the next one; while the queue is not empty, `_next_turn` is
scheduled.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import Unavailable
from gateway.http.errors import ErrorFormats, HttpError

_EXEMPT_PATHS = frozenset({"/healthz", "/readyz"})
_ALWAYS_ADMITTED = 32  # requests in flight up to which none is rejected, whatever the estimate
_NEWEST_WEIGHT = 1 / 64  # of the newest interval in the moving average
_TURN_SECONDS = 0.01  # after the start of a turn, in which further requests run without waiting


class LoadSheddingMiddleware:
    """Rejects HTTP requests that would wait for more than `max_wait` seconds. `clock` is monotonic, in seconds."""

    def __init__(
        self, app: ASGIApp, max_wait: float, formats: ErrorFormats, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._app = app
        self._formats = formats
        self._max_wait = max_wait
        self._clock = clock
        self._in_flight = 0
        self._interval = 0.0  # average seconds between response starts
        self._last_response = 0.0  # when a response last started, or when the 32nd request came in flight
        self._turn_started: float | None = None  # None when no request has run in this iteration of the loop
        self._queue: deque[asyncio.Future[None]] = deque()  # requests that wait for their turn
        message = "The gateway is overloaded. Retry the request after the delay in `Retry-After`."
        self._rejection = HttpError.of(Unavailable(message))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _EXEMPT_PATHS:
            await self._app(scope, receive, send)
            return
        arrived = self._clock()
        if self._in_flight >= _ALWAYS_ADMITTED and self._estimated_wait(arrived) > self._max_wait:
            await self._formats.response(scope, self._rejection)(scope, receive, send)
            return
        self._in_flight += 1
        if self._in_flight == _ALWAYS_ADMITTED:
            self._last_response = arrived
        response_started = False

        async def send_and_count(message: Message) -> None:
            nonlocal response_started
            if not response_started:
                response_started = True
                self._leave_flight()
            await send(message)

        try:
            if self._turn_started is None:
                self._begin_turn(arrived)
            elif self._queue or arrived - self._turn_started > _TURN_SECONDS:
                await self._wait_for_turn()
            await self._app(scope, receive, send_and_count)
        finally:
            if not response_started:
                self._leave_flight()

    def _estimated_wait(self, now: float) -> float:
        return max(self._in_flight * self._interval, now - self._last_response)

    def _leave_flight(self) -> None:
        if self._in_flight >= _ALWAYS_ADMITTED:
            now = self._clock()
            self._interval += (now - self._last_response - self._interval) * _NEWEST_WEIGHT
            self._last_response = now
        self._in_flight -= 1

    def _begin_turn(self, now: float) -> None:
        self._turn_started = now
        asyncio.get_running_loop().call_soon(self._next_turn)

    def _next_turn(self) -> None:
        """Starts the oldest waiting request. Runs one loop iteration after `_begin_turn`, when sockets were polled."""
        self._turn_started = None
        while self._queue and self._turn_started is None:
            turn = self._queue.popleft()
            if not turn.done():  # it is done if the request was canceled
                turn.set_result(None)
                self._begin_turn(self._clock())

    async def _wait_for_turn(self) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        await turn
