"""Log lines: one per message, with the request context, and without the content of requests."""

import logging
import signal
import socket
import subprocess
import sys
import threading
import warnings
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
from gateway.version import VERSION
from tests.cli.programs import GATEWAY, environment, refusal, run, serving
from tests.databases import Databases
from tests.limits.bounded_server import read_all
from tests.serving import http_client, served
from tests.waiting import within

SECRET = "hunter2"
NAMED = "query Named($name: String!) { vms(filter: {name: {eq: $name}}) { totalCount } }"


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    """Restores the logging configuration of pytest."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in ("uvicorn", "alembic")}
    hooks = sys.excepthook, threading.excepthook, sys.unraisablehook
    yield
    logging.captureWarnings(capture=False)
    sys.excepthook, threading.excepthook, sys.unraisablehook = hooks
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


def formatted(settings: Settings, **fields: object) -> str:
    """The line that is written for a message with these fields."""
    logs.configure(settings)
    (handler,) = logging.getLogger().handlers
    record = logging.LogRecord("gateway.part", logging.INFO, "file", 1, "Operation ended", (), None)
    record.fields = fields
    return handler.format(record)


def test_fields_of_a_line() -> None:
    fields = {"operation": "operation-7", "requestedBy": "Ann B", "seconds": 1.5, "code": None, "error": 'a="b"\nc'}
    token = OPERATION.set("operation-7")  # is not repeated
    text, json = formatted(Settings(), **fields), orjson.loads(formatted(Settings(log_format="json"), **fields))
    OPERATION.reset(token)
    assert text.partition(" INFO ")[2] == (
        'gateway.part: Operation ended operation=operation-7 requestedBy="Ann B" seconds=1.5'
        r' error="a=\"b\"\nc"'
    )
    for name in ("time", "process"):
        del json[name]
    assert json == {
        "level": "info",
        "logger": "gateway.part",
        "message": "Operation ended",
        "operation": "operation-7",
        "requestedBy": "Ann B",
        "seconds": 1.5,
        "error": 'a="b"\nc',
    }


@given(st.text())
def test_a_field_cannot_forge_another_one(words: str) -> None:
    text = formatted(Settings(), error=words).partition(" error=")[2]
    assert text.isprintable()
    assert text.startswith('"') == (text.endswith('"') and len(text) > 1)
    if not text.startswith('"'):
        assert " " not in text
        assert "=" not in text
    assert "\n" not in formatted(Settings(log_format="json"), error=words)


def test_everything_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    """Warnings of Python, and exceptions that nothing has caught, in any thread."""
    logs.configure(Settings(log_format="json"))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        warnings.warn("something is old", DeprecationWarning, stacklevel=1)
        logging.captureWarnings(capture=False)
    error = ValueError("in a thread")
    sys.excepthook(ValueError, ValueError("in the main thread"), None)
    threading.excepthook(threading.ExceptHookArgs((ValueError, error, None, None)))
    out, err = capsys.readouterr()
    found = [orjson.loads(line) for line in err.splitlines()]
    assert out == ""
    assert [(line["level"], line["logger"]) for line in found] == [
        ("warning", "py.warnings"),
        ("critical", "gateway.telemetry.logs"),
        ("critical", "gateway.telemetry.logs"),
    ]
    assert "something is old" in found[0]["message"]
    assert [line["exception"] for line in found[1:]] == ["ValueError: in the main thread", "ValueError: in a thread"]


@pytest.mark.parametrize("settings", [{"port": "x"}, {"host": "nowhere"}, {"providers_file": "missing.toml"}])
def test_errors_at_the_start_are_json(settings: dict[str, str]) -> None:
    code, out, err = run("serve", log_format="json", **settings)
    (line,) = err.splitlines()
    assert (code, out, orjson.loads(line)["level"]) == (2, "", "error")


@pytest.mark.thorough  # starts processes
@pytest.mark.parametrize("workers", [1, 2])
def test_a_serving_gateway_writes_nothing_but_json(databases: Databases, workers: int) -> None:
    url = databases.new("sqlite", demo=True)
    settings = {"log_format": "json", "log_requests": "true", "unknown_setting": "x", "port": 0, "workers": workers}
    with subprocess.Popen(
        [*GATEWAY, "serve", "--database-url", url],
        env=environment(**settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        written = []
        for line in within(process.stderr):
            written.append(orjson.loads(line))
            if written[-1]["message"] == "Gateway started":
                break
        started = written[-1]
        assert started["version"] == VERSION
        assert (started["database"], started["processes"], started["authentication"]) == ("sqlite", workers, False)
        with http_client(started["address"]) as client:
            assert client.get("/healthz").status_code == 200
        process.terminate()
        out, err = process.communicate(timeout=30)
    written += [orjson.loads(line) for line in err.splitlines()]
    assert (process.returncode, out, written[-1]["message"]) == (0, "", "Gateway stopped")
    assert any(line["message"].startswith("GET /healthz 200 in ") for line in written)


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
