"""Reads the body of a request within bounds: of type, of length and of time."""

from starlette.types import Receive

from gateway.deadlines import Deadline
from gateway.errors import ErrorCode
from gateway.http.errors import HttpError
from gateway.http.negotiation import is_json

_ACCEPT_POST = (b"accept-post", b"application/json")
_CLOSE = (b"connection", b"close")


class ClientGone(Exception):
    """Nobody is left to answer."""


async def read_json_body(headers: dict[bytes, bytes], receive: Receive, limit: int, deadline: Deadline) -> bytes:
    """The bytes of a JSON body. Raises HttpError 415, 413 or 408, and ClientGone."""
    content_type = headers.get(b"content-type", b"")
    if not is_json(content_type):
        raise HttpError(415, "Send JSON in UTF-8, with `Content-Type: application/json`.", headers=[_ACCEPT_POST])
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise HttpError(415, "Send the body without a `Content-Encoding`.", headers=[(b"accept-encoding", b"identity")])
    length = headers.get(b"content-length", b"")
    if length.isdigit() and int(length) > limit:
        raise _too_long(limit)
    try:
        return await deadline.keep(_read(receive, limit))
    except TimeoutError:
        raise HttpError(
            408, f"The body did not arrive within {deadline.seconds:g} seconds.", headers=[_CLOSE]
        ) from None


async def _read(receive: Receive, limit: int) -> bytes:
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body", False):
        body: bytes = message.get("body", b"")  # as most requests come: in one piece, which is not copied
        if len(body) > limit:
            raise _too_long(limit)
        return body
    whole = bytearray()
    while True:
        if message["type"] == "http.disconnect":
            raise ClientGone
        whole += message.get("body", b"")
        if len(whole) > limit:
            raise _too_long(limit)
        if not message.get("more_body", False):
            return bytes(whole)
        message = await receive()


def _too_long(limit: int) -> HttpError:
    return HttpError(413, f"The body is longer than {limit} bytes.", ErrorCode.LIMIT_EXCEEDED)
