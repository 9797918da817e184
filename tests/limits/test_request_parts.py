"""What belongs to a request: trailers do not, and the rest of a rejected request is read until it ends."""

import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gateway.config import Settings
from gateway.server.clients import Clients
from tests.limits.bounded_server import Bounded, body_of, bounded, get, read_all
from tests.limits.test_parsing_pace import MASK, UPGRADE
from tests.limits.test_tls import write_certificate, write_key
from tests.waiting import until

CHUNKED = (
    b"POST /?headers HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nconnection: close\r\n"
    b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"
)
NAMES = b"host content-type connection transfer-encoding"
TOO_LONG = "The headers of the request are too long."


@pytest.fixture(scope="module")
def server() -> Iterator[Bounded]:
    with bounded(settings=Settings(max_head_bytes=100_000)) as found:
        yield found


@pytest.mark.parametrize("trailers", [b"", b"authorization: Bearer x\r\nx-forwarded-for: y\r\n", b"host: evil\r\n"])
def test_trailers_are_ignored(server: Bounded, trailers: bytes) -> None:
    """In one piece with the head, and after it."""
    for pieces in ([CHUNKED + trailers + b"\r\n"], [CHUNKED, trailers, b"\r\n"]):
        with server.connect() as connection:
            for piece in pieces:
                connection.sendall(piece)
            assert body_of(read_all(connection)) == NAMES


@pytest.mark.parametrize("trailers", [b"x-a: b\r\n" * 60_000, b"x-a: " + b"b" * 500_000], ids=["many", "long"])
def test_endless_trailers_are_rejected(server: Bounded, trailers: bytes) -> None:
    with server.connect() as connection:
        connection.sendall(CHUNKED + trailers)
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert TOO_LONG.encode() in answer


def test_a_body_in_small_chunks_is_not_a_trailer(server: Bounded) -> None:
    head, _, _ = CHUNKED.partition(b"2\r\n")
    with server.connect() as connection:
        connection.sendall(head + b"1\r\nx\r\n" * 100_000 + b"0\r\n\r\n")
        assert body_of(read_all(connection)) == NAMES


def test_a_head_that_arrives_with_its_end_is_measured(server: Bounded) -> None:
    """The kernel may deliver it in one piece, so its size is not only known while it is incomplete."""
    with server.connect() as connection:
        connection.sendall(get("/", f"x-long: {'x' * 120_000}\r\n"))
        assert read_all(connection).startswith(b"HTTP/1.1 431 ")
    body = b"x" * 200_000
    with server.connect() as connection:
        head = (
            f"POST /?headers HTTP/1.1\r\nconnection: close\r\ncontent-length: {len(body)}\r\nx: {'x' * 90_000}\r\n\r\n"
        )
        connection.sendall(head.encode() + body)
        assert body_of(read_all(connection)) == b"connection content-length x"


def test_a_client_that_still_sends_receives_its_rejection(server: Bounded) -> None:
    """Closing a connection with unread bytes would reset it, and the client could lose the response."""
    with server.connect() as connection:
        connection.sendall(get("/", f"x-long: {'x' * 100_000}").removesuffix(b"\r\n\r\n"))
        answer = read_all(connection)
        for _ in range(10):
            connection.sendall(b"x" * 65_536)
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert TOO_LONG.encode() in answer


def test_a_server_that_stops_does_not_wait_for_a_rejected_client(caplog: pytest.LogCaptureFixture) -> None:
    with ExitStack() as stack, bounded() as server:
        connection = stack.enter_context(server.connect())
        connection.sendall(b"\0\r\n\r\n")
        assert read_all(connection).startswith(b"HTTP/1.1 400 ")
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


def test_a_server_that_stops_serves_the_first_request_of_a_connection() -> None:
    """A connection that was accepted just before may have its request on its way, which would be lost."""
    with bounded() as server, server.connect() as new, server.connect() as used, server.connect() as half:
        used.sendall(get("/"))
        assert used.recv(65_536).startswith(b"HTTP/1.1 200 OK")
        half.sendall(b"GET / HT")
        server.stop()
        assert used.recv(1) == b""
        new.sendall(get("/"))
        half.sendall(b"TP/1.1\r\nhost: localhost\r\n\r\n")
        for answer in (read_all(new), read_all(half)):
            assert b"\r\nconnection: close\r\n" in answer
            assert body_of(answer) == b"01"


