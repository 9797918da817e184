"""Log lines: one per message, with the request context, and without the content of requests."""

import logging
import signal
import socket
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.access.caller import CALLER
from gateway.config import Settings
from gateway.http.request_id import REQUEST_ID
from gateway.operations.worker import OPERATION
from gateway.telemetry import logs
from tests.cli.programs import refusal, serving
from tests.databases import Databases
from tests.limits.bounded_server import read_all
from tests.serving import served

SECRET = "hunter2"
NAMED = "query Named($name: String!) { vms(filter: {name: {eq: $name}}) { totalCount } }"


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    """Restores the logging configuration of pytest."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in ("uvicorn", "alembic")}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)


def format_line(settings: Settings, message: str, *arguments: object, error: Exception | None = None) -> str:
    """The line that is written for a message."""
    logs.configure(settings)
    (handler,) = logging.getLogger().handlers
    info = (type(error), error, None) if error else None
    return handler.format(logging.LogRecord("gateway.part", logging.WARNING, "file", 1, message, arguments, info))


def test_json_lines_have_the_request_context() -> None:
    context = {REQUEST_ID: "r-1", CALLER: "ann", OPERATION: "operation-7"}
    tokens = [(variable, variable.set(value)) for variable, value in context.items()]
    line = orjson.loads(format_line(Settings(log_format="json"), "took %d", 3, error=ValueError("x")))
    for variable, token in tokens:
        variable.reset(token)
    assert line["time"].endswith("+00:00")
    assert line["exception"] == "ValueError: x"
    wanted = {"level": "warning", "logger": "gateway.part", "message": "took 3"}
    assert wanted | {"requestId": "r-1", "caller": "ann", "operation": "operation-7"} == {
        name: value for name, value in line.items() if name not in {"time", "process", "exception"}
    }


def test_text_lines_have_the_request_context() -> None:
    token = REQUEST_ID.set("r-1")
    line = format_line(Settings(), "took %d", 3)
    REQUEST_ID.reset(token)
    assert line.partition(" WARNING ")[2] == "gateway.part: took 3 requestId=r-1"


@given(st.text())
def test_a_message_cannot_forge_a_line(words: str) -> None:
    json = format_line(Settings(log_format="json"), "%s", words.encode("utf-8", "replace").decode())
    assert orjson.loads(json)["message"] == words.encode("utf-8", "replace").decode()
    assert "\n" not in json
    text = format_line(Settings(), "%s", words)
    assert text.isprintable()


def test_requests_are_logged_without_their_content(databases: Databases, caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings(database_url=databases.new("sqlite", demo=True), log_requests=True, log_slower_than=1e-9)
    with caplog.at_level(logging.INFO), served(settings) as gateway:
        for _ in range(2):
            gateway.ask(NAMED, name=SECRET)
        gateway.http.get("/api/vms", params={"filter[]": f"name='{SECRET}'"})
    lines = [record.getMessage() for record in caplog.records if record.name == "gateway.telemetry.instrumentation"]
    assert [line.rpartition(" in ")[0] for line in lines if " in " in line] == [
        "POST /graphql 200",
        "POST /graphql 200",
        "GET /api/vms 200",
    ]
    slow = [line.rpartition(" took ")[0] for line in lines if " took " in line]
    assert slow == ["Slow GraphQL query name=other", "Slow GraphQL query name=Named"]
    ours = [record for record in caplog.records if record.name.startswith("gateway")]
    assert SECRET not in repr([record.__dict__ for record in ours])


@pytest.mark.thorough  # starts a process
def test_malformed_requests_are_not_logged(databases: Databases) -> None:
    """Otherwise any client could fill the disk."""
    upgrade = b"GET /graphql HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade, close\r\nupgrade: %b\r\n"
    websocket = upgrade % b"websocket" + (
        b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        b"sec-websocket-protocol: graphql-transport-ws\r\n\r\n"
    )
    not_utf8 = b"\x81\x81\0\0\0\0\xff"
    with serving(database_url=databases.new("sqlite")) as program:
        address = ("127.0.0.1", int(program.url.rpartition(":")[2]))
        for messages in ([b"\0\r\n\r\n"], [upgrade % b"x" + b"\r\n"], [websocket, not_utf8]):
            with socket.create_connection(address, 30) as connection:
                for message in messages:
                    connection.sendall(message)
                    assert connection.recv(1)
                read_all(connection)
        assert program.stop(signal.SIGTERM) == (0, "stopped\n", "")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"log_format": "xml"}, "GATEWAY_LOG_FORMAT must be text or json, not 'xml'."),
        ({"stop_delay": "-1"}, "GATEWAY_STOP_DELAY must be between 0 and 3600, not -1.0."),
        ({"workers": "0"}, "GATEWAY_WORKERS must be greater than 0, not 0."),
    ],
)
def test_invalid_settings(settings: dict[str, Any], message: str) -> None:
    assert refusal("migrate", **settings) == message
