"""SIGKILL at every step of a create, revert, delete and update: the next server ends each with its true outcome.

`pytest -s` prints a table: the state of each operation after the kill, and its final state.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import orjson
import pytest

from tests.cli.programs import serving
from tests.crash import victim
from tests.crash.rows import Rows
from tests.databases import KINDS, Databases
from tests.forked_gateway import ForkedGateway
from tests.graphql.client import CREATE, DELETE, REVERT, UPDATE
from tests.waiting import until, within

pytestmark = pytest.mark.thorough

# A chain 309 <- … <- 319 with 319 current; a tree whose 302 has two children; 323 <- 324 <- 325 with 325 current and
# a description of 324; 3 <- {4, 5} with 4 current.
MACHINES = {"revert": 13, "delete": 12, "update": 15, "create": 11}
COMMANDS: dict[str, tuple[str, dict[str, Any]]] = {
    "revert": (REVERT, {"snapshotId": "snapshot-311"}),
    "delete": (DELETE, {"ids": ["snapshot-302"]}),
    "update": (UPDATE, {"snapshotId": "snapshot-324", "name": "Ärger", "description": None}),
    "create": (CREATE, {"machineId": "vm-11", "name": "new"}),
}


@dataclass
class Operation:
    """An operation as its row describes it."""

    id: int
    kind: str
    state: str
    dispatched: bool
    task: bool
    token: str
    error: str | None

    @property
    def found(self) -> str:
        return f"{self.state}{', dispatched' if self.dispatched else ''}{', task known' if self.task else ''}"


def operations(rows: Rows) -> dict[str, Operation]:
    """The operations of this test, by the first word of their kind."""
    found = rows(
        "SELECT id, kind, state, issued, task_ref IS NOT NULL, token, error_code FROM operation"
        " WHERE requested_by = 'local' ORDER BY id"
    )
    return {
        kind.partition("_")[0].lower(): Operation(id_, kind, state, bool(dispatched), bool(task), token, error)
        for id_, kind, state, dispatched, task, token, error in found
    }


@pytest.fixture(params=KINDS)
def rows(request: pytest.FixtureRequest, databases: Databases) -> Rows:
    """The demo world with providers that take 0.1 seconds."""
    rows = Rows(databases.new(request.param, demo=True))
    rows("UPDATE simulated_machine SET latency_ms = 100")
    return rows


@pytest.fixture(scope="module")
def table() -> Iterator[list[tuple[str, ...]]]:
    lines: list[tuple[str, ...]] = [("database", "killed when", "operation", "found", "ended")]
    yield lines
    print()
    for line in lines:
        print(" ".join(f"{cell:{width}}" for cell, width in zip(line, (11, 14, 10, 32, 10), strict=True)))


@contextmanager
def client(url: str) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=url, timeout=20, trust_env=False) as http:
        yield http


def ask(http: httpx2.Client, query: str, **variables: Any) -> Any:
    body = http.post("/graphql", json={"query": query, "variables": variables}).json()
    assert "errors" not in body, body["errors"]
    (value,) = body["data"].values()
    return value


def send_commands(url: str) -> None:
    """Sends all commands. The server may die before it has answered the last one."""
    with client(url) as http:
        for name, (mutation, arguments) in COMMANDS.items():
            try:
                payload = ask(http, mutation, input=arguments)
            except httpx2.TransportError:
                assert name == "create"
                return
            assert payload["errors"] == []


UPDATED = "subscription ($id: ID!) { operationUpdated(id: $id) { state snapshotId isDone } }"


def await_end(url: str, operation: Operation) -> str:
    """Subscribes to the operation on the surviving server. Returns its final state."""
    body = {"query": UPDATED, "variables": {"id": f"operation-{operation.id}"}}
    last: dict[str, Any] = {}
    with client(url) as http, http.stream("POST", "/graphql", json=body, headers=EVENTS) as answer:
        for line in within(answer.iter_lines()):
            if line.startswith("data: {"):
                last = orjson.loads(line[6:])["data"]["operationUpdated"]
    assert last["isDone"]
    state: str = last["state"]
    return state


EVENTS = {"accept": "text/event-stream"}

TREE = "query ($id: ID!) { vm(id: $id) { snapshots(sort: [{field: ID}]) { nodes { id isCurrent parent { id } } } } }"


def check_result(rows: Rows, url: str) -> None:
    """Checks that every command took effect once, and that the gateway's trees equal the provider's."""
    done = operations(rows)
    for operation in done.values():
        tasks = int(operation.kind != "UPDATE_SNAPSHOT")  # an update is no task
        assert rows(f"SELECT count(*) FROM simulated_task WHERE token = '{operation.token}'") == [(tasks,)]
    made = rows(f"SELECT ref FROM simulated_snapshot WHERE token = '{done['create'].token}'")
    assert len(made) == 1
    assert rows("SELECT count(*) FROM simulated_snapshot WHERE token IS NOT NULL") == [(1,)]
    assert rows("SELECT count(*) FROM snapshot WHERE state <> 'READY'") == [(0,)]
    for machine in MACHINES.values():
        shown = rows(
            "SELECT s.provider_ref, s.name, s.description, p.provider_ref, s.is_current FROM snapshot s"
            f" LEFT JOIN snapshot p ON p.id = s.parent_id WHERE s.machine_id = {machine} ORDER BY 1"
        )
        there = rows(
            "SELECT s.ref, s.name, s.description, s.parent_ref, s.ref = m.current_ref FROM simulated_snapshot s"
            " JOIN simulated_machine m ON m.ref = s.machine_ref"
            f" JOIN machine i ON i.provider_ref = m.ref WHERE i.id = {machine} ORDER BY 1"
        )
        assert shown == there
    updated = "SELECT name, name_folded, description, description_folded FROM snapshot WHERE id = 324"
    assert rows(updated) == [("Ärger", "ärger", None, None)]
    ends = "SELECT id, state FROM operation WHERE finished_at IS NOT NULL AND requested_by = 'local' ORDER BY id"
    entries = "SELECT operation_id, outcome FROM audit_entry WHERE outcome {} 'ACCEPTED' ORDER BY operation_id"
    assert rows(entries.format("<>")) == rows(ends)
    assert [number for number, _ in rows(entries.format("="))] == [number for number, _ in rows(ends)]
    with client(url) as http:
        trees = {
            name: [
                ("*" * node["isCurrent"] + node["id"].partition("-")[2], node["parent"] and node["parent"]["id"][9:])
                for node in ask(http, TREE, id=f"vm-{machine}")["snapshots"]["nodes"]
            ]
            for name, machine in MACHINES.items()
        }
    new = trees["create"][-1][0].lstrip("*")
    assert trees["create"] == [("3", None), ("4", "3"), ("5", "3"), (f"*{new}", "4")]
    assert trees["update"] == [("323", None), ("324", "323"), ("*325", "324")]
    assert trees["revert"][0] == ("309", None)
    assert trees["revert"][1:] == [("*" * (number == 311) + str(number), str(number - 1)) for number in range(310, 320)]
    assert trees["delete"] == [
        ("301", None), ("303", "301"), ("304", "303"), ("305", "301"), ("306", "305"), ("307", "306"), ("*308", "301")
    ]  # fmt: skip


def expire_leases(rows: Rows) -> None:
    """Sets all leases to a time in the past."""
    rows("UPDATE operation SET lease_until = '2020-01-01T00:00:00.000000Z' WHERE lease_until IS NOT NULL")


@contextmanager
def surviving_server(rows: Rows) -> Iterator[str]:
    """URL of a server that is not killed."""
    expire_leases(rows)
    server = ForkedGateway(rows.settings)
    try:
        yield server.url
    finally:
        server.kill()


FOUND = {
    "queued": "QUEUED",
    "claimed": "RUNNING",
    "dispatched": "RUNNING, dispatched",
    "sent": "RUNNING, dispatched",
    "checkpointed": "RUNNING, dispatched, task known",
    "done": "RUNNING, dispatched, task known",
    "recorded": "SUCCEEDED, dispatched, task known",
}


def found_at(step: str, command: str) -> str:
    """What the row of the operation shows when the process was killed at the step."""
    return FOUND[step].removesuffix(", task known") if command == "update" else FOUND[step]


@pytest.mark.parametrize("step", victim.STEPS)
def test_kill_at_a_step(rows: Rows, step: str, table: list[tuple[str, ...]]) -> None:
    server = victim.start(rows.settings, step)
    send_commands(server.url)
    server.process.join(30)
    assert server.process.exitcode == -9
    found = operations(rows)
    expected = {name: found_at(step, name) for name in COMMANDS}
    assert {name: operation.found for name, operation in found.items()} == expected
    with surviving_server(rows) as url:
        ends = {name: await_end(url, operation) for name, operation in found.items()}
        check_result(rows, url)
    table += [(rows.settings.database_url[:10], step, name, found[name].found, ends[name]) for name in COMMANDS]
    assert ends == dict.fromkeys(COMMANDS, "SUCCEEDED")


@pytest.mark.parametrize("name", COMMANDS)
def test_kill_before_the_acceptance_is_committed(rows: Rows, name: str, table: list[tuple[str, ...]]) -> None:
    """The server is killed in the accepting transaction, before the commit. Nothing is written."""
    before = rows.dump()
    server = victim.start(rows.settings, "accepting")
    mutation, arguments = COMMANDS[name]
    with client(server.url) as http, pytest.raises(httpx2.TransportError):
        ask(http, mutation, input=arguments | {"idempotencyKey": "k"})
    server.process.join(30)
    assert server.process.exitcode == -9
    with surviving_server(rows) as url, client(url) as http:
        assert ask(http, '{ operations(filter: {requestedBy: {eq: "local"}}) { nodes { id } } }') == {"nodes": []}
        assert rows.dump() == before
        table.append((rows.settings.database_url[:10], "accepting", name, "nothing", "nothing"))
        assert ask(http, mutation, input=arguments | {"idempotencyKey": "k"})["errors"] == []


def test_each_next_server_is_killed_one_step_later(rows: Rows) -> None:
    """Five servers are killed during the same operations. The sixth ends them."""
    server = victim.start(rows.settings, "queued")
    send_commands(server.url)
    server.process.join(30)
    for step in ("claimed", "dispatched", "sent", "done"):
        expire_leases(rows)
        server = victim.start(rows.settings, step)
        server.process.join(30)
        assert server.process.exitcode == -9, step
    with surviving_server(rows) as url:
        found = operations(rows)
        assert {name: await_end(url, operation) for name, operation in found.items()} == dict.fromkeys(
            COMMANDS, "SUCCEEDED"
        )
        check_result(rows, url)


def test_program_is_killed_while_the_provider_works(rows: Rows, table: list[tuple[str, ...]]) -> None:
    """Kills `python -m gateway serve` from outside, as the kernel would. The leases expire by themselves."""
    rows("UPDATE simulated_machine SET latency_ms = 600000")
    hang = '{"on": "update", "kind": "hang", "times": 1}'  # after the update, which itself takes no time
    rows(f"UPDATE simulated_machine SET fault = '{hang}' WHERE ref = (SELECT provider_ref FROM machine WHERE id = 15)")
    environment: dict[str, Any] = {"database_url": rows.settings.database_url, "operation_lease": 3.0}
    with serving(**environment) as program:
        send_commands(program.url)
        until(lambda: all(one.found == found_at("checkpointed", name) for name, one in operations(rows).items()))
        until(lambda: rows("SELECT name FROM simulated_snapshot WHERE ref = 'snapshot-1324'") == [("Ärger",)])
        program.kill()
    found = operations(rows)
    rows("UPDATE simulated_task SET done_at = started_at")
    with serving(**environment) as program:
        ends = {name: await_end(program.url, operation) for name, operation in found.items()}
        check_result(rows, program.url)
    table += [
        (rows.settings.database_url[:10], "from outside", name, found[name].found, ends[name]) for name in COMMANDS
    ]
    assert ends == dict.fromkeys(COMMANDS, "SUCCEEDED")
