"""Reads request bodies, with limits on media type, length and time."""

from collections.abc import Mapping

from starlette.types import Receive

from gateway.deadlines import Deadline
from gateway.errors import ErrorCode
from gateway.http.errors import HttpError
from gateway.http.negotiation import is_json

_ACCEPT_POST = (b"accept-post", b"application/json")
_CLOSE = (b"connection", b"close")


class ClientDisconnected(Exception):
    """The client has disconnected, so no response can be sent."""


def sends_body(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a body follows the headers, whatever the method (RFC 9112, 6)."""
    return b"transfer-encoding" in headers or headers.get(b"content-length", b"0").strip(b"0") != b""


async def read_body(
    headers: Mapping[bytes, bytes], receive: Receive, limit: int, deadline: Deadline, *, json_only: bool
) -> bytes:
    """Returns a body of at most `limit` bytes. `json_only`: its media type must be `application/json`.

    Raises HttpError 415 (media type or content encoding), 413 (length) or 408 (time), and ClientDisconnected.
    """
    if json_only and not is_json(headers.get(b"content-type", b"")):
        raise HttpError(
            415, "The body must be JSON in UTF-8. Send `Content-Type: application/json`.", headers=[_ACCEPT_POST]
        )
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        message = "Compressed bodies are not supported. Send the body without `Content-Encoding`."
        raise HttpError(415, message, headers=[(b"accept-encoding", b"identity")])
    length = headers.get(b"content-length", b"")
    if length.isdigit() and int(length) > limit:
        raise _too_long(limit)
    try:
        return await deadline.run(_read(receive, limit))
    except TimeoutError:
        raise HttpError(
            408, f"The body did not arrive within {deadline.seconds:g} seconds.", headers=[_CLOSE]
        ) from None


async def _read(receive: Receive, limit: int) -> bytes:
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body", False):
        body: bytes = message.get("body", b"")  # most bodies arrive in one piece, which is returned without a copy
        if len(body) > limit:
            raise _too_long(limit)
        return body
    whole = bytearray()
    while True:
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        whole += message.get("body", b"")
        if len(whole) > limit:
            raise _too_long(limit)
        if not message.get("more_body", False):
            return bytes(whole)
        message = await receive()


def _too_long(limit: int) -> HttpError:
    return HttpError(413, f"The body is longer than {limit} bytes.", ErrorCode.LIMIT_EXCEEDED)
