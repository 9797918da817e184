"""What guards every surface rejects requests in the format of the surface, as a Python and a Ruby client read it.

With `-s` it prints the responses. The tests with Ruby are skipped if it is not installed.
"""

import asyncio
import json
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import pytest

from gateway.config import Settings
from gateway.errors import Unavailable
from gateway.fair_queue import Claim
from gateway.http.load_shedding import LoopTurns
from gateway.web.graphiql import STATIC
from tests.databases import Databases
from tests.serving import Served, http_client, served

RUBY = shutil.which("ruby")
MAX_BODY = 1_000  # bytes

JSON = "application/json; charset=utf-8"
TEXT = "text/plain; charset=utf-8"


class Sent(NamedTuple):
    """A request."""

    method: str
    path: str
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed
    body: str | None = None


class Answer(NamedTuple):
    """What a client reads of a response: `error` is REST's `error`, GraphQL's `errors` or a text. None is no body."""

    status: int
    type: str
    retry_after: str | None
    error: Any


Send = Callable[[str, list[Sent]], list[Answer]]


def send_with_python(url: str, requests: list[Sent]) -> list[Answer]:
    with http_client(url) as http:
        responses = [http.request(sent.method, sent.path, headers=sent.headers, content=sent.body) for sent in requests]
    return [
        Answer(
            response.status_code,
            response.headers["content-type"],
            response.headers.get("retry-after"),
            _error_of(sent.path, response),
        )
        for sent, response in zip(requests, responses, strict=True)
    ]


def _error_of(path: str, response: httpx2.Response) -> Any:
    if not response.content:
        return None
    if not response.headers["content-type"].startswith("application/json"):
        return response.text
    return response.json()["error" if path.startswith("/api") else "errors"]