def test_a_websocket_that_still_sends_receives_the_code_of_the_close(server: Bounded) -> None:
    """A message of 32 MiB is refused as soon as its length has arrived."""
    with server.connect() as connection:
        connection.sendall(get("/?size=1", UPGRADE))
        received = b""
        while not received.endswith(b"\x82\x010"):  # the message of the application
            received += connection.recv(1_000)
        connection.sendall(b"\x82\xff" + struct.pack(">Q", 32 << 20) + MASK + b"x" * 65_536)
        answer = read_all(connection)
        for _ in range(10):
            connection.sendall(b"x" * 65_536)
    assert (answer[0], answer[2:4]) == (0x88, struct.pack(">H", 1_009))


def test_a_websocket_that_never_stops_sending_is_closed(server: Bounded) -> None:
    with server.connect() as connection:
        connection.sendall(get("/?size=1", UPGRADE) + b"\x82\xff" + struct.pack(">Q", 32 << 20) + MASK)
        with pytest.raises(ConnectionError):
            connection.sendall(b"x" * 100_000_000)


def test_a_client_that_never_stops_sending_is_closed(server: Bounded) -> None:
    endless = get("/", f"x-long: {'x' * 100_000_000}")
    with server.connect() as connection, pytest.raises(ConnectionError):
        connection.sendall(endless)


def test_the_number_of_headers_is_limited(server: Bounded) -> None:
    assert body_of(server.get("/", head="x:\r\n" * 498)) == b"01"
    answer = server.get("/", head="x:\r\n" * 499)  # besides `Host` and `Connection`
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert TOO_LONG.encode() in answer


@pytest.mark.parametrize(
    ("target", "head", "status"),
    [
        ("/" + "x" * 9_000, "", b"431"),
        ("/", f"x: {'x' * 9_000}\r\n", b"431"),
        ("/", "x:\r\n" * 130, b"431"),
        ("/", "content-length: 2\r\n", b"400"),
        ("/\xff", "", b"400"),
    ],
    ids=["target", "header", "headers", "body", "path"],
)
def test_an_invalid_websocket_handshake_is_answered(server: Bounded, target: str, head: str, status: bytes) -> None:
    """Also one that is valid HTTP, but exceeds the limits of the WebSocket library."""
    upgrade = "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
    with server.connect() as connection:
        connection.sendall(get(target, f"{upgrade}sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n{head}") + b"{}")
        assert read_all(connection).startswith(b"HTTP/1.1 %b " % status)
        for _ in range(10):
            connection.sendall(b"x" * 65_536)  # is read, so that it causes no reset


def test_a_client_has_a_share_of_the_connections() -> None:
    """Connections without a complete request count."""
    with bounded(Clients(8)) as server, server.connect() as first, server.connect() as second:
        first.sendall(b"GET / HT")
        second.sendall(b"GET /api HTTP/1.1\r\n")
        assert b"HTTP/1.1 200 OK" in server.get("/", "127.0.0.2")
        refused = server.get("/")
        assert refused.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nretry-after: 5\r\n" in refused
        assert b"This client has reached its maximum number of connections." in refused
        first.sendall(b"TP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        assert body_of(read_all(first)) == b"01"
        until(lambda: server.get("/").startswith(b"HTTP/1.1 200 "))


def test_connections_count_during_their_tls_handshake(tmp_path: Path) -> None:
    certificate, key = tmp_path / "gateway.pem", tmp_path / "gateway.key"
    write_certificate(certificate, write_key(key))
    with bounded(Clients(8), certificate=(certificate, key)) as server, ExitStack() as opened:
        for _ in range(2):
            opened.enter_context(socket.create_connection(("127.0.0.1", server.port), 20))
        assert b"HTTP/1.1 200 OK" in server.get("/", "127.0.0.2")
        assert server.get("/").startswith(b"HTTP/1.1 503 ")
        opened.close()
        until(lambda: server.get("/").startswith(b"HTTP/1.1 200 "))


def test_a_trusted_proxy_has_no_share() -> None:
    with bounded(Clients(8, ["127.0.0.0/8"])) as server, server.connect(), server.connect(), server.connect():
        assert body_of(server.get("/")) == b"01"
