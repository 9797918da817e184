"""graphql-transport-ws: messages, close codes, and the limits for slow and disconnected clients."""

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from .serving import MAX_BODY, Serving, serve

INIT = {"type": "connection_init"}
ACK = {"type": "connection_ack"}


@pytest.fixture
def socket(serving: Serving) -> Iterator[ClientConnection]:
    """A connected WebSocket, before `connection_init`."""
    with serving.socket() as socket:
        yield socket


@pytest.fixture
def ready(socket: ClientConnection) -> ClientConnection:
    """A WebSocket whose `connection_init` was acknowledged."""
    return initialize(socket)


def initialize(socket: ClientConnection) -> ClientConnection:
    send(socket, INIT)
    assert receive(socket) == ACK
    return socket


def send(socket: ClientConnection, message: Any) -> None:
    socket.send(message if isinstance(message, str | bytes) else json.dumps(message))


def receive(socket: ClientConnection) -> Any:
    return json.loads(socket.recv(60))


def subscribe(socket: ClientConnection, query: str, id: str = "1", **payload: Any) -> None:
    send(socket, {"id": id, "type": "subscribe", "payload": {"query": query, **payload}})


def close_of(socket: ClientConnection, *, skip_messages: bool = False) -> tuple[int, str]:
    """The code and reason of the close, which must come next, or after other messages if `skip_messages` is set."""
    try:
        for _ in range(10_000 if skip_messages else 1):
            socket.recv(60)
    except ConnectionClosed as end:
        return (end.rcvd.code, end.rcvd.reason) if end.rcvd else (1006, "")
    raise AssertionError("received a message instead of a close")


def assert_no_more_messages(socket: ClientConnection) -> None:
    """The response to a ping comes next, so no other message was queued."""
    send(socket, {"type": "ping", "payload": {"last": True}})
    assert receive(socket) == {"type": "pong", "payload": {"last": True}}


def test_operations_of_each_type(ready: ClientConnection, serving: Serving) -> None:
    subscribe(ready, "subscription ($to: Int!) { count(to: $to) }", "s", variables={"to": 2}, operationName=None)
    assert [receive(ready) for _ in range(3)] == [
        {"id": "s", "type": "next", "payload": {"data": {"count": 1}}},
        {"id": "s", "type": "next", "payload": {"data": {"count": 2}}},
        {"id": "s", "type": "complete"},
    ]
    subscribe(ready, "{ hello }", 'q"é')
    assert [receive(ready) for _ in range(2)] == [
        {"id": 'q"é', "type": "next", "payload": {"data": {"hello": "hello world"}}},
        {"id": 'q"é', "type": "complete"},
    ]
    touched = serving.world.touched
    subscribe(ready, "mutation { touch }", "s")
    assert receive(ready) == {"id": "s", "type": "next", "payload": {"data": {"touch": touched + 1}}}
    assert receive(ready) == {"id": "s", "type": "complete"}


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("subscription { nope }", "GRAPHQL_VALIDATION_FAILED"),
        ("subscription {", "GRAPHQL_PARSE_FAILED"),
        ("{ nope }", "GRAPHQL_VALIDATION_FAILED"),
        ("query A { hello } query B { hello }", "BAD_USER_INPUT"),
    ],
)
def test_a_request_error_ends_only_its_operation(ready: ClientConnection, query: str, code: str) -> None:
    subscribe(ready, query)
    response = receive(ready)
    (error,) = response.pop("payload")
    assert response == {"id": "1", "type": "error"}
    assert error["extensions"] == {"code": code}
    assert_no_more_messages(ready)
    subscribe(ready, "{ hello }")
    assert receive(ready)["type"] == "next"


@pytest.mark.parametrize("query", ["subscription { failing }", "{ bug }"])
def test_an_unexpected_exception_is_masked(serving: Serving, query: str) -> None:
    with serving.socket(additional_headers={"X-Request-Id": "ws-7"}) as socket:
        assert socket.response is not None
        assert socket.response.headers["x-request-id"] == "ws-7"
        subscribe(initialize(socket), query)
        response = receive(socket)
        if response["type"] == "next":
            response = receive(socket)
        assert response["type"] == "error"
        (error,) = response["payload"]
        assert error["extensions"] == {"code": "INTERNAL_SERVER_ERROR"}
        assert "ws-7" in error["message"]
        assert_no_more_messages(socket)


