"""A PostgreSQL that is away, however it went: a clear, retryable error on every surface, and back by itself."""

import signal

import psycopg
import pytest

from tests.cli.programs import refusal, serving
from tests.databases import Databases
from tests.faults.asking import (
    COUNTS,
    CREATE,
    NAME,
    READ,
    create,
    eventually,
    following,
    told,
    told_by_events,
    told_by_rest,
    told_by_websocket,
    until,
)
from tests.faults.conftest import Wired, wired_gateway, with_demo
from tests.faults.proxy import proxied

pytestmark = pytest.mark.thorough  # servers in processes of their own, and waits that are real

GONE = "the database cannot be reached"
SILENT = "the database does not answer in time"
UNAVAILABLE = "SERVICE_UNAVAILABLE"
WISH = {"input": {"machineId": "vm-11", "name": "never"}}


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("refuse", {GONE}),
        pytest.param("hang", {SILENT, "all database connections are busy"}, marks=pytest.mark.thorough),
    ],
)
def test_every_surface_says_so_and_serves_again(wired: Wired, fault: str, says: set[str]) -> None:
    gateway = wired.gateway
    before = gateway.ask(COUNTS)
    getattr(wired.wire, fault)()
    for code, retryable, message in (
        told(gateway, READ),
        told(gateway, CREATE, WISH),
        told_by_events(gateway),
        told_by_websocket(gateway),
    ):
        assert (code, retryable) == (UNAVAILABLE, True)
        assert message in says
    status, again, kind, message = told_by_rest(gateway)
    assert (status, again, kind) == (503, "1", "service_unavailable")
    assert message in says
    made = gateway.http.post("/api/vms/11/snapshots", json={"name": "never"})
    assert (made.status_code, made.headers["retry-after"]) == (503, "1")
    assert gateway.http.get("/readyz").status_code == 503
    assert gateway.http.get("/healthz").status_code == 200
    wired.wire.heal()
    assert eventually(gateway) == NAME
    assert eventually(gateway, COUNTS) == before
    assert gateway.http.get("/api/vms/11").json()["name"] == "web-01"
    answer = eventually(gateway, CREATE, {"input": WISH["input"] | {"name": "after"}})["createSnapshot"]
    assert gateway.await_operation(answer["operation"]["id"])["state"] == "SUCCEEDED"


def test_connections_that_died_unseen_cost_nobody_an_error(wired: Wired) -> None:
    """What certainly left no trace is done anew on a fresh connection, and once."""
    gateway = wired.gateway
    for number in range(4):
        wired.wire.cut()
        assert gateway.ask(READ) == NAME
        wired.wire.cut()
        answer = create(gateway, f"number {number}")["data"]["createSnapshot"]
        assert (answer["errors"], answer["snapshot"]["name"]) == ([], f"number {number}")
    names = gateway.ask('{ vm(id: "vm-11") { snapshots(filter: {name: {like: "number*"}}) { nodes { name } } } }')
    found = sorted(node["name"] for node in names["vm"]["snapshots"]["nodes"])
    assert found == [f"number {number}" for number in range(4)]


def test_an_administrator_ends_all_connections(wired: Wired) -> None:
    gateway = wired.gateway
    with psycopg.connect(wired.url, autocommit=True) as connection:
        for _ in range(3):
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            assert gateway.ask(READ) == NAME
            assert create(gateway)["data"]["createSnapshot"]["errors"] == []


def test_the_listening_connection_comes_back(wired: Wired) -> None:
    gateway = wired.gateway
    with psycopg.connect(wired.url, autocommit=True) as connection:

        def listening() -> int:
            found = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'"
            ).fetchone()
            assert found is not None
            number: int = found[0]
            return number

        until(lambda: listening() == 1)
        wired.wire.refuse()
        until(lambda: listening() == 0)
        wired.wire.heal()
        until(lambda: listening() == 1)
    assert gateway.ask(READ) == NAME


def test_work_and_those_who_follow_it_outlast_an_outage(databases: Databases) -> None:
    """The database is away for longer than a lease: the work is taken up again, done once, and told to its end."""
    with wired_gateway(databases, operation_lease=0.5) as wired:
        gateway = wired.gateway
        operation = create(gateway, "outlasting")["data"]["createSnapshot"]["operation"]["id"]
        with following(gateway, operation) as states:
            assert next(states)["state"] in {"QUEUED", "RUNNING"}
            wired.wire.refuse()
            until(lambda: "errors" in gateway.post(READ))
            until(lambda: not gateway.gateway.worker._jobs)  # its lease is over, so it has let go
            wired.wire.heal()
            assert [state["state"] for state in states][-1] == "SUCCEEDED"
        with psycopg.connect(wired.url) as connection:
            made = connection.execute("SELECT count(*) FROM simulated_snapshot WHERE name = 'outlasting'").fetchone()
        assert made == (1,)


@pytest.mark.thorough
def test_it_stops_when_it_is_told_to(databases: Databases) -> None:
    """Even when the database does not answer: nothing waits for it for ever."""
    url = with_demo(databases.new("postgresql"))
    port = databases.postgres_server().port
    with proxied(port) as wire:
        through = url.replace(f":{port}/", f":{wire.port}/")
        with serving("--database-url", through, drain_timeout=0.5, database_wait=1) as program:
            assert program.ask(READ) == NAME
            program.ask(CREATE, input={"machineId": "vm-11", "name": "left over"})
            wire.hang()
            code, out, _ = program.stop(signal.SIGTERM)
            assert (code, out) == (0, "stopped\n")


def test_a_command_says_so_in_one_line() -> None:
    said = refusal("refresh", database_url="postgresql://gateway@127.0.0.1:1/none?connect_timeout=2")
    assert said.startswith("the database cannot be used: ")
    assert "refused" in said
