"""`gateway serve --workers N`: several processes on one address, and their operations when processes end."""

import os
import re
import signal
import socket
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from gateway.config import Settings
from gateway.server.http_server import listen
from gateway.server.worker_process import run_worker
from tests.cli.programs import GATEWAY, Program, environment, run, serving
from tests.databases import KINDS, Databases
from tests.forked_gateway import CONTEXT
from tests.graphql.client import CREATE
from tests.waiting import PATIENCE, attempts, until

pytestmark = pytest.mark.thorough  # starts server processes and waits for real timeouts

NAME = 'query Name { vm(id: "vm-11") { name } }'
OPERATION = "query ($id: ID!) { operation(id: $id) { state error { code } } }"
REPLACED = re.compile(
    r"ERROR gateway.server.supervisor: Worker process ended unexpectedly pid=(\d+) end=(\w+); replacing it"
)


def children(program: Program) -> set[int]:
    """The pids of the worker processes."""
    pid = program.process.pid
    found = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return {child for child in found if "spawn_main" in _proc(child, "cmdline")}


def metrics(program: Program) -> dict[str, float]:
    """All metrics, by name and labels."""
    found = re.search(r"(http://\S+/metrics)", program.greeting)
    assert found is not None
    lines = httpx2.get(found[1], timeout=30, trust_env=False).text.splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines) if name[0] != "#"}


def served_queries(program: Program) -> int:
    return int(metrics(program).get('gateway_requests_total{kind="query",outcome="ok",transport="http"}', 0))


def query_any(program: Program, query: str, **variables: Any) -> dict[str, Any]:
    """The data of a response over a new connection, which any process may accept."""
    body = {"query": query, "variables": variables}
    response = httpx2.post(f"{program.url}/graphql", json=body, timeout=30, trust_env=False).json()
    assert "errors" not in response, response
    data: dict[str, Any] = response["data"]
    return data


def query_while(program: Program, replacing: Callable[[], bool]) -> int:
    """Queries until all processes have been replaced and report metrics. Returns the number of queries."""
    queries = 0
    for _ in attempts():
        assert query_any(program, NAME) == {"vm": {"name": "web-01"}}
        queries += 1
        if not replacing() and metrics(program)["gateway_processes"] >= 2:
            break
    return queries


@contextmanager
def workers(url: str, number: int = 2, **settings: Any) -> Iterator[Program]:
    # A shorter lease may expire on a busy machine, which is logged as a warning.
    given = {"metrics_address": "127.0.0.1:0", "operation_lease": 60, **settings}
    with serving("--demo", "--workers", str(number), "--database-url", url, **given) as program:
        yield program


def start_operation(program: Program, url: str, seconds: float) -> str:
    """The id of a running operation that takes `seconds` on the provider."""
    assert run("simulate", "vm-11", "--latency", str(seconds), "--database-url", url)[0] == 0
    payload = query_any(program, CREATE, input={"machineId": "vm-11", "name": "n"})["createSnapshot"]
    assert payload["errors"] == []
    operation: str = payload["operation"]["id"]
    until(lambda: query_any(program, OPERATION, id=operation)["operation"]["state"] == "RUNNING")
    return operation


def stored(url: str, operation: str) -> tuple[str, int]:
    """The state of an operation in the database, and the number of snapshots that the provider has created."""
    with sqlite3.connect(url.removeprefix("sqlite:///"), timeout=30) as connection:
        number = int(operation.removeprefix("operation-"))
        (state,) = connection.execute("SELECT state FROM operation WHERE id = ?", [number]).fetchone()
        (created,) = connection.execute("SELECT count(*) FROM simulated_snapshot WHERE token IS NOT NULL").fetchone()
    connection.close()
    return state, created


