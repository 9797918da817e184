"""`gateway serve`: the banner, serving, and stopping on a signal, also with open streams and running operations."""

import json
import signal
import socket
import sqlite3

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from gateway.config import Settings
from tests.cli.programs import Program, refusal, serving
from tests.databases import Databases
from tests.serving import served
from tests.waiting import until, within

SUBSCRIPTION = "subscription { snapshotChanged { kind } }"


@pytest.fixture
def url(databases: Databases) -> str:
    return databases.new("sqlite")


def stop_cleanly(program: Program, number: signal.Signals) -> None:
    """Stops the program. It must exit with code 0 and log no errors or warnings."""
    code, out, err = program.stop(number)
    assert code == 0, err
    assert out == "stopped\n"
    assert not [line for line in err.splitlines() if " INFO " not in line], err


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        ("sqlite", signal.SIGTERM),
        pytest.param("sqlite", signal.SIGINT, marks=pytest.mark.thorough),
        pytest.param("postgresql", signal.SIGTERM, marks=pytest.mark.thorough),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_serve_and_stop_with_open_streams(databases: Databases, kind: str, number: signal.Signals) -> None:
    """One test for all, because a process takes long to start."""
    with serving("--demo", "--database-url", databases.new(kind)) as program:
        assert program.ask('{ vm(id: "vm-11") { name } }') == {"vm": {"name": "web-01"}}
        assert program.http.get("/readyz").json()["status"] == "ok"
        for path in ("/graphiql", "/graphql", "/schema.graphql", "/healthz", "/readyz"):
            assert f"  {program.url}{path} " in program.greeting
        assert "{ machines(first: 3) { nodes { id name " in program.greeting
        socket_url = program.url.replace("http://", "ws://") + "/graphql"
        headers = {"accept": "text/event-stream"}
        with (
            connect(socket_url, subprotocols=["graphql-transport-ws"], proxy=None) as socket,  # type: ignore[list-item]
            program.http.stream("POST", "/graphql", json={"query": SUBSCRIPTION}, headers=headers) as stream,
        ):
            lines = within(stream.iter_lines())
            assert next(lines) == ":"
            socket.send('{"type": "connection_init"}')
            assert json.loads(socket.recv(60)) == {"type": "connection_ack"}
            socket.send(json.dumps({"id": "1", "type": "subscribe", "payload": {"query": SUBSCRIPTION}}))
            socket.send('{"type": "ping"}')
            assert json.loads(socket.recv(60)) == {"type": "pong"}
            stop_cleanly(program, number)
            assert [line for line in lines if line and not line.startswith("id: ")] == []
            with pytest.raises(ConnectionClosed) as closed:
                socket.recv(60)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1001


@pytest.mark.thorough  # starts a process
def test_an_operation_that_outlasts_the_stop_is_resumed_by_the_next_gateway(url: str) -> None:
    """The operation does not finish within the drain timeout. The next gateway completes it without repeating it."""
    mutation = 'mutation { createSnapshot(input: {machineId: "vm-11", name: "n"}) { operation { id } } }'
    issued = "SELECT issued AND task_ref IS NOT NULL FROM operation WHERE id = ?"
    connection = sqlite3.connect(url.removeprefix("sqlite:///"), timeout=30, isolation_level=None)
    with serving("--demo", "--database-url", url, drain_timeout=0.2) as program:
        connection.execute("UPDATE simulated_machine SET latency_ms = 600000")
        id_ = program.ask(mutation)["createSnapshot"]["operation"]["id"]
        number = int(id_.removeprefix("operation-"))
        until(lambda: connection.execute(issued, [number]).fetchone() == (1,))
        stop_cleanly(program, signal.SIGTERM)
    found = connection.execute("SELECT state, owner, lease_until FROM operation WHERE id = ?", [number]).fetchone()
    assert found == ("RUNNING", None, None)
    connection.execute("UPDATE simulated_task SET done_at = started_at")
    with served(Settings(database_url=url)) as gateway:
        assert gateway.await_operation(id_)["state"] == "SUCCEEDED"
    assert connection.execute("SELECT count(*) FROM simulated_snapshot WHERE token IS NOT NULL").fetchone() == (1,)
    connection.close()


def test_a_port_in_use(url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert refusal("serve", "--port", str(port), "--database-url", url) == (
            f"Cannot listen on 127.0.0.1 port {port} (address already in use). Stop the process that uses the port, or"
            " choose another one with --port."
        )


@pytest.mark.thorough  # starts a process
def test_listening_on_ipv6(url: str) -> None:
    with serving("--database-url", url, "--host", "::1") as program:
        assert program.url.startswith("http://[::1]:")
        assert program.http.get("/healthz").json()["status"] == "ok"
        stop_cleanly(program, signal.SIGTERM)
