"""SIGKILL at every step of a create, a revert and a delete: whoever serves next ends each truthfully, the tree whole.

The table that `pytest -s` shows: how each operation was found after the kill, and how it ended.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import orjson
import pytest

from gateway.app import opened_database
from gateway.inventory.demo import load_demo
from tests.cli.programs import serving
from tests.crash import victim
from tests.crash.rows import Rows
from tests.databases import KINDS, Databases
from tests.forked import Forked
from tests.graphql.asking import CREATE, DELETE, REVERT

pytestmark = pytest.mark.thorough

# A chain 309 <- … <- 319 with 319 current; a tree whose 302 has two children; 3 <- {4, 5} with 4 current.
MACHINES = {"revert": 13, "delete": 12, "create": 11}
WISHES: dict[str, tuple[str, dict[str, Any]]] = {
    "revert": (REVERT, {"snapshotId": "snapshot-311"}),
    "delete": (DELETE, {"ids": ["snapshot-302"]}),
    "create": (CREATE, {"machineId": "vm-11", "name": "new"}),
}


@dataclass
class Operation:
    """One of the three, as its row shows it."""

    id: int
    kind: str
    state: str
    issued: bool
    task: bool
    token: str
    error: str | None

    @property
    def found(self) -> str:
        return f"{self.state}{', issued' if self.issued else ''}{', task known' if self.task else ''}"


def operations(rows: Rows) -> dict[str, Operation]:
    """Those that were wished for here, by the first word of their kind."""
    found = rows(
        "SELECT id, kind, state, issued, task_ref IS NOT NULL, token, error_code FROM operation"
        " WHERE requested_by = 'local' ORDER BY id"
    )
    return {
        kind.partition("_")[0].lower(): Operation(id_, kind, state, bool(issued), bool(task), token, error)
        for id_, kind, state, issued, task, token, error in found
    }


@pytest.fixture(params=KINDS)
def rows(request: pytest.FixtureRequest, databases: Databases) -> Rows:
    """The demo world, whose providers take 0.1 seconds."""
    rows = Rows(databases.new(request.param))

    async def load() -> None:
        async with opened_database(rows.settings) as database:
            await load_demo(database, "default")

    asyncio.run(load())
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


def wish_everything(url: str) -> None:
    """All three; the server may die before it has answered the last one."""
    with client(url) as http:
        for name, (mutation, wished) in WISHES.items():
            try:
                payload = ask(http, mutation, input=wished)
            except httpx2.TransportError:
                assert name == "create"
                return
            assert payload["errors"] == []


UPDATED = "subscription ($id: ID!) { operationUpdated(id: $id) { state snapshotId isDone } }"


def await_end(url: str, operation: Operation) -> str:
    """Follows the operation on the server that lives on; its final state."""
    body = {"query": UPDATED, "variables": {"id": f"operation-{operation.id}"}}
    last: dict[str, Any] = {}
    with client(url) as http, http.stream("POST", "/graphql", json=body, headers=EVENTS) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                last = orjson.loads(line[6:])["data"]["operationUpdated"]
    assert last["isDone"]
    state: str = last["state"]
    return state


EVENTS = {"accept": "text/event-stream"}

TREE = "query ($id: ID!) { vm(id: $id) { snapshots(sort: [{field: ID}]) { nodes { id isCurrent parent { id } } } } }"


def check_the_world(rows: Rows, url: str) -> None:
    """Every wish came true once, and what the gateway shows is what the provider has."""
    done = operations(rows)
    for operation in done.values():
        assert rows(f"SELECT count(*) FROM simulated_task WHERE token = '{operation.token}'") == [(1,)]
    made = rows(f"SELECT ref FROM simulated_snapshot WHERE token = '{done['create'].token}'")
    assert len(made) == 1
    assert rows("SELECT count(*) FROM simulated_snapshot WHERE token IS NOT NULL") == [(1,)]
    assert rows("SELECT count(*) FROM snapshot WHERE state <> 'READY'") == [(0,)]
    for machine in MACHINES.values():
        shown = rows(
            "SELECT s.provider_ref, p.provider_ref, s.is_current FROM snapshot s"
            f" LEFT JOIN snapshot p ON p.id = s.parent_id WHERE s.machine_id = {machine} ORDER BY 1"
        )
        there = rows(
            "SELECT s.ref, s.parent_ref, s.ref = m.current_ref FROM simulated_snapshot s"
            " JOIN simulated_machine m ON m.ref = s.machine_ref"
            f" JOIN machine i ON i.provider_ref = m.ref WHERE i.id = {machine} ORDER BY 1"
        )
        assert shown == there
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
    assert trees["revert"][0] == ("309", None)
    assert trees["revert"][1:] == [("*" * (number == 311) + str(number), str(number - 1)) for number in range(310, 320)]
    assert trees["delete"] == [
        ("301", None), ("303", "301"), ("304", "303"), ("305", "301"), ("306", "305"), ("307", "306"), ("*308", "301")
    ]  # fmt: skip


def expire_leases(rows: Rows) -> None:
    """As if so long had passed that nobody waits for the dead any more."""
    rows("UPDATE operation SET lease_until = '2020-01-01T00:00:00.000000Z' WHERE lease_until IS NOT NULL")


@contextmanager
def living(rows: Rows) -> Iterator[str]:
    """The URL of a server that stays."""
    expire_leases(rows)
    server = Forked(rows.settings)
    try:
        yield server.url
    finally:
        server.kill()


FOUND = {
    "queued": "QUEUED",
    "claimed": "RUNNING",
    "issued": "RUNNING, issued",
    "handed over": "RUNNING, issued",
    "checkpointed": "RUNNING, issued, task known",
    "done": "RUNNING, issued, task known",
    "recorded": "SUCCEEDED, issued, task known",
}


@pytest.mark.parametrize("step", victim.STEPS)
def test_killed_at_a_step(rows: Rows, step: str, table: list[tuple[str, ...]]) -> None:
    server = victim.start(rows.settings, step)
    wish_everything(server.url)
    server.process.join(30)
    assert server.process.exitcode == -9
    found = operations(rows)
    assert {name: operation.found for name, operation in found.items()} == dict.fromkeys(WISHES, FOUND[step])
    with living(rows) as url:
        ends = {name: await_end(url, operation) for name, operation in found.items()}
        check_the_world(rows, url)
    table += [(rows.settings.database_url[:10], step, name, found[name].found, ends[name]) for name in WISHES]
    assert ends == dict.fromkeys(WISHES, "SUCCEEDED")


@pytest.mark.parametrize("name", WISHES)
def test_killed_before_it_was_accepted(rows: Rows, name: str, table: list[tuple[str, ...]]) -> None:
    """In the transaction, with everything written and nothing committed: nothing has happened."""
    before = rows.dump()
    server = victim.start(rows.settings, "accepting")
    mutation, wished = WISHES[name]
    with client(server.url) as http, pytest.raises(httpx2.TransportError):
        ask(http, mutation, input=wished | {"idempotencyKey": "k"})
    server.process.join(30)
    assert server.process.exitcode == -9
    with living(rows) as url, client(url) as http:
        assert ask(http, '{ operations(filter: {requestedBy: {eq: "local"}}) { nodes { id } } }') == {"nodes": []}
        assert rows.dump() == before
        table.append((rows.settings.database_url[:10], "accepting", name, "nothing", "nothing"))
        assert ask(http, mutation, input=wished | {"idempotencyKey": "k"})["errors"] == []


def test_each_successor_is_killed_at_the_next_step(rows: Rows) -> None:
    """Five servers die over the same three operations; the sixth ends them."""
    server = victim.start(rows.settings, "queued")
    wish_everything(server.url)
    server.process.join(30)
    for step in ("claimed", "issued", "handed over", "done"):
        expire_leases(rows)
        server = victim.start(rows.settings, step)
        server.process.join(30)
        assert server.process.exitcode == -9, step
    with living(rows) as url:
        found = operations(rows)
        assert {name: await_end(url, operation) for name, operation in found.items()} == dict.fromkeys(
            WISHES, "SUCCEEDED"
        )
        check_the_world(rows, url)


def test_the_program_is_killed_while_the_provider_works(rows: Rows, table: list[tuple[str, ...]]) -> None:
    """From outside, as the kernel would: `python -m gateway serve`, twice, and the leases run out by themselves."""
    rows("UPDATE simulated_machine SET latency_ms = 1000")
    environment = {"database_url": rows.settings.database_url, "operation_lease": 0.4}
    with serving(**environment) as program:
        wish_everything(program.url)
        while {operation.found for operation in operations(rows).values()} != {FOUND["checkpointed"]}:
            pass
        program.kill()
    found = operations(rows)
    with serving(**environment) as program:
        ends = {name: await_end(program.url, operation) for name, operation in found.items()}
        check_the_world(rows, program.url)
    table += [(rows.settings.database_url[:10], "from outside", name, found[name].found, ends[name]) for name in WISHES]
    assert ends == dict.fromkeys(WISHES, "SUCCEEDED")
