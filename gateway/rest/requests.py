"""A request of the REST API as its routes see it, and how its parts are read from ASGI."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.types import Receive, Scope

from gateway.deadlines import Deadline
from gateway.rest.entry import VERSIONS
from gateway.rest.errors import RestError, bad_request
from gateway.rest.query import Query
from gateway.rest.reading import Asker

PREFIX = "/api"
QUERY_LIMIT = 65_536  # bytes: filters come in the URL, and some are long

_VERSION = re.compile(r"v\d[\w.\-]*")


class ClientGone(Exception):
    """Nobody is left to answer."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request whose caller is known."""

    method: str
    path: str
    segments: tuple[str, ...]  # behind `/api` and the version
    query: Query
    members: Mapping[str, Any]  # of the body
    headers: Mapping[bytes, bytes]
    asker: Asker
    root: str  # the API's URL without a version

    @property
    def url(self) -> str:
        """This request's own, without its query."""
        return "/".join((self.asker.base, *self.segments))

    @property
    def key(self) -> str | None:
        """Makes a retry safe, as `idempotencyKey` does in GraphQL."""
        key = self.headers.get(b"idempotency-key")
        return None if key is None else key.decode("latin-1")


def headers_of(scope: Scope) -> dict[bytes, bytes]:
    """The headers by name; a repeated one is a list (RFC 9110, 5.3)."""
    found: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        found[name] = found[name] + b", " + value if name in found else value
    return found


def path_of(scope: Scope) -> str:
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", "")).rstrip("/")


def split_path(path: str) -> tuple[str | None, tuple[str, ...]]:
    """The version, if the path names one, and the segments after it. Raises RestError for an unsupported version."""
    segments = path.removeprefix(PREFIX).strip("/").split("/")
    if not _VERSION.fullmatch(segments[0]):
        return None, tuple(segment for segment in segments if segment)
    version = segments[0][1:]
    if version not in VERSIONS:
        raise bad_request(f"Unsupported API Version {version} specified")
    return version, tuple(segments[1:])


def root_of(scope: Scope, public_url: str | None) -> str:
    """Where links begin: what the gateway is known as, else the address it listens on. Never what `Host` says."""
    if public_url is None:
        host, port = scope.get("server") or ("127.0.0.1", 80)
        bracketed = f"[{host}]" if ":" in host else host
        public_url = f"{scope['scheme']}://{bracketed}" + ("" if port is None else f":{port}") + scope["root_path"]
    return public_url.rstrip("/") + PREFIX


async def read_body(headers: Mapping[bytes, bytes], receive: Receive, limit: int, deadline: Deadline) -> bytes:
    """Raises RestError 415, 413 or 408, and ClientGone."""
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        message = "Send the body without a Content-Encoding"
        raise RestError(415, "unsupported_media_type", message, "Api::UnsupportedMediaTypeError")
    try:
        return await deadline.keep(_read(receive, limit))
    except TimeoutError:
        message = f"The body did not arrive within {deadline.seconds:g} seconds"
        raise RestError(408, "request_timeout", message, "Api::RequestTimeoutError") from None


async def _read(receive: Receive, limit: int) -> bytes:
    whole = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        whole += message.get("body", b"")
        if len(whole) > limit:
            reason = f"The body is longer than {limit} bytes"
            raise RestError(413, "payload_too_large", reason, "Api::PayloadTooLargeError")
        if not message.get("more_body", False):
            return bytes(whole)
