"""PostgreSQL is unreachable: every surface returns a retryable error, and the gateway recovers by itself."""

import signal

import psycopg
import pytest

from tests.cli.programs import refusal, serving
from tests.databases import Databases
from tests.faults.client import (
    COUNTS,
    CREATE,
    NAME,
    READ,
    create,
    following,
    query_error,
    rest_error,
    retry_until_served,
    sse_error,
    websocket_error,
)
from tests.faults.conftest import LONG_TIMEOUTS, RelayedGateway, relayed_gateway
from tests.postgres import terminate_connections
from tests.tcp_relay import running_relay
from tests.waiting import until

pytestmark = pytest.mark.thorough  # servers in processes of their own, and waits that are real

GONE = "The database cannot be reached."
SILENT = "The database did not answer in time."
UNAVAILABLE = "SERVICE_UNAVAILABLE"
INPUT = {"input": {"machineId": "vm-11", "name": "never"}}


@pytest.mark.parametrize(
    ("fault", "messages"),
    [
        ("refuse", {GONE}),
        pytest.param("hang", {SILENT, "All database connections are busy."}, marks=pytest.mark.thorough),
    ],
)
def test_every_surface_returns_an_error_and_recovers(databases: Databases, fault: str, messages: set[str]) -> None:
    # What is refused fails at once, and not because a timeout was reached. That there are no users is known.
    timeouts = {} if fault == "hang" else LONG_TIMEOUTS
    with relayed_gateway(databases, **timeouts, credentials_trusted=3_600.0) as relayed:
        check_outage(relayed, fault, messages)


def check_outage(relayed: RelayedGateway, fault: str, messages: set[str]) -> None:
    gateway = relayed.gateway
    before = gateway.ask(COUNTS)
    getattr(relayed.relay, fault)()
    for code, retryable, message in (
        query_error(gateway, READ),
        query_error(gateway, CREATE, INPUT),
        sse_error(gateway),
        websocket_error(gateway),
    ):
        assert (code, retryable) == (UNAVAILABLE, True)
        assert message in messages
    status, again, kind, message = rest_error(gateway)
    assert (status, again, kind) == (503, "1", "service_unavailable")
    assert message in messages
    made = gateway.http.post("/api/vms/11/snapshots", json={"name": "never"})
    assert (made.status_code, made.headers["retry-after"]) == (503, "1")
    assert gateway.http.get("/readyz").status_code == 503
    assert gateway.http.get("/healthz").status_code == 200
    relayed.relay.heal()
    assert retry_until_served(gateway) == NAME
    assert retry_until_served(gateway, COUNTS) == before
    assert gateway.http.get("/api/vms/11").json()["name"] == "web-01"
    answer = retry_until_served(gateway, CREATE, {"input": INPUT["input"] | {"name": "after"}})["createSnapshot"]
    assert gateway.await_operation(answer["operation"]["id"])["state"] == "SUCCEEDED"


def test_lost_connections_cause_no_errors(relayed: RelayedGateway) -> None:
    """A request that certainly had no effect is repeated on a new connection, and takes effect once."""
    gateway = relayed.gateway
    for number in range(4):
        relayed.relay.cut()
        assert gateway.ask(READ) == NAME
        relayed.relay.cut()
        answer = create(gateway, f"number {number}")["data"]["createSnapshot"]
        assert (answer["errors"], answer["snapshot"]["name"]) == ([], f"number {number}")
    names = gateway.ask('{ vm(id: "vm-11") { snapshots(filter: {name: {like: "number*"}}) { nodes { name } } } }')
    found = sorted(node["name"] for node in names["vm"]["snapshots"]["nodes"])
    assert found == [f"number {number}" for number in range(4)]


def test_administrator_terminates_all_connections(relayed: RelayedGateway) -> None:
    gateway = relayed.gateway
    with psycopg.connect(relayed.url, autocommit=True) as connection:
        for _ in range(3):
            terminate_connections(connection, connection.info.dbname)
            assert gateway.ask(READ) == NAME
            assert create(gateway)["data"]["createSnapshot"]["errors"] == []


def test_listening_connection_is_reopened(relayed: RelayedGateway) -> None:
    gateway = relayed.gateway
    with psycopg.connect(relayed.url, autocommit=True) as connection:

        def listening() -> int:
            found = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'"
            ).fetchone()
            assert found is not None
            number: int = found[0]
            return number

        until(lambda: listening() == 1)
        relayed.relay.refuse()
        until(lambda: listening() == 0)
        relayed.relay.heal()
        until(lambda: listening() == 1)
    assert gateway.ask(READ) == NAME


def test_operations_and_their_subscribers_survive_an_outage(databases: Databases) -> None:
    """The outage is longer than a lease: the operation is claimed again, runs once, and is reported to its end."""
    with (
        relayed_gateway(databases, operation_lease=3.0, **LONG_TIMEOUTS) as relayed,
        psycopg.connect(relayed.url, autocommit=True) as connection,
    ):
        gateway = relayed.gateway
        connection.execute("UPDATE simulated_machine SET latency_ms = 600000")
        operation = create(gateway, "outlasting")["data"]["createSnapshot"]["operation"]["id"]
        with following(gateway, operation) as states:
            assert next(states)["state"] in {"QUEUED", "RUNNING"}
            relayed.relay.refuse()
            until(lambda: "errors" in gateway.post(READ))
            until(lambda: gateway.gateway.worker.running == 0)  # the lease has expired: the worker canceled its task
            relayed.relay.heal()
            connection.execute("UPDATE simulated_machine SET latency_ms = 0")

            def is_done() -> bool:
                connection.execute("UPDATE simulated_task SET done_at = started_at")
                found = connection.execute("SELECT 1 FROM operation WHERE state = 'SUCCEEDED' AND id = %s", [number])
                return found.fetchone() is not None

            number = int(operation.removeprefix("operation-"))
            until(is_done)
            assert [state["state"] for state in states][-1] == "SUCCEEDED"
        made = connection.execute("SELECT count(*) FROM simulated_snapshot WHERE name = 'outlasting'").fetchone()
        assert made == (1,)


@pytest.mark.thorough
def test_stop_on_sigterm_during_an_outage(databases: Databases) -> None:
    """The process stops although the database does not respond."""
    url = databases.new("postgresql", demo=True)
    with (
        running_relay(databases.postgres_server().port) as relay,
        serving("--database-url", relay.url(url.rpartition("/")[2]), drain_timeout=0.5, database_wait=1) as program,
    ):
        assert program.ask(READ) == NAME
        program.ask(CREATE, input={"machineId": "vm-11", "name": "left over"})
        relay.hang()
        code, out, _ = program.stop(signal.SIGTERM)
        assert (code, out) == (0, "stopped\n")


def test_command_line_reports_the_outage_in_one_line() -> None:
    message = refusal("refresh", database_url="postgresql://gateway@127.0.0.1:1/none?connect_timeout=2")
    assert message.startswith("The database cannot be used: ")
    assert "refused" in message