def test_pings_are_answered_before_and_after_the_init(socket: ClientConnection) -> None:
    send(socket, {"type": "ping"})
    assert receive(socket) == {"type": "pong"}
    initialize(socket)
    send(socket, {"type": "ping", "payload": {"a": [1]}})
    assert receive(socket) == {"type": "pong", "payload": {"a": [1]}}
    send(socket, {"type": "pong", "payload": None})
    assert_no_more_messages(socket)


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
        '{"type":"ping","payload":{"a":' + "[" * 300 + "]" * 300 + "}}",
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
def test_4400_for_an_invalid_message(ready: ClientConnection, message: Any) -> None:
    send(ready, message)
    code, reason = close_of(ready)
    assert code == 4400
    assert reason


def test_4401_for_an_operation_before_the_init(socket: ClientConnection) -> None:
    subscribe(socket, "{ hello }")
    assert close_of(socket) == (4401, "Unauthorized: send `connection_init` first.")


@pytest.mark.parametrize(
    ("credentials", "reason"), [("wrong", "The token is not valid."), ("banned", "Access is denied.")]
)
def test_4403_for_rejected_credentials(socket: ClientConnection, credentials: str, reason: str) -> None:
    send(socket, {**INIT, "payload": {"authorization": credentials}})
    assert close_of(socket) == (4403, reason)


def test_1013_while_credentials_cannot_be_verified(socket: ClientConnection) -> None:
    """Clients reconnect after it, as after a response with status 503."""
    send(socket, {**INIT, "payload": {"authorization": "waiting"}})
    assert close_of(socket) == (1013, "The database cannot be reached.")


def test_1011_for_an_unexpected_exception_of_the_connection(serving: Serving) -> None:
    with serving.socket(additional_headers={"X-Request-Id": "ws-8"}) as socket:
        send(socket, {**INIT, "payload": {"authorization": "failing"}})
        assert close_of(socket) == (1011, "Internal error. Report it with the request id ws-8.")


@pytest.mark.parametrize("subprotocols", [None, ["graphql-ws"], ["graphql-ws", "soap"]])
def test_4406_for_another_subprotocol(serving: Serving, subprotocols: list[str] | None) -> None:
    with serving.socket(subprotocols=subprotocols) as socket:
        assert close_of(socket) == (4406, "Offer the subprotocol graphql-transport-ws.")


def test_the_supported_subprotocol_is_selected(serving: Serving) -> None:
    with serving.socket(subprotocols=["graphql-ws", "graphql-transport-ws"]) as socket:
        assert socket.subprotocol == "graphql-transport-ws"


def test_4408_without_an_init() -> None:
    with serve(init_timeout=0.01) as serving, serving.socket() as socket:
        assert close_of(socket) == (4408, "Connection initialisation timeout")


def test_4409_for_an_id_in_use(ready: ClientConnection, serving: Serving) -> None:
    subscribe(ready, "subscription { never }", "é" * 256)
    subscribe(ready, "{ hello }", "é" * 256)
    code, reason = close_of(ready)
    assert (code, reason[:16]) == (4409, "Subscriber for é")
    serving.wait_for_closed_subscription()


def test_4429_for_a_second_init(ready: ClientConnection) -> None:
    send(ready, INIT)
    assert close_of(ready) == (4429, "Too many initialisation requests")


def test_1009_for_a_long_message(ready: ClientConnection) -> None:
    """In two frames, the second of one byte: uvicorn closes at once, and unread bytes would reset the connection."""
    with suppress(ConnectionClosed):  # the close may arrive before the second frame is sent
        ready.send(["x" * MAX_BODY, "x"])
    code, _ = close_of(ready)
    assert code == 1009


