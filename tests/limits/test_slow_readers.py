"""Responses that a client does not read: they are bounded per client, and cost other clients nothing."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.sync.client import connect as connect_websocket

from gateway.server.clients import Clients
from tests.limits.bounded_server import Bounded, body_of, bounded, get, read_all
from tests.limits.test_tls import write_certificate, write_key
from tests.waiting import until

MIB = 1_048_576
SMALL = 4_096  # of the kernel's receive buffer
UNREAD = "This client has too many unread responses. Read them or close their connections, then retry."


@pytest.fixture
def server() -> Iterator[Bounded]:
    """Refuses requests above 10 MiB of unread responses, and drops responses above 20 MiB, or 36 MiB of all clients."""
    with bounded(Clients(100, refused_above=10 * MIB, max_unread_per_client=20 * MIB, max_unread=36 * MIB)) as found:
        yield found


def statuses(server: Bounded, target: str, address: str) -> bytes:
    return server.get(target, address).partition(b"\r\n")[0]


def test_a_client_with_unread_responses_is_refused_and_others_are_served(server: Bounded) -> None:
    with server.connect(receive_buffer=SMALL) as slow:
        slow.sendall(get(f"/?size={24 * MIB}"))
        refusal = until(lambda: answer if b" 429 " in (answer := server.get("/?name=late")) else None)
        assert UNREAD.encode() in refusal
        assert b"\r\nretry-after: 5\r\n" in refusal
        executed = server.application.executed.count("late")
        assert b" 429 " in server.get("/?name=late")
        assert server.application.executed.count("late") == executed  # a refused request is not executed
        assert statuses(server, "/healthz", "127.0.0.1") == b"HTTP/1.1 200 OK"
        assert statuses(server, "/", "127.0.0.2") == b"HTTP/1.1 200 OK"
    until(lambda: b" 200 " in server.get("/"))


def test_a_large_response_arrives_complete(server: Bounded) -> None:
    """Also one that is larger than the bound, if the client has no other."""
    body = body_of(server.get(f"/?size={40 * MIB + 7}"))
    assert body == (b"0123456789" * (5 * MIB))[: 40 * MIB + 7]


def test_a_client_that_has_ended_its_side_receives_the_whole_response(server: Bounded) -> None:
    with server.connect(receive_buffer=SMALL) as connection:
        connection.sendall(get(f"/?size={8 * MIB}"))
        received = connection.recv(100)  # the response has begun
        connection.shutdown(1)
        received += read_all(connection)
    assert len(body_of(received)) == 8 * MIB


def test_the_oldest_unread_response_is_dropped(server: Bounded) -> None:
    """Requests that run at the same time are not refused, so their responses can exceed the bound together.

    The request that completes the barrier is answered first.
    """
    with server.connect() as first, server.connect() as second:
        first.sendall(get(f"/?size={14 * MIB}&together=2&name=first", "connection: close\r\n"))
        until(lambda: "first" in server.application.executed)
        second.sendall(get(f"/?size={12 * MIB}&together=2"))
        assert len(body_of(read_all(first))) == 14 * MIB
        assert len(read_until_reset(second)) < 12 * MIB


def test_the_client_with_the_most_unread_bytes_makes_room(server: Bounded) -> None:
    names = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
    with server.connect(names[0]) as small, server.connect(names[1], SMALL) as most, server.connect(names[2]) as last:
        for connection, size in ((small, 11), (most, 19), (last, 15)):
            connection.sendall(get(f"/?size={size * MIB}&together=3", "connection: close\r\n"))
        assert len(read_until_reset(most)) < 19 * MIB
        assert len(body_of(read_all(small))) == 11 * MIB
        assert len(body_of(read_all(last))) == 15 * MIB


def test_the_next_request_of_a_connection_waits_until_its_response_is_read(server: Bounded) -> None:
    """So at most one response per connection is in memory."""
    with server.connect(receive_buffer=SMALL) as connection:
        connection.sendall(get(f"/?size={8 * MIB}&name=one"))
        connection.recv(1)
        connection.sendall(get("/?name=two", "connection: close\r\n"))
        server.get("/?name=other")
        assert server.application.executed == ["one", "other"]
        read_all(connection)
    assert server.application.executed == ["one", "other", "two"]


def test_a_message_on_a_websocket_counts(server: Bounded) -> None:
    with connect_websocket(f"ws://127.0.0.1:{server.port}/?size={24 * MIB}", max_size=None, max_queue=1) as slow:
        # The client library reads ahead, so the size is far above its buffers.
        first = slow.recv(60)
        assert len(first) == 24 * MIB
    with server.connect(receive_buffer=SMALL) as raw:
        raw.sendall(
            get(
                f"/?size={24 * MIB}",
                "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
                "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
            )
        )
        assert b" 101 " in raw.recv(100)
        until(lambda: b" 429 " in server.get("/"))
    until(lambda: b" 200 " in server.get("/"))


def test_unread_responses_count_under_tls(tmp_path: Path) -> None:
    """There the event loop does not report what it buffers."""
    certificate, key = tmp_path / "gateway.pem", tmp_path / "gateway.key"
    write_certificate(certificate, write_key(key))
    with bounded(Clients(100, refused_above=10 * MIB), certificate=(certificate, key)) as server:
        assert len(body_of(server.get(f"/?size={12 * MIB}"))) == 12 * MIB
        with server.connect(receive_buffer=SMALL) as slow:
            slow.sendall(get(f"/?size={24 * MIB}"))
            until(lambda: b" 429 " in server.get("/"))
        until(lambda: b" 200 " in server.get("/"))


def test_responses_through_a_proxy_belong_to_its_clients() -> None:
    clients = Clients(100, ["127.0.0.1"], refused_above=10 * MIB)
    with bounded(clients, proxies=["127.0.0.1"]) as server, server.connect(receive_buffer=SMALL) as slow:
        slow.sendall(get(f"/?size={24 * MIB}", "x-forwarded-for: 192.0.2.1\r\n"))
        until(lambda: b" 429 " in server.get("/", head="x-forwarded-for: 192.0.2.1\r\n"))
        assert b" 200 " in server.get("/", head="x-forwarded-for: 192.0.2.2\r\n")


def read_until_reset(connection: socket.socket) -> bytes:
    """All bytes up to the end of the connection, which may be a reset."""
    received = bytearray()
    try:
        while chunk := connection.recv(MIB):
            received += chunk
    except ConnectionResetError:
        pass
    return bytes(received)
