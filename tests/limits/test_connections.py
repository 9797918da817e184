"""Connections that hold something up before their request is one, on real sockets: each is ended, and told why."""

import json
import socket
from collections.abc import Iterator

import pytest

from tests.cli.programs import Program, serving
from tests.databases import Databases

pytestmark = pytest.mark.thorough  # servers in processes of their own, and waits that are real

QUICK = {"head_timeout": 0.3, "body_timeout": 0.3, "max_head_bytes": 100_000}
GET = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n"


@pytest.fixture(scope="module")
def program(databases: Databases) -> Iterator[Program]:
    with serving("--demo", database_url=databases.new("sqlite"), **QUICK) as found:
        yield found


def plain(program: Program) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(program.url.rpartition(":")[2])), 20)


def rest(connection: socket.socket) -> bytes:
    """Everything up to the end of the connection."""
    return b"".join(iter(lambda: connection.recv(65_536), b""))


def refusal(answer: bytes) -> tuple[int, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"connection: close" in head
    assert b"nosniff" in head
    return int(head.split()[1]), json.loads(body)["errors"][0]["message"]


LATE = (408, "The head of the request did not arrive in time.")


def test_a_connection_without_a_request(program: Program) -> None:
    with plain(program) as connection:
        assert rest(connection) == b""


def test_a_head_that_does_not_end(program: Program) -> None:
    with plain(program) as connection:
        connection.sendall(GET)
        assert refusal(rest(connection)) == LATE


def test_a_head_that_comes_byte_by_byte(program: Program) -> None:
    """It has always just sent something, and is ended all the same."""
    with plain(program) as connection:
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
        assert refusal(answer) == LATE


def test_a_second_head_that_does_not_end(program: Program) -> None:
    with plain(program) as connection:
        connection.sendall(GET + b"\r\n")
        while not (answer := connection.recv(65_536)).endswith(b"}"):
            assert answer
        connection.sendall(GET)
        assert refusal(rest(connection)) == LATE


def test_a_head_that_is_too_long(program: Program) -> None:
    with plain(program) as connection:
        connection.sendall(GET + b"x-long: " + b"x" * 100_000)
        assert refusal(rest(connection)) == (431, "The head of the request is too long.")


@pytest.mark.parametrize("path", ["/graphql", "/api/vms/11/snapshots"])
def test_a_body_that_does_not_end(program: Program, path: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n"
    with plain(program) as connection:
        connection.sendall(head.encode() + b"{")
        answer = rest(connection)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"did not arrive within 0.3 seconds" in answer


def test_a_body_that_nobody_waits_for(program: Program) -> None:
    """The answer comes at once, and the connection is not kept for the rest."""
    with plain(program) as connection:
        connection.sendall(b"POST /healthz HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000\r\n\r\nx")
        assert rest(connection).startswith(b"HTTP/1.1 405 ")


def test_too_many_connections(databases: Databases) -> None:
    """The only place is taken by somebody who takes no data, until that is noticed."""
    query = b"GET /schema.graphql HTTP/1.1\r\nhost: localhost\r\n\r\n"
    settings = {"max_connections": 1, "body_timeout": 1.0}
    with serving(database_url=databases.new("sqlite"), **settings) as program:
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            slow.connect(("127.0.0.1", int(program.url.rpartition(":")[2])))
            slow.sendall(query * 500)
            answers: list[bytes] = []
            while not answers or answers[-1].startswith(b"HTTP/1.1 503"):
                with plain(program) as connection:
                    connection.sendall(GET + b"connection: close\r\n\r\n")
                    answers.append(rest(connection))
        assert len(answers) > 1
        assert refusal(answers[0]) == (503, "The gateway has as many connections as it serves: try again later.")
        assert b"\r\nretry-after: 5\r\n" in answers[0]
        assert answers[-1].startswith(b"HTTP/1.1 200 ")
