"""Limits on connections before they carry a complete request, tested on real sockets: each is closed with an error."""

import json
import socket
from collections.abc import Iterator

import pytest

from tests.cli.programs import Program, serving
from tests.databases import Databases

pytestmark = pytest.mark.thorough  # starts server processes and waits for real timeouts

SHORT_TIMEOUTS = {"head_timeout": 0.3, "body_timeout": 0.3, "max_head_bytes": 100_000}
GET = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n"


@pytest.fixture(scope="module")
def program(databases: Databases) -> Iterator[Program]:
    with serving("--demo", database_url=databases.new("sqlite"), **SHORT_TIMEOUTS) as found:
        yield found


def connect(program: Program) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(program.url.rpartition(":")[2])), 20)


def read_all(connection: socket.socket) -> bytes:
    """All bytes up to the end of the connection."""
    return b"".join(iter(lambda: connection.recv(65_536), b""))


def status_and_message(answer: bytes) -> tuple[int, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"connection: close" in head
    assert b"nosniff" in head
    return int(head.split()[1]), json.loads(body)["errors"][0]["message"]


HEAD_TIMEOUT = (408, "The headers of the request did not arrive in time.")


def test_a_connection_without_a_request_is_closed(program: Program) -> None:
    with connect(program) as connection:
        assert read_all(connection) == b""


def test_incomplete_headers_time_out(program: Program) -> None:
    with connect(program) as connection:
        connection.sendall(GET)
        assert status_and_message(read_all(connection)) == HEAD_TIMEOUT


def test_headers_sent_byte_by_byte_time_out(program: Program) -> None:
    """The timeout covers the whole head, so single bytes do not extend it."""
    with connect(program) as connection:
        connection.sendall(GET)
        connection.settimeout(0.02)
        answer = b""
        for _ in range(1_000):
            try:
                connection.sendall(b"x")
                answer += connection.recv(65_536)
                break
            except TimeoutError:
                continue
        assert status_and_message(answer) == HEAD_TIMEOUT


def test_incomplete_headers_of_a_second_request_time_out(program: Program) -> None:
    with connect(program) as connection:
        connection.sendall(GET + b"\r\n")
        while not (answer := connection.recv(65_536)).endswith(b"}"):
            assert answer
        connection.sendall(GET)
        assert status_and_message(read_all(connection)) == HEAD_TIMEOUT


def test_headers_that_are_too_long(program: Program) -> None:
    with connect(program) as connection:
        connection.sendall(GET + b"x-long: " + b"x" * 100_000)
        assert status_and_message(read_all(connection)) == (431, "The headers of the request are too long.")


@pytest.mark.parametrize("path", ["/graphql", "/api/vms/11/snapshots"])
def test_an_incomplete_body_times_out(program: Program, path: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n"
    with connect(program) as connection:
        connection.sendall(head.encode() + b"{")
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"did not arrive within 0.3 seconds" in answer


def test_a_body_that_is_not_read(program: Program) -> None:
    """The response is sent at once, and the connection is closed when the rest of the body does not arrive."""
    with connect(program) as connection:
        connection.sendall(b"POST /healthz HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000\r\n\r\nx")
        assert read_all(connection).startswith(b"HTTP/1.1 405 ")


def test_too_many_connections(databases: Databases) -> None:
    """The only allowed connection is used by a client that reads no data, until the gateway closes it."""
    query = b"GET /schema.graphql HTTP/1.1\r\nhost: localhost\r\n\r\n"
    settings = {"max_connections": 1, "body_timeout": 1.0}
    with serving(database_url=databases.new("sqlite"), **settings) as program:
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            slow.connect(("127.0.0.1", int(program.url.rpartition(":")[2])))
            slow.sendall(query * 500)
            answers: list[bytes] = []
            while not answers or answers[-1].startswith(b"HTTP/1.1 503"):
                with connect(program) as connection:
                    connection.sendall(GET + b"connection: close\r\n\r\n")
                    answers.append(read_all(connection))
        assert len(answers) > 1
        assert status_and_message(answers[0]) == (
            503,
            "The gateway has reached its maximum number of connections. Retry later.",
        )
        assert b"\r\nretry-after: 5\r\n" in answers[0]
        assert answers[-1].startswith(b"HTTP/1.1 200 ")
