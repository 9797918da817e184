"""Rate limits and stream limits of a caller on every surface: the errors, and the rate limit headers."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from gateway.config import Settings
from tests.databases import SLOW_KINDS, Databases
from tests.serving import Served, served
from tests.waiting import until

QUERY = {"query": "{ viewer { name } }"}
CREATE = 'mutation { createSnapshot(input: {machineId: "vm-11", name: "n"}) { operation { id } } }'
SUBSCRIBE = {"query": "subscription { snapshotChanged { kind } }"}
EVENTS = {"accept": "text/event-stream"}
LONG_WINDOW = 600_000.0  # seconds; no requests are refilled while a test runs
MESSAGE = "Rate limit exceeded: at most 3 requests in 600000 seconds. Retry after {} seconds."


@pytest.fixture
def three_requests(databases: Databases) -> Iterator[Served]:
    """A gateway with a quota of three requests."""
    settings = Settings(database_url=databases.new("sqlite", demo=True), caller_quota=3, caller_window=LONG_WINDOW)
    with served(settings) as gateway:
        yield gateway


@pytest.fixture
def two_streams(databases: Databases) -> Iterator[Served]:
    """A gateway with a limit of two streams and two subscriptions per caller."""
    settings = Settings(database_url=databases.new("sqlite", demo=True), caller_streams=2, caller_subscriptions=2)
    with served(settings) as gateway:
        yield gateway


@contextmanager
def socket(gateway: Served) -> Iterator[ClientConnection]:
    """An open WebSocket that has sent `connection_init`."""
    url = gateway.url.replace("http", "ws") + "/graphql"
    with connect(url, subprotocols=["graphql-transport-ws"], proxy=None) as opened:  # type: ignore[list-item]
        opened.send('{"type": "connection_init"}')
        yield opened


def send(socket: ClientConnection, **message: Any) -> None:
    socket.send(json.dumps(message))


def receive(socket: ClientConnection) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(socket.recv(60))
    return message


@pytest.mark.parametrize("kind", SLOW_KINDS)
def test_a_caller_is_not_locked_out_after_the_clock_was_set_back(databases: Databases, kind: str) -> None:
    """The usage was recorded by a clock that was a day ahead. It counts as at most two windows."""
    window = 100.0
    settings = Settings(database_url=databases.new(kind, demo=True), caller_quota=20, caller_window=window)
    with served(settings) as gateway:
        ahead = f"INSERT INTO caller_use VALUES ('address 127.0.0.1', {time.time() + 86_400})"
        gateway.run(gateway.gateway.database.write(lambda tx: tx.rows(ahead)))
        refused = until(lambda: next(iter(r for r in [gateway.http.post("/graphql", json=QUERY)] if r.is_error), None))
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) <= 2 * window


def test_responses_have_rate_limit_headers(three_requests: Served) -> None:
    answers = [
        three_requests.http.post("/graphql", json=QUERY),
        three_requests.http.get("/api"),
        three_requests.http.get("/graphql", params=QUERY, headers={"accept": "application/json"}),
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert [answer.headers["ratelimit"] for answer in answers] == [f'"caller";r={n};t=200000' for n in (2, 1, 0)]
    assert {answer.headers["ratelimit-policy"] for answer in answers} == {'"caller";q=3;w=600000'}
    assert three_requests.http.get("/healthz").headers.get("ratelimit") is None


def test_the_rate_limit_applies_to_every_surface_and_transport(three_requests: Served) -> None:
    before = three_requests.ask("{ snapshots { totalCount } }")["snapshots"]["totalCount"]
    assert three_requests.http.post("/graphql", json={"query": "{"}).status_code == 200  # an invalid request counts
    with socket(three_requests) as open_one:  # and so does a WebSocket
        assert receive(open_one) == {"type": "connection_ack"}
        send(open_one, id="1", type="subscribe", payload={"query": CREATE})
        refused = receive(open_one)
        wait = int(refused["payload"][0]["message"].split()[-2])
        assert refused == {
            "id": "1",
            "type": "error",
            "payload": [{"message": MESSAGE.format(wait), "extensions": {"code": "LIMIT_EXCEEDED", "retryable": True}}],
        }
    for headers in ({}, {"accept": "application/graphql-response+json"}, EVENTS):
        answer = three_requests.http.post("/graphql", json={"query": CREATE}, headers=headers)
        wait = int(answer.headers["retry-after"])
        assert 150_000 < wait <= 200_000
        assert answer.status_code == 429
        assert answer.headers["ratelimit"] == '"caller";r=0;t=200000'
        assert answer.json() == {
            "errors": [{"message": MESSAGE.format(wait), "extensions": {"code": "LIMIT_EXCEEDED", "retryable": True}}]
        }
    answer = three_requests.http.post("/api/vms/11/snapshots", json={"name": "n"})
    assert answer.status_code == 429
    assert answer.json()["error"]["kind"] == "too_many_requests"
    assert answer.headers["retry-after"] == answer.json()["error"]["message"].split()[-2]
    with socket(three_requests) as refused_one, pytest.raises(ConnectionClosed) as closed:
        refused_one.recv(60)
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason[:20]) == (1013, "Rate limit exceeded:")

    async def count(tx: Any) -> int:
        return int((await tx.rows("SELECT count(*) FROM snapshot"))[0][0])

    assert three_requests.run(three_requests.gateway.database.read(count)) == before


def test_streams_and_subscriptions(two_streams: Served) -> None:
    """WebSockets and event streams count together, and no longer when they have ended."""
    with socket(two_streams) as first:
        assert receive(first) == {"type": "connection_ack"}
        send(first, id="1", type="subscribe", payload=SUBSCRIBE)
        with two_streams.http.stream("POST", "/graphql", json=SUBSCRIBE, headers=EVENTS) as stream:
            assert stream.status_code == 200
            lines = stream.iter_lines()
            assert next(lines) == ":"
            send(first, id="2", type="subscribe", payload=SUBSCRIBE)
            refused = receive(first)
            assert (refused["id"], refused["type"]) == ("2", "error")
            assert refused["payload"] == [
                {
                    "message": "You have 2 subscriptions, the maximum. End one and retry.",
                    "extensions": {"code": "LIMIT_EXCEEDED", "retryable": True},
                }
            ]
            answer = two_streams.http.post("/graphql", json=SUBSCRIBE, headers=EVENTS)
            assert (answer.status_code, answer.headers["retry-after"]) == (429, "10")
            assert answer.json()["errors"][0]["message"] == "You have 2 open streams, the maximum. Close one and retry."
            with socket(two_streams) as third, pytest.raises(ConnectionClosed) as closed:
                third.recv(60)
            assert closed.value.rcvd is not None
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (
                1013,
                "You have 2 open streams, the maximum. Close one and retry.",
            )
            assert two_streams.ask("{ viewer { name } }") == {"viewer": {"name": "local"}}
        send(first, id="1", type="complete")
        send(first, type="ping")
        assert receive(first) == {"type": "pong"}
        send(first, id="3", type="subscribe", payload=SUBSCRIBE)
        until(lambda: stream_status(two_streams) != 429)  # until the gateway has detected the disconnect


def stream_status(gateway: Served) -> int:
    with gateway.http.stream("POST", "/graphql", json=SUBSCRIBE, headers=EVENTS) as stream:
        return stream.status_code
