"""Limits on connections before they carry a complete request, tested on real sockets: each is closed with an error."""

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.cli.programs import Program, serving
from tests.databases import Databases
from tests.waiting import at_most, attempts

pytestmark = pytest.mark.thorough  # starts server processes and waits for real timeouts

# Long enough for a slow machine to send what must arrive in time.
SHORT_TIMEOUTS: dict[str, Any] = {"head_timeout": 2.0, "body_timeout": 2.0, "max_head_bytes": 100_000}
GET = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n"
GET_REST = b"GET /api/vms?limit=1 HTTP/1.1\r\nhost: localhost\r\n"


@pytest.fixture(scope="module")
def program(databases: Databases) -> Iterator[Program]:
    with serving("--demo", database_url=databases.new("sqlite"), **SHORT_TIMEOUTS) as found:
        yield found


def connect(program: Program) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(program.url.rpartition(":")[2])), 20)


def read_all(connection: socket.socket) -> bytes:
    """All bytes up to the end of the connection."""
    return b"".join(iter(lambda: connection.recv(65_536), b""))


def status_and_body(answer: bytes) -> tuple[int, Any]:
    """The status, and the JSON of the body."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"connection: close" in head
    assert b"nosniff" in head
    assert f"content-length: {len(body)}\r\n".encode() in head
    return int(head.split()[1]), json.loads(body)


def graphql_error(status: int, message: str, code: str) -> tuple[int, Any]:
    return status, {"errors": [{"message": message, "extensions": {"code": code}}]}


def rest_error(status: int, kind: str, message: str, klass: str) -> tuple[int, Any]:
    return status, {"error": {"kind": kind, "message": message, "klass": klass}}


TOO_SLOW = "The headers of the request did not arrive in time."
HEAD_TIMEOUT = graphql_error(408, TOO_SLOW, "BAD_USER_INPUT")
REST_HEAD_TIMEOUT = rest_error(408, "request_timeout", TOO_SLOW, "Api::RequestTimeoutError")
TOO_LONG = "The headers of the request are too long."
MALFORMED = "The request is not valid HTTP/1.1."
TOO_MANY = "The gateway has reached its maximum number of connections. Retry later."


def test_a_connection_without_a_request_is_closed(program: Program) -> None:
    with connect(program) as connection:
        assert read_all(connection) == b""


INCOMPLETE = {
    GET: HEAD_TIMEOUT,
    b"GET /graphql HTTP/1.1\r\n": HEAD_TIMEOUT,
    b"GET /ap": HEAD_TIMEOUT,  # the path may continue in any way
    b"GET /apis/vms HTTP/1.1\r\n": HEAD_TIMEOUT,
    GET_REST: REST_HEAD_TIMEOUT,
    b"GET /api/v": REST_HEAD_TIMEOUT,
    b"GET /api?": REST_HEAD_TIMEOUT,
}


def test_incomplete_headers_time_out(program: Program) -> None:
    """The error has REST's format if the path is below `/api`, and GraphQL's otherwise."""
    with ExitStack() as stack:
        connections = {head: stack.enter_context(connect(program)) for head in INCOMPLETE}
        for head, connection in connections.items():
            connection.sendall(head)
        answers = {head: status_and_body(read_all(connection)) for head, connection in connections.items()}
    assert answers == INCOMPLETE


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
        assert status_and_body(answer) == HEAD_TIMEOUT


def test_incomplete_headers_of_a_second_request_time_out(program: Program) -> None:
    with connect(program) as connection:
        connection.sendall(GET + b"\r\n")
        for _ in at_most(100):
            answer = connection.recv(65_536)
            assert answer
            if answer.endswith(b"}"):
                break
        connection.sendall(GET_REST)
        assert status_and_body(read_all(connection)) == REST_HEAD_TIMEOUT


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (GET, graphql_error(431, TOO_LONG, "LIMIT_EXCEEDED")),
        (GET_REST, rest_error(431, "request_header_fields_too_large", TOO_LONG, "Api::BadRequestError")),
    ],
)
def test_headers_that_are_too_long(program: Program, head: bytes, expected: Any) -> None:
    with connect(program) as connection:
        connection.sendall(head + b"x-long: " + b"x" * 100_000)
        assert status_and_body(read_all(connection)) == expected


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"\x16\x03\x01\r\n", graphql_error(400, MALFORMED, "BAD_USER_INPUT")),
        (GET + b"x-a : b\r\n\r\n", graphql_error(400, MALFORMED, "BAD_USER_INPUT")),
        (GET_REST + b"x-a : b\r\n\r\n", rest_error(400, "bad_request", MALFORMED, "Api::BadRequestError")),
    ],
)
def test_what_is_not_http(program: Program, sent: bytes, expected: Any) -> None:
    with connect(program) as connection:
        connection.sendall(sent)
        assert status_and_body(read_all(connection)) == expected


def test_a_rejected_head_request_has_no_body(program: Program) -> None:
    with connect(program) as connection:
        connection.sendall(b"HEAD /api/vms HTTP/1.1\r\n")
        head, end, body = read_all(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert (end, body) == (b"\r\n\r\n", b"")


BODY_TOO_SLOW = "The body did not arrive within 2 seconds."


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/graphql", graphql_error(408, BODY_TOO_SLOW, "BAD_USER_INPUT")),
        ("/api/vms/11/snapshots", rest_error(408, "request_timeout", BODY_TOO_SLOW, "Api::RequestTimeoutError")),
    ],
)
def test_an_incomplete_body_times_out(program: Program, path: str, expected: Any) -> None:
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n"
    with connect(program) as connection:
        connection.sendall(head.encode() + b"{")
        assert status_and_body(read_all(connection)) == expected


def test_a_body_that_is_not_read(program: Program) -> None:
    """The response is sent at once, and the connection is closed when the rest of the body does not arrive."""
    with connect(program) as connection:
        connection.sendall(b"POST /healthz HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000\r\n\r\nx")
        assert read_all(connection).startswith(b"HTTP/1.1 405 ")


def test_too_many_connections(databases: Databases) -> None:
    """The only allowed connection is used by a client that reads no data, until the gateway closes it."""
    query = b"GET /schema.graphql HTTP/1.1\r\nhost: localhost\r\n\r\n"
    settings: dict[str, Any] = {"max_connections": 1, "body_timeout": 5.0}
    with serving(database_url=databases.new("sqlite"), **settings) as program:
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            slow.connect(("127.0.0.1", int(program.url.rpartition(":")[2])))
            slow.sendall(query * 500)
            answers: list[bytes] = []
            for _ in attempts(pause=0.02):
                with connect(program) as connection:
                    connection.sendall((GET if answers else GET_REST) + b"connection: close\r\n\r\n")
                    answers.append(read_all(connection))
                if not answers[-1].startswith(b"HTTP/1.1 503"):
                    break
        assert len(answers) > 2
        klass = "Api::ServiceUnavailableError"
        assert status_and_body(answers[0]) == rest_error(503, "service_unavailable", TOO_MANY, klass)
        assert status_and_body(answers[1]) == graphql_error(503, TOO_MANY, "LIMIT_EXCEEDED")
        assert all(b"\r\nretry-after: 5\r\n" in answer for answer in answers[:-1])
        assert answers[-1].startswith(b"HTTP/1.1 200 ")
