"""Request ids: taken from a valid `X-Request-Id` header or generated, and returned in every response."""

import re
from collections.abc import Iterator
from contextvars import ContextVar
from itertools import count
from secrets import token_hex

from starlette.types import ASGIApp, Message, Receive, Scope, Send

# The id of the current request, for code without access to the scope, such as error masking and logging.
REQUEST_ID: ContextVar[str] = ContextVar("REQUEST_ID", default="-")

# Ids appear in logs and headers, so characters that could forge a line are not allowed.
_VALID = re.compile(rb"[A-Za-z0-9._:=+/-]{1,64}")
_STARTS = {"http.response.start", "websocket.accept", "websocket.http.response.start"}


def request_id(scope: Scope) -> str:
    """Returns the id that the middleware assigned to the request, or `-` if the middleware is not installed."""
    state = scope.get("state")
    found = state.get("request_id", "-") if state else "-"
    return str(found)


class RequestIdMiddleware:
    """Sets the id in `scope["state"]["request_id"]`, in `REQUEST_ID` and in the response headers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._generated = _generate_ids()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        text = ""
        for header, value in scope["headers"]:
            if header == b"x-request-id":
                text = value.decode() if _VALID.fullmatch(value) else ""
                break
        text = text or next(self._generated)

        async def send_with_id(message: Message) -> None:
            if message["type"] in _STARTS:
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", text.encode())]
            await send(message)

        scope.setdefault("state", {})["request_id"] = text
        REQUEST_ID.set(text)
        await self._app(scope, receive, send_with_id)


def _generate_ids() -> Iterator[str]:
    """Yields ids that are unique across processes: a random prefix per process, and a counter.

    A random id per request would cost a system call each.
    """
    prefix = token_hex(6)
    return (f"{prefix}{number:08x}" for number in count(1))