def test_a_killed_process_is_replaced_and_operations_are_completed(databases: Databases) -> None:
    """Also that a stop waits for running operations: one test for all, because processes take long to start."""
    url = databases.new("sqlite")
    with workers(url, drain_timeout=60, operation_lease=5) as program:
        assert program.greeting.count("listens on") == 1
        first = children(program)
        assert len(first) == 2
        operation = start_operation(program, url, 3)
        killed = min(first)
        os.kill(killed, signal.SIGKILL)
        until(lambda: killed not in children(program))
        queries = query_while(program, lambda: len(children(program)) < 2)
        until(lambda: served_queries(program) >= queries)  # including those of the killed process
        assert metrics(program)["gateway_process_ends_total"] == 1
        until(lambda: query_any(program, OPERATION, id=operation)["operation"]["state"] == "SUCCEEDED")
        assert stored(url, operation) == ("SUCCEEDED", 1)
        another = start_operation(program, url, 2)
        code, out, err = program.stop(signal.SIGTERM)
        assert (code, out) == (0, "stopped\n")
        assert stored(url, another) == ("SUCCEEDED", 2)
    assert REPLACED.findall(err) == [(str(killed), "SIGKILL")]
    errors = [line for line in err.splitlines() if " INFO " not in line and not REPLACED.search(line)]
    assert errors == []
    with pytest.raises(httpx2.ConnectError):
        query_any(program, NAME)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", KINDS)
def test_only_the_supervisor_handles_ctrl_c(databases: Databases, kind: str) -> None:
    with workers(databases.new(kind), 3) as program:
        assert query_any(program, NAME) == {"vm": {"name": "web-01"}}
        pids = children(program)
        for pid in pids:
            for number in (signal.SIGINT, signal.SIGHUP):  # as a terminal would
                os.kill(pid, number)
        code, out, err = program.stop(signal.SIGINT)
        assert (code, out) == (0, "stopped\n")
        assert [line for line in err.splitlines() if " INFO " not in line] == []
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.mark.thorough
def test_worker_processes_end_with_the_supervisor(databases: Databases) -> None:
    with workers(databases.new("sqlite")) as program:
        pids = children(program)
        os.kill(program.process.pid, signal.SIGKILL)
        until(lambda: not any(_runs(pid) for pid in pids))
        with pytest.raises(httpx2.ConnectError):
            query_any(program, NAME)


def test_a_worker_process_ends_with_a_supervisor_that_has_not_read_its_report(databases: Databases) -> None:
    """The unread rest of a report resets the link between them when the supervisor ends."""
    link, process_end = socket.socketpair()
    settings = Settings(database_url=databases.new("sqlite"))
    with link, process_end, listen("127.0.0.1", 0) as listening:
        process = CONTEXT.Process(target=run_worker, args=(settings, listening, process_end), daemon=True)
        process.start()
        process_end.close()
        link.settimeout(PATIENCE)
        assert link.recv(1) == b"["
    process.join(PATIENCE)
    assert process.exitcode == 0


@pytest.mark.thorough
def test_sighup_replaces_all_processes_without_failed_requests(databases: Databases) -> None:
    with workers(databases.new("sqlite")) as program:
        before = children(program)
        program.process.send_signal(signal.SIGHUP)
        query_while(program, lambda: bool(children(program) & before))
        assert len(children(program)) == 2
        assert metrics(program).get("gateway_process_ends_total", 0) == 0
        assert program.stop(signal.SIGTERM)[:2] == (0, "stopped\n")


@pytest.mark.thorough
def test_a_startup_error_is_reported_once(databases: Databases, tmp_path: Path) -> None:
    manifest = tmp_path / "documents.json"
    manifest.write_text("{}")
    url = databases.new("sqlite")
    with workers(url, documents_files=manifest) as program:
        manifest.write_text("[")  # none can start again
        for pid in children(program):
            os.kill(pid, signal.SIGKILL)
        out, err = program.process.communicate(timeout=120)
        assert (program.process.returncode, out) == (2, "stopped\n")
        assert f"gateway: GATEWAY_DOCUMENTS_FILES: {manifest} is not JSON" in err
    given = environment(documents_files=manifest, workers=2)
    command = [*GATEWAY, "serve", "--port", "0", "--database-url", url]
    done = subprocess.run(command, env=given, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(f"gateway: GATEWAY_DOCUMENTS_FILES: {manifest} is not JSON")


def _runs(pid: int) -> bool:
    """Whether the process runs. A zombie process, which its parent has not waited for, does not."""
    stat = _proc(pid, "stat")
    return stat != "" and stat.rpartition(")")[2].split()[0] != "Z"


def _proc(pid: int, what: str) -> str:
    """The content of a file in /proc; empty if the process does not exist."""
    try:
        return Path(f"/proc/{pid}/{what}").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
