"""A request of the REST API, and how its parts are read from ASGI."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.types import Scope

from gateway.http.origins import parse_origin
from gateway.rest.entry_point import VERSIONS
from gateway.rest.errors import bad_request
from gateway.rest.parameters import Query
from gateway.rest.reader import Requester

PREFIX = "/api"
MAX_QUERY_BYTES = 65_536  # of the URL's query; it contains the filters, which may be long

_VERSION = re.compile(r"v\d[\w.\-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """An authenticated request."""

    method: str
    path: str
    segments: tuple[str, ...]  # after `/api` and the version
    query: Query
    members: Mapping[str, Any]  # of the body
    headers: Mapping[bytes, bytes]
    requester: Requester
    root: str  # the API's URL without a version

    @property
    def url(self) -> str:
        """The URL of the request, without its query."""
        collection = self.requester.collection
        segments = self.segments if collection is None else (collection, *self.segments[1:])
        return "/".join((self.requester.base, *segments))

    @property
    def idempotency_key(self) -> str | None:
        """The header Idempotency-Key, which has the meaning of `idempotencyKey` in GraphQL."""
        key = self.headers.get(b"idempotency-key")
        return None if key is None else key.decode("latin-1")


def split_path(path: str) -> tuple[str | None, tuple[str, ...]]:
    """The version, if the path names one, and the segments after it. Raises RestError for an unsupported version."""
    segments = path.removeprefix(PREFIX).strip("/").split("/")
    if not _VERSION.fullmatch(segments[0]):
        return None, tuple(segment for segment in segments if segment)
    version = segments[0][1:]
    if version not in VERSIONS:
        raise bad_request(f"Unsupported API Version {version} specified")
    return version, tuple(segments[1:])


def api_root(scope: Scope, headers: Mapping[bytes, bytes], public_url: str | None) -> str:
    """The API's URL for links: from `public_url` or, without it, the header Host of the request. Raises RestError.

    So links lead back to the gateway by the name and port that the client uses. A host that is not allowed never
    becomes a link, because BrowserSafetyMiddleware has refused it.
    """
    if public_url is None:
        origin = parse_origin(f"{scope['scheme']}://{headers.get(b'host', b'').decode('latin-1')}")
        if origin is None:
            raise bad_request("The `Host` header is not valid.")
        public_url = f"{origin}{scope['root_path']}"
    return public_url.rstrip("/") + PREFIX
