"""One id per request: taken from `X-Request-Id` if it is sane, else made; every answer tells it."""

import re
from collections.abc import Iterator
from contextvars import ContextVar
from itertools import count
from secrets import token_hex

from starlette.types import ASGIApp, Message, Receive, Scope, Send

# For what knows no scope, such as the masking of errors and the log.
REQUEST_ID: ContextVar[str] = ContextVar("REQUEST_ID", default="-")

# It goes into logs and headers: nothing that could break or forge a line.
_SANE = re.compile(rb"[A-Za-z0-9._:=+/-]{1,64}")
_STARTS = {"http.response.start", "websocket.accept", "websocket.http.response.start"}


def request_id(scope: Scope) -> str:
    """The id that the middleware gave this request; `-` where it does not run."""
    state = scope.get("state")
    found = state.get("request_id", "-") if state else "-"
    return str(found)


class RequestIdMiddleware:
    """Puts the id into `scope["state"]["request_id"]`, into `REQUEST_ID` and into the answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._names = _names()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        text = ""
        for header, value in scope["headers"]:
            if header == b"x-request-id":
                text = value.decode() if _SANE.fullmatch(value) else ""
                break
        text = text or next(self._names)

        async def send_with_id(message: Message) -> None:
            if message["type"] in _STARTS:
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", text.encode())]
            await send(message)

        scope.setdefault("state", {})["request_id"] = text
        REQUEST_ID.set(text)
        await self._app(scope, receive, send_with_id)


def _names() -> Iterator[str]:
    """Unlike those of any other process, and in order: a random one costs a system call for each request."""
    start = token_hex(6)
    return (f"{start}{number:08x}" for number in count(1))
