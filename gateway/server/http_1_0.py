"""Responses to clients of HTTP/1.0, which do not know chunked bodies: the end of the connection is that of the body.

uvicorn sends every body without a `Content-Length` in chunks, so these clients would take the sizes of the chunks for
parts of it (RFC 9112, 6.3 and 7.1).
"""

from collections.abc import MutableMapping
from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from gateway.access.admission import Application


def close_delimited(app: Application, cycle: RequestResponseCycle) -> Application:
    """The application for a request by HTTP/1.0. The connection is closed after the response."""

    async def run(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        has_length = True

        async def send_unchunked(message: MutableMapping[str, Any]) -> None:
            nonlocal has_length
            if message["type"] == "http.response.start":
                has_length = any(name.lower() == b"content-length" for name, _ in message.get("headers", ()))
                if not has_length:
                    cycle.chunked_encoding = False
            elif not has_length:
                cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await app(scope, receive, send_unchunked)

    cycle.keep_alive = False
    cycle.waiting_for_100_continue = False  # the client does not know the status 100 either
    return run