def test_the_101st_operation_is_rejected(ready: ClientConnection, serving: Serving) -> None:
    for number in range(101):
        subscribe(ready, "subscription { never }", str(number))
    response = receive(ready)
    assert (response["id"], response["type"]) == ("100", "error")
    (error,) = response["payload"]
    assert error["extensions"] == {"code": "LIMIT_EXCEEDED"}
    assert "100" in error["message"]
    send(ready, {"id": "0", "type": "complete"})
    serving.wait_for_closed_subscription()
    subscribe(ready, "{ hello }", "100")
    assert receive(ready)["type"] == "next"
    ready.close()
    for _ in range(99):
        serving.wait_for_closed_subscription()


def test_complete_ends_a_subscription_at_once_and_frees_its_id(ready: ClientConnection, serving: Serving) -> None:
    subscribe(ready, "subscription { never }")
    assert_no_more_messages(ready)
    send(ready, {"id": "1", "type": "complete"})
    serving.wait_for_closed_subscription()
    send(ready, {"id": "1", "type": "complete"})
    send(ready, {"id": "unknown", "type": "complete"})
    assert_no_more_messages(ready)
    subscribe(ready, "{ hello }")
    assert receive(ready)["payload"] == {"data": {"hello": "hello world"}}


def test_a_completed_query_sends_no_more_messages(ready: ClientConnection) -> None:
    subscribe(ready, "{ wait }")
    send(ready, {"id": "1", "type": "complete"})
    assert_no_more_messages(ready)


def test_a_completed_or_disconnected_mutation_runs_to_its_end() -> None:
    with serve() as serving:
        with serving.socket() as socket:
            initialize(socket)
            for id in ("completed", "disconnected"):
                subscribe(socket, "mutation { slowTouch }", id)
            send(socket, {"id": "completed", "type": "complete"})
            assert_no_more_messages(socket)
        assert (serving.world.opened, serving.world.touched) == (2, 0)
        serving.release()
    assert serving.world.touched == 2


def test_a_disconnect_ends_all_subscriptions(serving: Serving) -> None:
    with serving.socket() as socket:
        initialize(socket)
        for number in range(3):
            subscribe(socket, "subscription { never }", str(number))
        assert_no_more_messages(socket)
    for _ in range(3):
        serving.wait_for_closed_subscription()


def test_1001_when_the_server_stops() -> None:
    with serve() as serving, serving.socket() as socket:
        subscribe(initialize(socket), "subscription { never }")
        assert_no_more_messages(socket)
        closed = serving.submit(serving.world.closed.acquire())
        serving.server.stop()
        assert close_of(socket) == (1001, "The server is stopping.")
        closed.result(60)


def test_1013_for_a_client_that_does_not_read() -> None:
    with serve(max_queued_messages=8) as serving, serving.socket(max_queue=1) as socket:
        subscribe(initialize(socket), "subscription { flood(size: 65536) }")
        serving.wait_for_closed_subscription()
        reason = "The client reads too slowly. Reconnect and query the current state."
        assert close_of(socket, skip_messages=True) == (1013, reason)


def test_the_subscription_of_a_client_that_never_reads_is_closed() -> None:
    never_reads: dict[str, Any] = {"max_queue": 1, "close_timeout": 0.01}
    with serve(max_queued_bytes=200_000, close_timeout=0.01) as serving, serving.socket(**never_reads) as socket:
        subscribe(initialize(socket), "subscription { flood(size: 65536) }")
        serving.wait_for_closed_subscription()


def test_a_client_that_receives_a_burst_is_not_closed_as_slow(ready: ClientConnection) -> None:
    subscribe(ready, "subscription { count(to: 3000) }")
    assert [receive(ready).get("payload") for _ in range(3001)] == [
        *({"data": {"count": number}} for number in range(1, 3001)),
        None,
    ]


def test_idle_connections_are_pinged() -> None:
    with serve(ping_after=0.01) as serving, serving.socket() as socket:
        assert receive(socket) == {"type": "ping"}
        send(socket, {"type": "pong"})
        assert receive(socket) == {"type": "ping"}
