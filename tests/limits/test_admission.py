"""What one caller may ask at once and in a while, on every surface: the refusal in its shape, and what is left."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from gateway.config import Settings
from tests.databases import Databases
from tests.serving import Served, served

QUERY = {"query": "{ viewer { name } }"}
CREATE = 'mutation { createSnapshot(input: {machineId: "vm-11", name: "n"}) { operation { id } } }'
SUBSCRIBE = {"query": "subscription { snapshotChanged { kind } }"}
EVENTS = {"accept": "text/event-stream"}
FOREVER = 600_000.0  # a window in which nothing comes back while a test runs
MESSAGE = "You may send 3 requests in 600000 seconds: wait for {} seconds."


@pytest.fixture
def few(databases: Databases) -> Iterator[Served]:
    """Three requests, and no more."""
    settings = Settings(database_url=databases.new("sqlite"), caller_quota=3, caller_window=FOREVER)
    with served(settings, demo=True) as gateway:
        yield gateway


@pytest.fixture
def narrow(databases: Databases) -> Iterator[Served]:
    """Two streams and two subscriptions of one caller."""
    settings = Settings(database_url=databases.new("sqlite"), caller_streams=2, caller_subscriptions=2)
    with served(settings, demo=True) as gateway:
        yield gateway


@contextmanager
def socket(gateway: Served) -> Iterator[ClientConnection]:
    """An open WebSocket that has asked to be let in."""
    url = gateway.url.replace("http", "ws") + "/graphql"
    with connect(url, subprotocols=["graphql-transport-ws"], proxy=None) as opened:  # type: ignore[list-item]
        opened.send('{"type": "connection_init"}')
        yield opened


def say(socket: ClientConnection, **message: Any) -> None:
    socket.send(json.dumps(message))


def hear(socket: ClientConnection) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(socket.recv(10))
    return message


def test_what_is_left_is_told(few: Served) -> None:
    answers = [
        few.http.post("/graphql", json=QUERY),
        few.http.get("/api"),
        few.http.get("/graphql", params=QUERY, headers={"accept": "application/json"}),
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert [answer.headers["ratelimit"] for answer in answers] == [f'"caller";r={n};t=200000' for n in (2, 1, 0)]
    assert {answer.headers["ratelimit-policy"] for answer in answers} == {'"caller";q=3;w=600000'}
    assert few.http.get("/healthz").headers.get("ratelimit") is None


def test_what_is_too_much_is_refused_in_every_shape(few: Served) -> None:
    before = few.ask("{ snapshots { totalCount } }")["snapshots"]["totalCount"]
    assert few.http.post("/graphql", json={"query": "{"}).status_code == 200  # a mistake counts
    with socket(few) as open_one:  # and so does a connection
        assert hear(open_one) == {"type": "connection_ack"}
        say(open_one, id="1", type="subscribe", payload={"query": CREATE})
        refused = hear(open_one)
        wait = int(refused["payload"][0]["message"].split()[-2])
        assert refused == {
            "id": "1",
            "type": "error",
            "payload": [{"message": MESSAGE.format(wait), "extensions": {"code": "LIMIT_EXCEEDED", "retryable": True}}],
        }
    for headers in ({}, {"accept": "application/graphql-response+json"}, EVENTS):
        answer = few.http.post("/graphql", json={"query": CREATE}, headers=headers)
        wait = int(answer.headers["retry-after"])
        assert 150_000 < wait <= 200_000
        assert answer.status_code == 429
        assert answer.headers["ratelimit"] == '"caller";r=0;t=200000'
        assert answer.json() == {
            "errors": [{"message": MESSAGE.format(wait), "extensions": {"code": "LIMIT_EXCEEDED", "retryable": True}}]
        }
    answer = few.http.post("/api/vms/11/snapshots", json={"name": "n"})
    assert answer.status_code == 429
    assert answer.json()["error"]["kind"] == "too_many_requests"
    assert answer.headers["retry-after"] == answer.json()["error"]["message"].split()[-2]
    with socket(few) as refused_one, pytest.raises(ConnectionClosed) as closed:
        refused_one.recv(10)
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason[:20]) == (1013, "You may send 3 reque")

    async def count(tx: Any) -> int:
        return int((await tx.rows("SELECT count(*) FROM snapshot"))[0][0])

    assert few.run(few.gateway.database.read(count)) == before


def test_streams_and_subscriptions(narrow: Served) -> None:
    """Over WebSocket and events together; what ends makes room."""
    with socket(narrow) as first:
        assert hear(first) == {"type": "connection_ack"}
        say(first, id="1", type="subscribe", payload=SUBSCRIBE)
        with narrow.http.stream("POST", "/graphql", json=SUBSCRIBE, headers=EVENTS) as stream:
            assert stream.status_code == 200
            lines = stream.iter_lines()
            assert next(lines) == ":"
            say(first, id="2", type="subscribe", payload=SUBSCRIBE)
            refused = hear(first)
            assert (refused["id"], refused["type"]) == ("2", "error")
            assert refused["payload"] == [
                {
                    "message": "You have 2 subscriptions: end one first.",
                    "extensions": {"code": "LIMIT_EXCEEDED", "retryable": True},
                }
            ]
            answer = narrow.http.post("/graphql", json=SUBSCRIBE, headers=EVENTS)
            assert (answer.status_code, answer.headers["retry-after"]) == (429, "10")
            assert answer.json()["errors"][0]["message"] == "You have 2 streams open: close one first."
            with socket(narrow) as third, pytest.raises(ConnectionClosed) as closed:
                third.recv(10)
            assert closed.value.rcvd is not None
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (
                1013,
                "You have 2 streams open: close one first.",
            )
            assert narrow.ask("{ viewer { name } }") == {"viewer": {"name": "local"}}
        say(first, id="1", type="complete")
        say(first, type="ping")
        assert hear(first) == {"type": "pong"}
        say(first, id="3", type="subscribe", payload=SUBSCRIBE)
        while stream_status(narrow) == 429:  # until the end of the stream is noticed
            pass


def stream_status(gateway: Served) -> int:
    with gateway.http.stream("POST", "/graphql", json=SUBSCRIBE, headers=EVENTS) as stream:
        return stream.status_code
