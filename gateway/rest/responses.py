"""Answers: a status, a JSON body or none, and headers."""

from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.types import Send

_JSON = (b"content-type", b"application/json; charset=utf-8")
_NO_STORE = (b"cache-control", b"no-store")  # what one caller may see now, another may not, or not any more


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent. An empty body is none."""

    body: bytes = b""
    status: int = 200
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)


def json(body: Any, status: int = 200) -> Answer:
    return Answer(orjson.dumps(body), status)


def result(body: dict[str, Any]) -> Answer:
    """An action on one thing: a business refusal is a 400."""
    return json(body, 200 if body["success"] else 400)


def results(found: list[dict[str, Any]], *, bulk: bool) -> Answer:
    """Of several, each result speaks for itself, and the request was served."""
    return json({"results": found}, 200 if bulk or found[0]["success"] else 400)


async def reply(send: Send, answer: Answer) -> None:
    headers = [_NO_STORE, *answer.headers]
    if answer.status != 204:
        headers += [_JSON, (b"content-length", str(len(answer.body)).encode())]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
