"""Refuses requests at once while those before them take too long: better some are served in time than all too late.

Whether it is too crowded is measured, not set: how long recent requests took to be answered, and how long the event
loop has been busy with others before it came to this one.
"""

import asyncio
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.api.faults import Fault
from gateway.errors import Unavailable

_ALWAYS = frozenset({"/healthz", "/readyz"})
_FEW = 32  # requests in work that are never too many, however long they take
_WEIGHT = 1 / 16  # of the newest request in the average


class CrowdMiddleware:
    """`longest`: seconds that answers may take on average before more requests are refused."""

    def __init__(self, app: ASGIApp, longest: float) -> None:
        self._app = app
        self._longest = longest
        self._in_work = 0
        self._average = 0.0  # seconds until an answer begins
        self._round: float | None = None  # when the loop came to the first of what was ready
        self._fault = Fault.of(Unavailable("the gateway has more to do than it can: ask again in a moment"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _ALWAYS:
            await self._app(scope, receive, send)
            return
        begun = time.monotonic()
        if self._is_crowded(begun):
            await self._fault.answer(send)
            return
        self._in_work += 1
        answered = False

        async def send_and_count(message: Message) -> None:
            nonlocal answered
            if not answered:  # from here on it is the client's pace; an event stream goes on for hours
                answered = True
                self._end(begun)
            await send(message)

        try:
            await self._app(scope, receive, send_and_count)
        finally:
            if not answered:
                self._end(begun)

    def _is_crowded(self, begun: float) -> bool:
        if self._round is None:  # the first of those that the loop has found ready at the same time
            self._round = begun
            asyncio.get_running_loop().call_soon(self._next_round)
        elif begun - self._round > self._longest:
            return True
        return self._in_work >= _FEW and self._average > self._longest

    def _next_round(self) -> None:
        self._round = None

    def _end(self, begun: float) -> None:
        self._in_work -= 1
        self._average += (time.monotonic() - begun - self._average) * _WEIGHT
