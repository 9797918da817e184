"""Subscription clients for both transports: server-sent events and WebSocket."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import httpx2
from websockets.sync.client import connect

from tests.serving import Served
from tests.waiting import within

Bodies = Iterator[dict[str, Any]]
Subscribe = Callable[..., Any]


class Server(Protocol):
    """A gateway with an HTTP client, which may have credentials."""

    @property
    def http(self) -> httpx2.Client: ...


@contextmanager
def subscribe_by_sse(
    gateway: Server, query: str, *, headers: dict[str, str] | None = None, members: Any = None, **variables: Any
) -> Iterator[Bodies]:
    """Subscribes over SSE before the block begins: the first comment is sent after the source has started to listen."""
    body = {"query": query, "variables": variables, **(members or {})}
    headers = {"accept": "text/event-stream", **(headers or {})}
    with gateway.http.stream("POST", "/graphql", json=body, headers=headers) as response:
        assert response.status_code == 200
        lines = within(response.iter_lines())
        assert next(lines) == ":"
        yield (json.loads(line[6:]) for line in lines if line.startswith("data: {"))


@contextmanager
def subscribe_by_websocket(gateway: Served, query: str, *, members: Any = None, **variables: Any) -> Iterator[Bodies]:
    """Subscribes over WebSocket before the block begins: the pong is sent after the subscription has started."""
    url = gateway.url.replace("http://", "ws://") + "/graphql"
    with connect(url, subprotocols=["graphql-transport-ws"], proxy=None) as socket:  # type: ignore[list-item]

        def receive() -> dict[str, Any]:
            message: dict[str, Any] = json.loads(socket.recv(60))
            return message

        def bodies() -> Bodies:
            while (message := early.pop(0) if early else receive())["type"] == "next":
                yield message["payload"]
            if message["type"] == "error":
                yield {"errors": message["payload"]}
            else:
                assert message == {"id": "1", "type": "complete"}

        socket.send('{"type": "connection_init"}')
        assert receive() == {"type": "connection_ack"}
        payload = {"query": query, "variables": variables, **(members or {})}
        socket.send(json.dumps({"id": "1", "type": "subscribe", "payload": payload}))
        socket.send('{"type": "ping"}')
        early = [*iter(receive, {"type": "pong"})]
        yield bodies()
