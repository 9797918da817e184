"""Subscriptions as a client holds them, by each of the two transports."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import httpx2
from websockets.sync.client import connect

from tests.serving import Served

Bodies = Iterator[dict[str, Any]]
Follow = Callable[..., Any]


class Server(Protocol):
    """What is asked, by whomever its client stands for."""

    @property
    def http(self) -> httpx2.Client: ...


@contextmanager
def by_sse(
    gateway: Server, query: str, *, headers: dict[str, str] | None = None, members: Any = None, **variables: Any
) -> Iterator[Bodies]:
    """Subscribed when the block begins: the first comment comes after the source has begun to listen."""
    body = {"query": query, "variables": variables, **(members or {})}
    headers = {"accept": "text/event-stream", **(headers or {})}
    with gateway.http.stream("POST", "/graphql", json=body, headers=headers) as answer:
        assert answer.status_code == 200
        lines = answer.iter_lines()
        assert next(lines) == ":"
        yield (json.loads(line[6:]) for line in lines if line.startswith("data: {"))


@contextmanager
def by_websocket(gateway: Served, query: str, *, members: Any = None, **variables: Any) -> Iterator[Bodies]:
    """Subscribed when the block begins: the pong comes after it."""
    url = gateway.url.replace("http://", "ws://") + "/graphql"
    with connect(url, subprotocols=["graphql-transport-ws"], proxy=None) as socket:  # type: ignore[list-item]

        def hear() -> dict[str, Any]:
            message: dict[str, Any] = json.loads(socket.recv(20))
            return message

        def bodies() -> Bodies:
            while (message := early.pop(0) if early else hear())["type"] == "next":
                yield message["payload"]
            if message["type"] == "error":
                yield {"errors": message["payload"]}
            else:
                assert message == {"id": "1", "type": "complete"}

        socket.send('{"type": "connection_init"}')
        assert hear() == {"type": "connection_ack"}
        payload = {"query": query, "variables": variables, **(members or {})}
        socket.send(json.dumps({"id": "1", "type": "subscribe", "payload": payload}))
        socket.send('{"type": "ping"}')
        early = [*iter(hear, {"type": "pong"})]
        yield bodies()
