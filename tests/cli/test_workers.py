"""`gateway serve --workers N`: one address, several processes, and what becomes of work when they die or stop."""

import os
import re
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.cli.programs import GATEWAY, Program, environment, run, serving
from tests.databases import KINDS, Databases
from tests.graphql.asking import CREATE

pytestmark = pytest.mark.thorough  # servers in processes of their own, and waits that are real

NAME = 'query Name { vm(id: "vm-11") { name } }'
OPERATION = "query ($id: ID!) { operation(id: $id) { state error { code } } }"
TOLD_BY_PARENT = re.compile(
    r"ERROR gateway.server.supervisor: process (\d+) has ended \((\w+)\); another takes its place"
)


def until(true: Callable[[], Any], seconds: float = 60) -> Any:
    """What it gives as soon as that is something."""
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.02)
    return found


def children(program: Program) -> set[int]:
    """The processes that serve, or are about to."""
    pid = program.process.pid
    found = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return {child for child in found if "spawn_main" in _proc(child, "cmdline")}


def metrics(program: Program) -> dict[str, float]:
    """Every number of the metrics, by its name and labels."""
    found = re.search(r"(http://\S+/metrics)", program.greeting)
    assert found is not None
    lines = httpx2.get(found[1], trust_env=False).text.splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines) if name[0] != "#"}


def answered(program: Program) -> int:
    return int(metrics(program).get('gateway_requests_total{kind="query",outcome="ok",transport="http"}', 0))


def fresh(program: Program, query: str, **variables: Any) -> dict[str, Any]:
    """Asks over a connection of its own, so that any process may answer."""
    body = {"query": query, "variables": variables}
    answer = httpx2.post(f"{program.url}/graphql", json=body, timeout=30, trust_env=False).json()
    assert "errors" not in answer, answer
    data: dict[str, Any] = answer["data"]
    return data


@contextmanager
def workers(url: str, number: int = 2, **settings: Any) -> Iterator[Program]:
    given = {"metrics_address": "127.0.0.1:0", "operation_lease": 1, **settings}
    with serving("--demo", "--workers", str(number), "--database-url", url, **given) as program:
        yield program


def begun(program: Program, url: str, seconds: float) -> str:
    """An operation that the provider works on for so long."""
    assert run("simulate", "vm-11", "--latency", str(seconds), "--database-url", url)[0] == 0
    payload = fresh(program, CREATE, input={"machineId": "vm-11", "name": "n"})["createSnapshot"]
    assert payload["errors"] == []
    operation: str = payload["operation"]["id"]
    until(lambda: fresh(program, OPERATION, id=operation)["operation"]["state"] == "RUNNING")
    return operation


def stored(url: str, operation: str) -> tuple[str, int]:
    """How it stands in the database, and how many snapshots there are of it at the provider."""
    with sqlite3.connect(url.removeprefix("sqlite:///"), timeout=30) as connection:
        number = int(operation.removeprefix("operation-"))
        (state,) = connection.execute("SELECT state FROM operation WHERE id = ?", [number]).fetchone()
        (made,) = connection.execute("SELECT count(*) FROM simulated_snapshot WHERE token IS NOT NULL").fetchone()
    connection.close()
    return state, made


def test_a_process_dies_and_the_others_serve_and_all_stop_after_their_work(databases: Databases) -> None:
    """One story, because processes take long to start."""
    url = databases.new("sqlite")
    with workers(url, drain_timeout=60) as program:
        assert program.greeting.count("listens on") == 1
        first = children(program)
        assert len(first) == 2
        operation = begun(program, url, 3)
        killed = min(first)
        os.kill(killed, signal.SIGKILL)
        until(lambda: killed not in children(program))
        asked = 0
        while len(children(program)) < 2 or metrics(program)["gateway_processes"] < 2:
            assert fresh(program, NAME) == {"vm": {"name": "web-01"}}
            asked += 1
        assert asked > 0
        until(lambda: answered(program) >= asked)  # what the dead one had counted is still in
        assert metrics(program)["gateway_process_ends_total"] == 1
        until(lambda: fresh(program, OPERATION, id=operation)["operation"]["state"] == "SUCCEEDED")
        assert stored(url, operation) == ("SUCCEEDED", 1)
        another = begun(program, url, 2)
        code, out, err = program.stop(signal.SIGTERM)
        assert (code, out) == (0, "stopped\n")
        assert stored(url, another) == ("SUCCEEDED", 2)
    assert TOLD_BY_PARENT.findall(err) == [(str(killed), "SIGKILL")]
    problems = [line for line in err.splitlines() if " INFO " not in line and not TOLD_BY_PARENT.search(line)]
    assert problems == []
    with pytest.raises(httpx2.ConnectError):
        fresh(program, NAME)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", KINDS)
def test_ctrl_c_reaches_all_and_one_answers(databases: Databases, kind: str) -> None:
    with workers(databases.new(kind), 3) as program:
        assert fresh(program, NAME) == {"vm": {"name": "web-01"}}
        mine = children(program)
        for pid in mine:
            for number in (signal.SIGINT, signal.SIGHUP):  # as a terminal would
                os.kill(pid, number)
        code, out, err = program.stop(signal.SIGINT)
        assert (code, out) == (0, "stopped\n")
        assert [line for line in err.splitlines() if " INFO " not in line] == []
    assert not any(Path(f"/proc/{pid}").exists() for pid in mine)


@pytest.mark.thorough
def test_none_outlives_the_parent(databases: Databases) -> None:
    with workers(databases.new("sqlite")) as program:
        mine = children(program)
        os.kill(program.process.pid, signal.SIGKILL)
        until(lambda: not any(_runs(pid) for pid in mine))
        with pytest.raises(httpx2.ConnectError):
            fresh(program, NAME)


@pytest.mark.thorough
def test_sighup_replaces_every_process_and_refuses_nobody(databases: Databases) -> None:
    with workers(databases.new("sqlite")) as program:
        before = children(program)
        program.process.send_signal(signal.SIGHUP)
        while children(program) & before or metrics(program)["gateway_processes"] < 2:
            assert fresh(program, NAME) == {"vm": {"name": "web-01"}}
        assert len(children(program)) == 2
        assert metrics(program).get("gateway_process_ends_total", 0) == 0
        assert program.stop(signal.SIGTERM)[:2] == (0, "stopped\n")


@pytest.mark.thorough
def test_what_keeps_a_process_from_starting_is_told_once(databases: Databases, tmp_path: Path) -> None:
    manifest = tmp_path / "documents.json"
    manifest.write_text("{}")
    url = databases.new("sqlite")
    with workers(url, documents_files=manifest) as program:
        manifest.write_text("[")  # none can start again
        for pid in children(program):
            os.kill(pid, signal.SIGKILL)
        out, err = program.process.communicate(timeout=120)
        assert (program.process.returncode, out) == (2, "stopped\n")
        assert f"gateway: {manifest} is not JSON" in err
    given = environment(documents_files=manifest, workers=2)
    command = [*GATEWAY, "serve", "--port", "0", "--database-url", url]
    done = subprocess.run(command, env=given, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(f"gateway: {manifest} is not JSON")


def _runs(pid: int) -> bool:
    """A process that has ended but that nobody has waited for is not running."""
    stat = _proc(pid, "stat")
    return stat != "" and stat.rpartition(")")[2].split()[0] != "Z"


def _proc(pid: int, what: str) -> str:
    """What the system tells of a process; nothing when it is gone."""
    try:
        return Path(f"/proc/{pid}/{what}").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
