"""Files that are served from memory, with an entity tag.

Starlette's `FileResponse` reads a file in pieces in threads, so a flood of downloads takes many steps on the event loop
that no turn (`gateway.http.load_shedding`) precedes.
"""

import hashlib
from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

_PIECE = 262_144  # bytes


class MemoryFile:
    """A file. `headers` are those of every response; `shown` those of a response with the content."""

    def __init__(
        self, content: bytes, media_type: str, headers: Mapping[str, str], shown: Mapping[str, str] | None = None
    ) -> None:
        self._content = content
        self._media_type = media_type
        self._tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        self._headers = {"etag": self._tag, **headers}
        self._shown = {**self._headers, **(shown or {})}

    def response(self, request: Request) -> Response:
        """The content, or a 304 if the client has it."""
        known = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
        if known & {self._tag, "*"}:  # a weak comparison: proxies that compress weaken the tag (RFC 9110, 13.1.2)
            return Response(status_code=304, headers=self._headers)
        return _ResponseInPieces(self._content, headers=self._shown, media_type=self._media_type)


class _ResponseInPieces(Response):
    """Writes a piece when the client has read most of the one before it, so that only one waits to be sent."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        left = memoryview(self.body)
        while len(left) > _PIECE:
            await send({"type": "http.response.body", "body": left[:_PIECE], "more_body": True})
            left = left[_PIECE:]
        await send({"type": "http.response.body", "body": left})
