"""PostgreSQL responds with an error: each condition has its own message, and the gateway recovers from it."""

import asyncio
import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from gateway.errors import Unavailable
from tests.databases import Databases, prepare
from tests.faults.client import COUNTS, CREATE, NAME, READ, create, query_error, retry_until_served
from tests.faults.conftest import short_timeouts
from tests.postgres import PostgresServer, find_binaries, terminate_connections
from tests.serving import Served, served
from tests.waiting import attempts, until

pytestmark = pytest.mark.thorough  # servers in processes of their own, and waits that are real

INPUT = {"input": {"machineId": "vm-11", "name": "never"}}
UNAVAILABLE = "SERVICE_UNAVAILABLE"
CONNECTIONS = 14  # of a small server
OTHERS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"


@pytest.fixture
def url(databases: Databases) -> str:
    return databases.new("postgresql", demo=True)


@pytest.fixture
def gateway(url: str) -> Iterator[Served]:
    with served(short_timeouts(url)) as running:
        yield running


@pytest.fixture
def operator(url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


def test_read_only(gateway: Served, operator: psycopg.Connection[Any]) -> None:
    """Reads are served and writes are refused until the database accepts writes again."""
    name = operator.info.dbname
    before = gateway.ask(COUNTS)
    operator.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    terminate_connections(operator, name)
    assert query_error(gateway, CREATE, INPUT) == (UNAVAILABLE, True, "The database is currently read-only.")
    assert gateway.ask(READ) == NAME
    assert gateway.http.post("/api/vms/11/snapshots", json={"name": "never"}).status_code == 503
    assert gateway.ask(COUNTS) == before
    operator.execute("SET default_transaction_read_only = off")
    operator.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    answer = create(gateway)["data"]["createSnapshot"]
    assert gateway.await_operation(answer["operation"]["id"])["state"] == "SUCCEEDED"


def test_lock_held_by_another_transaction(url: str, operator: psycopg.Connection[Any]) -> None:
    with served(short_timeouts(url, write_timeout=0.3)) as gateway:
        before = gateway.ask(COUNTS)
        with operator.transaction():
            operator.execute("SELECT id FROM machine WHERE id = 11 FOR UPDATE")
            message = "Another transaction holds a lock on a row that this request would change."
            assert query_error(gateway, CREATE, INPUT) == (UNAVAILABLE, True, message)
            assert gateway.ask(COUNTS) == before
        assert retry_until_served(gateway, CREATE, INPUT)["createSnapshot"]["errors"] == []


def test_statement_canceled_by_an_administrator(url: str, operator: psycopg.Connection[Any]) -> None:
    waiting = (
        "SELECT pg_cancel_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    with served(short_timeouts(url, write_timeout=30.0)) as gateway, ThreadPoolExecutor(1) as client:
        with psycopg.connect(url) as other:
            other.execute("SELECT id FROM machine WHERE id = 11 FOR UPDATE")
            answer = client.submit(query_error, gateway, CREATE, INPUT)
            until(lambda: (operator.execute(waiting), answer.done())[1])
        assert answer.result() == (UNAVAILABLE, True, "The database canceled the statement.")
        assert create(gateway)["data"]["createSnapshot"]["errors"] == []


def test_both_transactions_of_a_deadlock_succeed(url: str) -> None:
    """The database aborts one of the two, and the store repeats it."""
    begun: list[int] = []

    async def both(database: Any) -> None:
        met = asyncio.Barrier(2)

        def locking(first: int, second: int) -> Any:
            async def work(tx: Any) -> None:
                begun.append(first)
                await tx.rows("SET LOCAL deadlock_timeout = '10ms'")
                await tx.rows("SET LOCAL lock_timeout = '20s'")
                await tx.rows(f"SELECT id FROM machine WHERE id = {first} FOR UPDATE")
                if len(begun) <= 2:
                    await met.wait()
                await tx.rows(f"SELECT id FROM machine WHERE id = {second} FOR UPDATE")

            return work

        await asyncio.gather(database.write(locking(11, 12)), database.write(locking(12, 11)))

    with served(short_timeouts(url, write_timeout=30.0)) as gateway:
        gateway.run(both(gateway.gateway.database))
    assert sorted(begun[:2]) == [11, 12]
    assert len(begun) == 3


def test_idle_transaction_is_terminated(url: str) -> None:
    """A gateway that is stopped within a transaction: the server terminates the transaction and releases its locks."""
    begun = 0

    async def freeze_once(tx: Any) -> None:
        nonlocal begun
        begun += 1
        await tx.rows("SELECT id FROM machine WHERE id = 11 FOR UPDATE")
        if begun == 1:
            await asyncio.Event().wait()

    with served(short_timeouts(url, write_timeout=2.0)) as gateway:
        frozen = gateway.submit(gateway.gateway.database.write(freeze_once))
        until(lambda: begun == 1)
        assert retry_until_served(gateway, CREATE, INPUT)["createSnapshot"]["errors"] == []
        with pytest.raises(Unavailable):
            frozen.result(60)


def test_requests_over_the_queue_limit_are_refused_and_waits_are_limited(url: str) -> None:
    """Four requests are served and two may wait. The seventh is refused at once."""
    with served(short_timeouts(url, database_queue=2, database_wait=2.0, write_timeout=30.0)) as gateway:
        database = gateway.gateway.database

        async def overload() -> list[str]:
            gate, inside = asyncio.Event(), asyncio.Barrier(5)

            async def hold(tx: Any) -> None:
                await tx.rows("SELECT 1")
                await inside.wait()
                await gate.wait()

            async def quick(tx: Any) -> None:
                await tx.rows("SELECT 1")

            holding = [asyncio.create_task(database.write(hold)) for _ in range(4)]
            await inside.wait()
            waiting = [asyncio.create_task(database.write(quick)) for _ in range(2)]
            await asyncio.sleep(0)
            messages = []
            with pytest.raises(Unavailable) as seventh:
                await database.write(quick)
            messages.append(seventh.value.message)
            for task in waiting:
                with pytest.raises(Unavailable) as tired:
                    await task
                messages.append(tired.value.message)
            gate.set()
            await asyncio.gather(*holding)
            await database.write(quick)
            return messages

        gateway.run(gateway.gateway.worker.stop())
        gateway.run(gateway.gateway.jobs.stop())
        busy = "All database connections are busy."
        assert gateway.run(overload()) == ["The database queue is full: 2 requests are waiting already.", busy, busy]


@pytest.mark.thorough
def test_out_of_connections(databases: Databases) -> None:
    """Other clients have taken all connections of the server."""
    databases.postgres_server()  # or the test is skipped
    binaries = find_binaries()
    assert binaries is not None
    server = PostgresServer(binaries, f"max_connections={CONNECTIONS}", "superuser_reserved_connections=0")
    try:
        url = prepare(server.url(), demo=True)
        with served(short_timeouts(url)) as gateway, contextlib.ExitStack() as taken:
            operator = taken.enter_context(psycopg.connect(url, autocommit=True))
            left = CONNECTIONS - 1
            for _ in attempts():  # until the test holds all: one that the gateway has just closed may become free
                if not left:
                    break
                try:
                    taken.enter_context(psycopg.connect(url))
                    left -= 1
                except psycopg.OperationalError:  # the gateway holds the rest
                    operator.execute(f"{OTHERS} AND application_name LIKE 'snapshot-gateway %'")
            assert query_error(gateway, READ) == (UNAVAILABLE, True, "The database has no connections left.")
            taken.close()
            assert retry_until_served(gateway) == NAME
    finally:
        server.stop()
