"""graphql-transport-ws: every message, every reason for a close, and what a slow or absent client costs."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from .serving import LIMIT, Serving, serve

INIT = {"type": "connection_init"}
ACK = {"type": "connection_ack"}


@pytest.fixture
def socket(serving: Serving) -> Iterator[ClientConnection]:
    """Connected, but nothing said yet."""
    with serving.socket() as socket:
        yield socket


@pytest.fixture
def ready(socket: ClientConnection) -> ClientConnection:
    """Acknowledged."""
    return acknowledged(socket)


def acknowledged(socket: ClientConnection) -> ClientConnection:
    say(socket, INIT)
    assert hear(socket) == ACK
    return socket


def say(socket: ClientConnection, message: Any) -> None:
    socket.send(message if isinstance(message, str | bytes) else json.dumps(message))


def hear(socket: ClientConnection) -> Any:
    return json.loads(socket.recv(10))


def subscribe(socket: ClientConnection, query: str, id: str = "1", **payload: Any) -> None:
    say(socket, {"id": id, "type": "subscribe", "payload": {"query": query, **payload}})


def closed(socket: ClientConnection, *, in_the_end: bool = False) -> tuple[int, str]:
    """The code and the reason of the close that is the next thing to hear, or comes `in_the_end`."""
    try:
        while socket.recv(10) and in_the_end:
            pass
    except ConnectionClosed as end:
        return (end.rcvd.code, end.rcvd.reason) if end.rcvd else (1006, "")
    raise AssertionError("heard a message instead")


def nothing_waits(socket: ClientConnection) -> None:
    """Whatever was to be said has been said: a pong comes after it."""
    say(socket, {"type": "ping", "payload": {"last": True}})
    assert hear(socket) == {"type": "pong", "payload": {"last": True}}


def test_an_operation_of_each_kind(ready: ClientConnection, serving: Serving) -> None:
    subscribe(ready, "subscription ($to: Int!) { count(to: $to) }", "s", variables={"to": 2}, operationName=None)
    assert [hear(ready) for _ in range(3)] == [
        {"id": "s", "type": "next", "payload": {"data": {"count": 1}}},
        {"id": "s", "type": "next", "payload": {"data": {"count": 2}}},
        {"id": "s", "type": "complete"},
    ]
    subscribe(ready, "{ hello }", 'q"é')
    assert [hear(ready) for _ in range(2)] == [
        {"id": 'q"é', "type": "next", "payload": {"data": {"hello": "hello world"}}},
        {"id": 'q"é', "type": "complete"},
    ]
    touched = serving.world.touched
    subscribe(ready, "mutation { touch }", "s")
    assert hear(ready) == {"id": "s", "type": "next", "payload": {"data": {"touch": touched + 1}}}
    assert hear(ready) == {"id": "s", "type": "complete"}


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("subscription { nope }", "GRAPHQL_VALIDATION_FAILED"),
        ("subscription {", "GRAPHQL_PARSE_FAILED"),
        ("{ nope }", "GRAPHQL_VALIDATION_FAILED"),
        ("query A { hello } query B { hello }", "BAD_USER_INPUT"),
    ],
)
def test_a_request_error_ends_its_operation_alone(ready: ClientConnection, query: str, code: str) -> None:
    subscribe(ready, query)
    answer = hear(ready)
    (error,) = answer.pop("payload")
    assert answer == {"id": "1", "type": "error"}
    assert error["extensions"] == {"code": code}
    nothing_waits(ready)
    subscribe(ready, "{ hello }")
    assert hear(ready)["type"] == "next"


@pytest.mark.parametrize("query", ["subscription { failing }", "{ bug }"])
def test_a_bug_is_masked(serving: Serving, query: str) -> None:
    with serving.socket(additional_headers={"X-Request-Id": "ws-7"}) as socket:
        assert socket.response is not None
        assert socket.response.headers["x-request-id"] == "ws-7"
        subscribe(acknowledged(socket), query)
        answer = hear(socket)
        if answer["type"] == "next":
            answer = hear(socket)
        assert answer["type"] == "error"
        (error,) = answer["payload"]
        assert error["extensions"] == {"code": "INTERNAL_SERVER_ERROR"}
        assert "ws-7" in error["message"]
        nothing_waits(socket)


def test_pings_are_answered_before_and_after_the_init(socket: ClientConnection) -> None:
    say(socket, {"type": "ping"})
    assert hear(socket) == {"type": "pong"}
    acknowledged(socket)
    say(socket, {"type": "ping", "payload": {"a": [1]}})
    assert hear(socket) == {"type": "pong", "payload": {"a": [1]}}
    say(socket, {"type": "pong", "payload": None})
    nothing_waits(socket)


@pytest.mark.parametrize(
    "message",
    [
        "",
        "{",
        "[1]",
        "[]",
        "5",
        '"ping"',
        "null",
        "true",
        "{}",
        b"\x00",
        b'{"type":"ping"}',
        {"type": None},
        {"type": 5},
        {"type": ["ping"]},
        {"type": "next", "id": "1", "payload": {}},
        {"type": "connection_ack"},
        {"type": "connection_terminate"},
        {"type": "connection_init", "payload": 5},
        {"type": "ping", "payload": [1]},
        {"type": "pong", "payload": "x"},
        {"type": "complete"},
        {"type": "complete", "id": 1},
        {"type": "subscribe", "id": "1"},
        {"type": "subscribe", "payload": {"query": "{ hello }"}},
        {"type": "subscribe", "id": "", "payload": {"query": "{ hello }"}},
        {"type": "subscribe", "id": "x" * 257, "payload": {"query": "{ hello }"}},
        {"type": "subscribe", "id": 1, "payload": {"query": "{ hello }"}},
        {"type": "subscribe", "id": "1", "payload": "{ hello }"},
        {"type": "subscribe", "id": "1", "payload": {}},
        {"type": "subscribe", "id": "1", "payload": {"query": 5}},
        {"type": "subscribe", "id": "1", "payload": {"query": "{ hello }", "operationName": 5}},
        {"type": "subscribe", "id": "1", "payload": {"query": "{ hello }", "variables": [1]}},
        {"type": "subscribe", "id": "1", "payload": {"query": "{ hello }", "extensions": "x"}},
        '{"type":"subscribe","id":"1","payload":{"query":"\\ud800"}}',
    ],
    ids=lambda message: repr(message)[:90],
)
def test_4400_for_what_is_no_message(ready: ClientConnection, message: Any) -> None:
    say(ready, message)
    code, reason = closed(ready)
    assert code == 4400
    assert reason


def test_4401_for_an_operation_before_the_init(socket: ClientConnection) -> None:
    subscribe(socket, "{ hello }")
    assert closed(socket) == (4401, "Unauthorized: send `connection_init` first.")


@pytest.mark.parametrize(
    ("given", "reason"), [("wrong", "The token is not valid."), ("banned", "You may not come here.")]
)
def test_4403_for_an_init_that_is_refused(socket: ClientConnection, given: str, reason: str) -> None:
    say(socket, {**INIT, "payload": {"authorization": given}})
    assert closed(socket) == (4403, reason)


def test_1011_for_a_bug_of_the_connection_itself(serving: Serving) -> None:
    with serving.socket(additional_headers={"X-Request-Id": "ws-8"}) as socket:
        say(socket, {**INIT, "payload": {"authorization": "strange"}})
        assert closed(socket) == (1011, "Internal error. Report it with the request id ws-8.")


@pytest.mark.parametrize("subprotocols", [None, ["graphql-ws"], ["graphql-ws", "soap"]])
def test_4406_for_another_subprotocol(serving: Serving, subprotocols: list[str] | None) -> None:
    with serving.socket(subprotocols=subprotocols) as socket:
        assert closed(socket) == (4406, "Offer the subprotocol graphql-transport-ws.")


def test_ours_is_taken_among_others(serving: Serving) -> None:
    with serving.socket(subprotocols=["graphql-ws", "graphql-transport-ws"]) as socket:
        assert socket.subprotocol == "graphql-transport-ws"


def test_4408_for_no_init() -> None:
    with serve(init_timeout=0.01) as serving, serving.socket() as socket:
        assert closed(socket) == (4408, "Connection initialisation timeout")


def test_4409_for_an_id_in_use(ready: ClientConnection, serving: Serving) -> None:
    subscribe(ready, "subscription { never }", "é" * 256)
    subscribe(ready, "{ hello }", "é" * 256)
    code, reason = closed(ready)
    assert (code, reason[:16]) == (4409, "Subscriber for é")
    serving.closed()


def test_4429_for_a_second_init(ready: ClientConnection) -> None:
    say(ready, INIT)
    assert closed(ready) == (4429, "Too many initialisation requests")


def test_1009_for_a_long_message(ready: ClientConnection) -> None:
    subscribe(ready, "#" * LIMIT)
    code, _ = closed(ready)
    assert code == 1009


def test_the_hundred_and_first_operation_is_refused(ready: ClientConnection, serving: Serving) -> None:
    for number in range(101):
        subscribe(ready, "subscription { never }", str(number))
    answer = hear(ready)
    assert (answer["id"], answer["type"]) == ("100", "error")
    (error,) = answer["payload"]
    assert error["extensions"] == {"code": "LIMIT_EXCEEDED"}
    assert "100" in error["message"]
    say(ready, {"id": "0", "type": "complete"})
    serving.closed()
    subscribe(ready, "{ hello }", "100")
    assert hear(ready)["type"] == "next"
    ready.close()
    for _ in range(99):
        serving.closed()


def test_complete_ends_a_subscription_at_once_and_frees_its_id(ready: ClientConnection, serving: Serving) -> None:
    subscribe(ready, "subscription { never }")
    nothing_waits(ready)
    say(ready, {"id": "1", "type": "complete"})
    serving.closed()
    say(ready, {"id": "1", "type": "complete"})
    say(ready, {"id": "unheard of", "type": "complete"})
    nothing_waits(ready)
    subscribe(ready, "{ hello }")
    assert hear(ready)["payload"] == {"data": {"hello": "hello world"}}


def test_a_query_that_is_not_waited_for_says_nothing(ready: ClientConnection) -> None:
    subscribe(ready, "{ wait }")
    say(ready, {"id": "1", "type": "complete"})
    nothing_waits(ready)


def test_a_mutation_that_is_not_waited_for_runs_to_its_end() -> None:
    with serve() as serving:
        with serving.socket() as socket:
            acknowledged(socket)
            for id in ("completed", "left"):
                subscribe(socket, "mutation { slowTouch }", id)
            say(socket, {"id": "completed", "type": "complete"})
            nothing_waits(socket)
        assert (serving.world.opened, serving.world.touched) == (2, 0)
        serving.go_on()
    assert serving.world.touched == 2


def test_leaving_ends_all_subscriptions(serving: Serving) -> None:
    with serving.socket() as socket:
        acknowledged(socket)
        for number in range(3):
            subscribe(socket, "subscription { never }", str(number))
        nothing_waits(socket)
    for _ in range(3):
        serving.closed()


def test_1001_when_the_server_stops() -> None:
    with serve() as serving, serving.socket() as socket:
        subscribe(acknowledged(socket), "subscription { never }")
        nothing_waits(socket)
        serving.server.should_exit = True
        assert closed(socket) == (1001, "The server is stopping.")
        serving.closed()


def test_1013_for_a_client_that_does_not_read() -> None:
    with serve(waiting_messages=8) as serving, serving.socket(max_queue=1) as socket:
        subscribe(acknowledged(socket), "subscription { flood(size: 65536) }")
        serving.closed()
        reason = "Messages are read too slowly. Connect again and fetch the present state."
        assert closed(socket, in_the_end=True) == (1013, reason)


def test_a_client_that_never_reads_does_not_hold_its_subscription() -> None:
    deaf: dict[str, Any] = {"max_queue": 1, "close_timeout": 0.01}
    with serve(waiting_bytes=200_000, close_timeout=0.01) as serving, serving.socket(**deaf) as socket:
        subscribe(acknowledged(socket), "subscription { flood(size: 65536) }")
        serving.closed()


def test_a_burst_is_no_slow_client(ready: ClientConnection) -> None:
    subscribe(ready, "subscription { count(to: 3000) }")
    assert [hear(ready).get("payload") for _ in range(3001)] == [
        *({"data": {"count": number}} for number in range(1, 3001)),
        None,
    ]


def test_silence_is_filled_with_pings() -> None:
    with serve(ping_after=0.01) as serving, serving.socket() as socket:
        assert hear(socket) == {"type": "ping"}
        say(socket, {"type": "pong"})
        assert hear(socket) == {"type": "ping"}
