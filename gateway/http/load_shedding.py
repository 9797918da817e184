"""Refuses requests at once that would have to wait too long: better some are served in time than all too late.

How long is measured, not set: by how many are before them, and the pace at which those are answered. And so that a
refusal does not wait for what is served, requests take turns: what some of them do holds the event loop (reads on
SQLite).
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import Unavailable
from gateway.http.errors import HttpError

_ALWAYS = frozenset({"/healthz", "/readyz"})
_FEW = 32  # requests in work that are never too many, however long they take
_WEIGHT = 1 / 64  # of the newest answer in the pace
_ROUND = 0.01  # seconds for which requests may hold the event loop before it looks for what else has come


class LoadSheddingMiddleware:
    """`longest`: seconds that a request may have to wait for its answer."""

    def __init__(self, app: ASGIApp, longest: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._app = app
        self._longest = longest
        self._clock = clock
        self._in_work = 0
        self._pace = 0.0  # seconds from one answer to the next while there are more than a few
        self._answered = 0.0  # when the last one was, or there began to be so many
        self._round: float | None = None  # when the loop came to the first request of what was ready
        self._waiting: deque[asyncio.Future[None]] = deque()  # for their turn
        self._fault = HttpError.of(Unavailable("the gateway has more to do than it can: ask again in a moment"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _ALWAYS:
            await self._app(scope, receive, send)
            return
        begun = self._clock()
        if self._in_work >= _FEW and max(self._in_work * self._pace, begun - self._answered) > self._longest:
            await self._fault.answer(send)
            return
        self._in_work += 1
        if self._in_work == _FEW:
            self._answered = begun
        answered = False

        async def send_and_count(message: Message) -> None:
            nonlocal answered
            if not answered:  # from here on it is the client's pace; an event stream goes on for hours
                answered = True
                self._end()
            await send(message)

        try:
            if self._round is None:
                self._begin_round(begun)
            elif self._waiting or begun - self._round > _ROUND:
                await self._turn()
            await self._app(scope, receive, send_and_count)
        finally:
            if not answered:
                self._end()

    def _begin_round(self, now: float) -> None:
        self._round = now
        asyncio.get_running_loop().call_soon(self._next_round)

    def _next_round(self) -> None:
        """The loop has looked for what else has come: one of those who wait has its turn, before anything new."""
        self._round = None
        while self._waiting and self._round is None:
            turn = self._waiting.popleft()
            if not turn.done():  # else its request is gone
                turn.set_result(None)
                self._begin_round(self._clock())

    async def _turn(self) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        await turn

    def _end(self) -> None:
        if self._in_work >= _FEW:
            now = self._clock()
            self._pace += (now - self._answered - self._pace) * _WEIGHT
            self._answered = now
        self._in_work -= 1