def send_with_ruby(url: str, requests: list[Sent]) -> list[Answer]:
    if RUBY is None:
        pytest.skip("Ruby is not installed")
    script = Path(__file__).parent / "rejections.rb"
    given = json.dumps([sent._asdict() for sent in requests])
    done = subprocess.run(
        [RUBY, str(script), url], input=given, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return [Answer(**answer) for answer in json.loads(done.stdout)]


@pytest.fixture(params=[send_with_python, send_with_ruby], ids=["python", "ruby"])
def send(request: pytest.FixtureRequest) -> Send:
    found: Send = request.param

    def send_and_print(url: str, requests: list[Sent]) -> list[Answer]:
        answers = found(url, requests)
        for sent, answer in zip(requests, answers, strict=True):
            print(f"\n{sent.method} {sent.path} {answer.status} {answer.error}", end="")
        return answers

    return send_and_print


@pytest.fixture(scope="module")
def shared(databases: Databases) -> Iterator[Served]:
    """A gateway for requests that change nothing."""
    with served(Settings(database_url=databases.new("sqlite", demo=True), max_body_bytes=MAX_BODY)) as gateway:
        yield gateway


def rest_error(status: int, kind: str, message: str, klass: str, retry_after: str | None = None) -> Answer:
    return Answer(status, JSON, retry_after, {"kind": kind, "message": message, "klass": klass})


def graphql_error(status: int, message: str, retry_after: str | None = None, **extensions: Any) -> Answer:
    return Answer(status, JSON, retry_after, [{"message": message, "extensions": extensions}])


def text(status: int, message: str, retry_after: str | None = None) -> Answer:
    return Answer(status, TEXT, retry_after, f"{message}\n")


GET_REST = Sent("GET", "/api/vms")
POST_REST = Sent("POST", "/api/vms/11/snapshots", {"content-type": "application/json"}, '{"name": "rejected"}')
POST_GRAPHQL = Sent("POST", "/graphql", {"content-type": "application/json"}, '{"query": "{ __typename }"}')
INDEX = Sent("GET", "/")

UNKNOWN_HOST = "The `Host` header names an unknown host. Add the host to GATEWAY_ALLOWED_HOSTS."
FOREIGN_ORIGIN = "Pages of this origin must not call the gateway. Add the origin to GATEWAY_CORS_ORIGINS."
TOO_LONG = f"The body is longer than {MAX_BODY} bytes."


def no_route(path: str) -> str:
    return f"No route matches the path '{path}'. `GET /` lists the endpoints."


def with_header(sent: Sent, name: str, value: str) -> Sent:
    return sent._replace(headers={**sent.headers, name: value})


def test_an_unknown_host(shared: Served, send: Send) -> None:
    requests = [with_header(sent, "host", "evil.example") for sent in (GET_REST, POST_REST, POST_GRAPHQL, INDEX)]
    assert send(shared.url, requests) == [
        rest_error(421, "misdirected_request", UNKNOWN_HOST, "Api::BadRequestError"),
        rest_error(421, "misdirected_request", UNKNOWN_HOST, "Api::BadRequestError"),
        graphql_error(421, UNKNOWN_HOST, code="BAD_USER_INPUT"),
        text(421, UNKNOWN_HOST),
    ]


def test_a_foreign_origin(shared: Served, send: Send) -> None:
    requests = [
        with_header(sent, "origin", "http://evil.example")
        for sent in (POST_REST, POST_GRAPHQL, Sent("POST", "/healthz"))
    ]
    assert send(shared.url, requests) == [
        rest_error(403, "forbidden", FOREIGN_ORIGIN, "Api::ForbiddenError"),
        graphql_error(403, FOREIGN_ORIGIN, code="FORBIDDEN"),
        text(403, FOREIGN_ORIGIN),
    ]
    assert shared.ask('{ vm(id: "vm-11") { snapshots { totalCount } } }') == {"vm": {"snapshots": {"totalCount": 3}}}


def test_what_does_not_exist(shared: Served, send: Send) -> None:
    paths = ["/api/vms/99", "/api/vms/11/snapshots/3/x", "/graphql/x", "/nonsense", "/apis/vms", "/graphiql/assets/%0A"]
    routing_error = 'No route matches [GET] "/api/vms/11/snapshots/3/x"'
    assert send(shared.url, [Sent("GET", path) for path in paths]) == [
        rest_error(404, "not_found", "Couldn't find Vm with 'id'=99", "ActiveRecord::RecordNotFound"),
        rest_error(404, "not_found", routing_error, "ActionController::RoutingError"),
        graphql_error(404, no_route("/graphql/x"), code="NOT_FOUND"),
        text(404, no_route("/nonsense")),
        text(404, no_route("/apis/vms")),
        text(404, no_route(r"/graphiql/assets/\n")),
    ]


def test_an_asset_is_named_without_a_directory(shared: Served, send: Send) -> None:
    """Also with one that is left again. To resolve a path of thousands of directories takes seconds."""
    name = next(path.name for path in sorted((STATIC / "assets").iterdir()))
    assert [answer.status for answer in send(shared.url, [Sent("GET", f"/graphiql/assets/{name}")])] == [200]
    path = f"/graphiql/assets/x/%2e%2e/{name}"
    assert send(shared.url, [Sent("GET", path)]) == [text(404, no_route(f"/graphiql/assets/x/../{name}"))]


def test_a_body_that_is_too_long(shared: Served, send: Send) -> None:
    requests = [sent._replace(body=" " * (MAX_BODY + 1)) for sent in (POST_REST, POST_GRAPHQL)]
    assert send(shared.url, requests) == [
        rest_error(413, "payload_too_large", TOO_LONG, "Api::PayloadTooLargeError"),
        graphql_error(413, TOO_LONG, code="LIMIT_EXCEEDED"),
    ]


def test_head(shared: Served, send: Send) -> None:
    """The status and the media type of a GET, without its body."""
    unknown_host = {"host": "evil.example"}
    requests = [
        Sent("HEAD", "/api/vms", unknown_host),
        Sent("HEAD", "/graphql", unknown_host),
        Sent("HEAD", "/", unknown_host),
        Sent("HEAD", "/api/vms/99"),
        Sent("HEAD", "/graphql/x"),
        Sent("HEAD", "/nonsense"),
    ]
    assert send(shared.url, requests) == [
        Answer(421, JSON, None, None),
        Answer(421, JSON, None, None),
        Answer(421, TEXT, None, None),
        Answer(404, JSON, None, None),
        Answer(404, JSON, None, None),
        Answer(404, TEXT, None, None),
    ]


def test_an_exhausted_quota(databases: Databases, send: Send) -> None:
    settings = Settings(database_url=databases.new("sqlite", demo=True), caller_quota=1, caller_window=600_000.0)
    with served(settings) as gateway:
        assert gateway.http.get("/api").status_code == 200
        answers = send(gateway.url, [GET_REST, POST_REST, POST_GRAPHQL])
    waits = [answer.retry_after for answer in answers]
    messages = [
        f"Rate limit exceeded: at most 1 requests in 600000 seconds. Retry after {wait} seconds." for wait in waits
    ]
    assert answers == [
        rest_error(429, "too_many_requests", messages[0], "Api::TooManyRequestsError", waits[0]),
        rest_error(429, "too_many_requests", messages[1], "Api::TooManyRequestsError", waits[1]),
        graphql_error(429, messages[2], waits[2], code="LIMIT_EXCEEDED", retryable=True),
    ]
    assert None not in waits


def shed_error() -> Unavailable:
    """What load shedding raises for a request with 32 others ahead of it, each of which takes a second."""

    async def story() -> list[Any]:
        turns = LoopTurns(0.5, count().__next__)
        return await asyncio.gather(*(turns.take(Claim("busy")) for _ in range(40)), return_exceptions=True)

    return next(outcome for outcome in asyncio.run(story()) if isinstance(outcome, Unavailable))


def test_load_shedding(databases: Databases, send: Send, monkeypatch: pytest.MonkeyPatch) -> None:
    message = "The gateway is overloaded. Retry the request after the delay in `Retry-After`."
    error = shed_error()

    async def arrive(_claim: Claim) -> None:
        raise error

    with served(Settings(database_url=databases.new("sqlite", demo=True))) as gateway:
        monkeypatch.setattr(gateway.gateway.turns, "arrive", arrive)
        assert send(gateway.url, [GET_REST, POST_REST, POST_GRAPHQL, INDEX]) == [
            rest_error(503, "service_unavailable", message, "Api::ServiceUnavailableError", "1"),
            rest_error(503, "service_unavailable", message, "Api::ServiceUnavailableError", "1"),
            graphql_error(503, message, "1", code="SERVICE_UNAVAILABLE", retryable=True),
            text(503, message, "1"),
        ]


def test_a_request_without_a_host(shared: Served) -> None:
    """No client library sends one."""
    with socket.create_connection(("127.0.0.1", int(shared.url.rpartition(":")[2])), 30) as connection:
        connection.sendall(b"GET /api/vms HTTP/1.1\r\nconnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body) == {
        "error": {
            "kind": "bad_request",
            "message": "The request must have exactly one `Host` header.",
            "klass": "Api::BadRequestError",
        }
    }
