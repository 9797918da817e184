"""Responses: a status, a JSON body or none, and headers."""

from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.types import Send

from gateway.reads.serialization import dump_in_slices

_JSON = b"application/json; charset=utf-8"
_TEXT = b"text/plain; charset=utf-8"
_NO_STORE = (b"cache-control", b"no-store")  # callers see different rows, and rights change


@dataclass(frozen=True, slots=True)
class RestResponse:
    """A response. An empty `body` sends none."""

    body: bytes = b""
    status: int = 200
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    media_type: bytes = _JSON


def json(body: Any, status: int = 200) -> RestResponse:
    """A JSON response."""
    return RestResponse(orjson.dumps(body), status)


def plain_text(text: str) -> RestResponse:
    """A response that is not JSON."""
    return RestResponse(text.encode(), media_type=_TEXT)


async def sliced_json(body: Any) -> RestResponse:
    """A JSON response that may be large: other requests run while it is serialized."""
    return RestResponse(await dump_in_slices(body))


def result(body: dict[str, Any]) -> RestResponse:
    """The response to an action on one resource. A refusal is a 400."""
    return json(body, 200 if body["success"] else 400)


def results(found: list[dict[str, Any]], *, bulk: bool) -> RestResponse:
    """The response to an action on a collection. A bulk request is always a 200: each result has its own `success`."""
    return json({"results": found}, 200 if bulk or found[0]["success"] else 400)


async def send_response(send: Send, response: RestResponse) -> None:
    """Sends a response. A 204 has no body and no content type."""
    headers = [_NO_STORE, *response.headers]
    if response.status != 204:
        headers += [(b"content-type", response.media_type), (b"content-length", str(len(response.body)).encode())]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})
