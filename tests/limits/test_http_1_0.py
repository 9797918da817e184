"""Clients of HTTP/1.0: with users they get what they know, and without users only health checks are answered."""

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest
import uvicorn

from gateway.config import Settings
from gateway.server.connections import BoundedServer, BoundedWebSocketProtocol, ClientLimits
from tests.access.clients import create_token
from tests.databases import Databases
from tests.limits.bounded_server import read_all
from tests.serving import Served, served


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


class Port:
    """A port on which a gateway is served as by `gateway serve`."""

    def __init__(self, number: int, token: str) -> None:
        self.number = number
        self.token = token

    def send(self, request: str, *headers: str, body: str = "", version: str = "1.0") -> Answer:
        """The response to a request, which ends with the connection."""
        lines = [f"{request} HTTP/{version}", *headers, *([f"content-length: {len(body)}"] if body else []), "", body]
        with socket.create_connection(("127.0.0.1", self.number), 20) as connection:
            connection.sendall("\r\n".join(lines).encode())
            head, _, content = read_all(connection).partition(b"\r\n\r\n")
        status, *fields = head.decode().split("\r\n")
        return Answer(int(status.split()[1]), dict(field.split(": ", 1) for field in fields), content)

    def ask(self, request: str, *headers: str, body: str = "") -> Answer:
        """The same as the user."""
        return self.send(request, "host: localhost", f"authorization: Bearer {self.token}", *headers, body=body)


@contextmanager
def bounded(gateway: Served) -> Iterator[int]:
    """Serves the gateway with `BoundedServer` on another port."""
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        ClientLimits(gateway.gateway.app),
        interface="asgi3",
        ws=BoundedWebSocketProtocol,
        lifespan="off",
        log_config=None,
        access_log=False,
    )
    server = BoundedServer(config, Settings())
    server.lifespan = config.lifespan_class(config)

    async def stop() -> None:
        for one in server.servers:
            one.close()
        for connection in list(server.server_state.connections):
            connection.shutdown()
        await asyncio.sleep(0)

    with listening:
        gateway.run(server.startup([listening]))
        try:
            yield listening.getsockname()[1]
        finally:
            gateway.run(stop())


@pytest.fixture(scope="module")
def port(databases: Databases) -> Iterator[Port]:
    """A gateway with a user."""
    url = databases.new("sqlite", demo=True)
    token = create_token(url)
    with served(Settings(database_url=url)) as gateway, bounded(gateway) as number:
        yield Port(number, token)


def graphql(query: str) -> tuple[str, str]:
    return "content-type: application/json", json.dumps({"query": query})


def test_every_route(port: Port) -> None:
    """No chunks, and the connection is closed: the body is what the length says, or what arrives."""
    kind, body = graphql("{ viewer { name } }")
    answers = {
        "/": port.ask("GET /"),
        "/healthz": port.ask("GET /healthz"),
        "/schema.graphql": port.ask("GET /schema.graphql"),
        "/graphiql": port.ask("GET /graphiql"),
        "/api": port.ask("GET /api"),
        "/api/vms": port.ask("GET /api/vms?expand=resources"),
        "POST": port.ask("POST /graphql", kind, body=body),
        "unknown": port.ask("GET /nothing"),
        "keep-alive": port.ask("GET /healthz", "connection: keep-alive"),
        "HEAD": port.ask("HEAD /api/vms"),
    }
    for name, answer in answers.items():
        assert answer.headers["connection"] == "close", name
        assert "transfer-encoding" not in answer.headers, name
        length = answer.headers.get("content-length")
        assert name == "HEAD" or length is None or int(length) == len(answer.body), name
    assert {name: answer.status for name, answer in answers.items() if answer.status != 200} == {"unknown": 404}
    assert json.loads(answers["POST"].body) == {"data": {"viewer": {"name": "ci"}}}
    assert len(json.loads(answers["/api/vms"].body)["resources"]) > 10


def test_subscriptions(port: Port) -> None:
    """An event stream has no length, so it is streamed until the connection is closed."""
    kind, body = graphql('subscription { operationUpdated(id: "operation-1") { id isDone } }')
    answer = port.ask("POST /graphql", kind, "accept: text/event-stream", body=body)
    assert (answer.status, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert "transfer-encoding" not in answer.headers
    events = [line for line in answer.body.decode().split("\n") if line.startswith(("event", "data"))]
    assert events == [
        "event: next",
        'data: {"data":{"operationUpdated":{"id":"operation-1","isDone":true}}}',
        "event: complete",
        "data: ",
    ]


def test_what_http_1_0_does_not_have(port: Port) -> None:
    chunks = port.send("POST /graphql", "host: localhost", "transfer-encoding: chunked", body="2\r\n{}\r\n0\r\n\r\n")
    assert chunks.status == 400
    kind, body = graphql("{ viewer { name } }")
    assert port.ask("POST /graphql", kind, "expect: 100-continue", body=body).status == 200
    websocket = ("connection: upgrade", "upgrade: websocket", "sec-websocket-version: 13", "sec-websocket-key: eA==")
    assert port.ask("GET /graphql", *websocket).status == 400


HEALTH = ["/healthz", "/readyz"]


@pytest.mark.parametrize("path", HEALTH)
def test_health_checks_are_always_answered(port: Port, path: str) -> None:
    """With any host, and by HTTP/1.0 without one. Nothing else is."""
    assert port.send(f"GET {path}").status == 200
    for version in ("1.0", "1.1"):
        other = ("host: 10.2.3.4:8000", "connection: close")
        assert port.send(f"GET {path}", *other, version=version).status == 200
        assert port.send(f"HEAD {path}", *other, version=version).status == 200
        assert port.send("GET /", *other, version=version).status == 421
        assert port.send(f"GET {path}/", *other, version=version).status == 421
        assert port.send(f"POST {path}", *other, version=version).status == 421
    assert port.send("GET /").status == 400
    assert port.send(f"GET {path}", "connection: close", version="1.1").status == 400
    assert port.send(f"GET {path}", "host: a", "host: b").status == 400


def test_without_users_only_health_checks_are_answered(databases: Databases) -> None:
    with served(Settings(database_url=databases.new("sqlite"))) as gateway, bounded(gateway) as number:
        port = Port(number, "")
        for path in HEALTH:
            assert port.send(f"GET {path}").status == 200
            assert port.send(f"GET {path}", "host: balancer.example").status == 200
        for path in ("/", "/api", "/graphql"):
            assert port.send(f"GET {path}", "host: localhost").status == 403
