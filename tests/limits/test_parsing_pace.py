"""What a client sends is parsed as far as it can be handled, and in a share of the time of the event loop."""

import gc
import ssl
import struct
from contextlib import suppress
from pathlib import Path
from time import perf_counter

import pytest
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from gateway.server.clients import Client, Clients
from tests.limits.bounded_server import body_of, bounded, get, read_all
from tests.limits.test_tls import write_certificate, write_key
from tests.waiting import until

UPGRADE = (
    "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
    "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
MASK = b"\0\0\0\0"


def parsed_requests() -> int:
    """The number of requests in memory, also of those that earlier tests have left to the garbage collector."""
    return sum(type(item) is RequestResponseCycle for item in gc.get_objects())  # isinstance would ask weak proxies


def test_requests_are_parsed_while_earlier_ones_are_answered() -> None:
    """A parsed request takes some kilobytes, one that has only arrived some bytes."""
    with bounded() as server, server.connect() as connection:
        requests = get("/?name=first&together=2") + get("/") * 2_000 + get("/", "connection: close\r\n")
        before = parsed_requests()
        connection.sendall(requests)
        until(lambda: "first" in server.application.executed)
        assert parsed_requests() - before < 100
        server.get("/?together=2")
        answers = read_all(connection)
    assert answers.count(b"HTTP/1.1 200 OK") == 2_002


def test_a_client_that_leaves_while_requests_wait(caplog: pytest.LogCaptureFixture) -> None:
    """The request that is served learns of it. Writing its response would log a traceback."""
    clients = Clients(100)
    leaving = clients.find("127.0.0.2")
    with bounded(clients) as server:
        with server.connect("127.0.0.2") as connection:
            connection.sendall(get("/?name=served&together=2") + get("/"))
            until(lambda: "served" in server.application.executed)
        until(lambda: leaving.connections == 0)
        server.get("/?together=2")
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


def test_a_body_in_pieces_and_the_request_behind_it() -> None:
    body = b"x" * 300_000
    head = b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(body)
    with bounded() as server, server.connect() as connection:
        connection.sendall((head + body) * 3 + get("/", "connection: close\r\n"))
        assert read_all(connection).count(b"HTTP/1.1 200 OK") == 4


def test_all_frames_of_a_burst_are_handled() -> None:
    with bounded() as server, server.connect() as connection:
        connection.sendall(get("/?size=1", UPGRADE))
        received = b""
        while not received.endswith(b"\x82\x010"):  # the message of the application
            received += connection.recv(1_000)
        close = b"\x88\x82" + MASK + struct.pack(">H", 1_000)
        connection.sendall((b"\x89\x80" + MASK) * 40_000 + close)
        assert read_all(connection) == b"\x8a\x00" * 40_000 + b"\x88\x02\x03\xe8"


def test_a_client_that_has_used_its_share_waits_and_others_do_not() -> None:
    clients = Clients(100)
    busy = clients.find("127.0.0.1")
    with bounded(clients) as server, server.connect() as late:
        busy.parse_delay(perf_counter())
        busy.parse_seconds = 0.5
        late.sendall(get("/?name=late", "connection: close\r\n"))
        server.get("/?name=other", "127.0.0.2")
        assert read_all(late).startswith(b"HTTP/1.1 200 OK")
    assert server.application.executed == ["other", "late"]


def test_the_share_of_a_client() -> None:
    client = Client("x")
    assert client.parse_delay(100.0) == 0.0
    client.parse_seconds += 0.01
    assert client.parse_delay(100.0) == 0.0
    client.parse_seconds += 1.0
    assert client.parse_delay(100.0) == pytest.approx(2.0)
    assert client.parse_delay(101.5) == pytest.approx(0.5)
    assert client.parse_delay(102.0) == pytest.approx(0.0)


def test_tls_handshakes_take_the_share_of_their_client(tmp_path: Path) -> None:
    """A client that has used it does not get the first message of the handshake. Its handshakes are charged to it."""
    certificate, key = tmp_path / "gateway.pem", tmp_path / "gateway.key"
    write_certificate(certificate, write_key(key))
    clients = Clients(100)
    busy, other = clients.find("127.0.0.1"), clients.find("127.0.0.2")
    with bounded(clients, certificate=(certificate, key)) as server:
        with server.connect("127.0.0.2"):
            until(lambda: other.parse_seconds > 0)
        busy.parse_delay(perf_counter())
        busy.parse_seconds = 1e6
        with server.connect_without_tls() as late:
            late.sendall(client_hello())
            until(lambda: len(busy.waits_to_parse) == 1)
            assert server.get("/", "127.0.0.2").startswith(b"HTTP/1.1 200 OK")
            late.settimeout(0)
            with pytest.raises(BlockingIOError):
                late.recv(1)
        until(lambda: busy.connections == 0)


def test_a_handshake_that_has_waited_succeeds(tmp_path: Path) -> None:
    certificate, key = tmp_path / "gateway.pem", tmp_path / "gateway.key"
    write_certificate(certificate, write_key(key))
    clients = Clients(100)
    busy = clients.find("127.0.0.1")
    with bounded(clients, certificate=(certificate, key)) as server:
        busy.parse_delay(perf_counter())
        busy.parse_seconds = 0.1
        assert len(body_of(server.get("/?size=1000000"))) == 1_000_000
        busy.parse_seconds = 0.1
        assert body_of(server.get("/")) == b"01"
    assert clients.handshakes == 0


def client_hello() -> bytes:
    """The first message of a TLS client."""
    out = ssl.MemoryBIO()
    connection = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), out, server_hostname="localhost")
    with suppress(ssl.SSLWantReadError):
        connection.do_handshake()
    return out.read()
