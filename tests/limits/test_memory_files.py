"""Files that are served from memory: in pieces, without threads, and not at all to a client that has them."""

from typing import Any

import pytest
from starlette.requests import Request

from gateway.web.memory_file import MemoryFile

FILE = MemoryFile(b"0123456789" * 60_000, "text/css", {"cache-control": "no-cache"}, {"content-disposition": "inline"})


def get(file: MemoryFile, **headers: str) -> list[Any]:
    """The ASGI messages of the response. They are sent without waiting for anything but the client."""
    encoded = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "GET", "headers": encoded}
    sent: list[Any] = []

    async def receive() -> Any:
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message)

    serving: Any = file.response(Request(scope))(scope, receive, send)
    with pytest.raises(StopIteration):
        serving.send(None)
    return sent


def test_a_file_is_sent_in_pieces() -> None:
    start, *pieces = get(FILE)
    assert start["status"] == 200
    assert [(len(piece["body"]), piece.get("more_body", False)) for piece in pieces] == [
        (262_144, True),
        (262_144, True),
        (75_712, False),
    ]
    assert b"".join(piece["body"] for piece in pieces) == b"0123456789" * 60_000
    headers = {name: value for name, value in start["headers"] if name != b"etag"}
    assert headers == {
        b"cache-control": b"no-cache",
        b"content-disposition": b"inline",
        b"content-length": b"600000",
        b"content-type": b"text/css; charset=utf-8",
    }


def test_a_client_that_has_the_file_gets_a_304() -> None:
    tag = dict(get(FILE)[0]["headers"])[b"etag"].decode()
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        start, body = get(FILE, if_none_match=known)
        assert (start["status"], bytes(body["body"])) == (304, b"")
        assert dict(start["headers"]) == {b"etag": tag.encode(), b"cache-control": b"no-cache"}
    assert get(FILE, if_none_match='"other"')[0]["status"] == 200
