"""A PostgreSQL that answers, but cannot do what it is asked: each trouble has its own words, and passes."""

import asyncio
import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from gateway.errors import Unavailable
from tests.databases import Databases
from tests.faults.asking import COUNTS, CREATE, NAME, READ, create, eventually, told, until
from tests.faults.conftest import hasty, with_demo
from tests.postgres import PostgresServer, find_binaries
from tests.serving import Served, served

pytestmark = pytest.mark.thorough  # servers in processes of their own, and waits that are real

WISH = {"input": {"machineId": "vm-11", "name": "never"}}
UNAVAILABLE = "SERVICE_UNAVAILABLE"
CONNECTIONS = 14  # that a small server has
OTHERS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"


@pytest.fixture
def url(databases: Databases) -> str:
    return with_demo(databases.new("postgresql"))


@pytest.fixture
def gateway(url: str) -> Iterator[Served]:
    with served(hasty(url)) as running:
        yield running


@pytest.fixture
def operator(url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


def test_read_only(gateway: Served, operator: psycopg.Connection[Any]) -> None:
    """Reads are served, writes are refused; when it takes writes again, so does the gateway."""
    name = operator.info.dbname
    before = gateway.ask(COUNTS)
    operator.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    operator.execute(f"{OTHERS} AND pid <> pg_backend_pid()")
    assert told(gateway, CREATE, WISH) == (UNAVAILABLE, True, "the database is read-only for now")
    assert gateway.ask(READ) == NAME
    assert gateway.http.post("/api/vms/11/snapshots", json={"name": "never"}).status_code == 503
    assert gateway.ask(COUNTS) == before
    operator.execute("SET default_transaction_read_only = off")
    operator.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    answer = create(gateway)["data"]["createSnapshot"]
    assert gateway.await_operation(answer["operation"]["id"])["state"] == "SUCCEEDED"


def test_a_lock_that_others_hold(url: str, operator: psycopg.Connection[Any]) -> None:
    with served(hasty(url, write_timeout=0.3)) as gateway:
        before = gateway.ask(COUNTS)
        with operator.transaction():
            operator.execute("SELECT id FROM machine WHERE id = 11 FOR UPDATE")
            says = "other work holds on to what this would change"
            assert told(gateway, CREATE, WISH) == (UNAVAILABLE, True, says)
            assert gateway.ask(COUNTS) == before
        assert eventually(gateway, CREATE, WISH)["createSnapshot"]["errors"] == []


def test_a_statement_that_an_administrator_ends(url: str, operator: psycopg.Connection[Any]) -> None:
    waiting = (
        "SELECT pg_cancel_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    with served(hasty(url, write_timeout=30.0)) as gateway, ThreadPoolExecutor(1) as client:
        with psycopg.connect(url) as other:
            other.execute("SELECT id FROM machine WHERE id = 11 FOR UPDATE")
            answer = client.submit(told, gateway, CREATE, WISH)
            until(lambda: (operator.execute(waiting), answer.done())[1])
        assert answer.result() == (UNAVAILABLE, True, "the database has ended the statement")
        assert create(gateway)["data"]["createSnapshot"]["errors"] == []


def test_those_who_stand_in_each_others_way_both_go_on(url: str) -> None:
    """A deadlock: the database ends one, and the store begins it anew."""
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

    with served(hasty(url, write_timeout=30.0)) as gateway:
        gateway.run(both(gateway.gateway.database))
    assert sorted(begun[:2]) == [11, 12]
    assert len(begun) == 3


def test_a_lock_is_taken_from_whoever_does_not_move(url: str) -> None:
    """As a gateway that was frozen in the middle of a transaction: the server ends that, and others go on."""
    begun = 0

    async def freeze_once(tx: Any) -> None:
        nonlocal begun
        begun += 1
        await tx.rows("SELECT id FROM machine WHERE id = 11 FOR UPDATE")
        if begun == 1:
            await asyncio.Event().wait()

    with served(hasty(url, write_timeout=0.3)) as gateway:
        frozen = asyncio.run_coroutine_threadsafe(gateway.gateway.database.write(freeze_once), gateway._loop)
        until(lambda: begun == 1)
        assert eventually(gateway, CREATE, WISH)["createSnapshot"]["errors"] == []
        with pytest.raises(Unavailable):
            frozen.result(30)


def test_a_crowd_is_refused_at_once_and_nobody_waits_for_ever(url: str) -> None:
    """Four are served, two may wait, and the seventh need not."""
    with served(hasty(url, database_queue=2, database_wait=0.5, write_timeout=30.0)) as gateway:
        database = gateway.gateway.database

        async def crowd() -> list[str]:
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
            said = []
            with pytest.raises(Unavailable) as seventh:
                await database.write(quick)
            said.append(seventh.value.message)
            for task in waiting:
                with pytest.raises(Unavailable) as tired:
                    await task
                said.append(tired.value.message)
            gate.set()
            await asyncio.gather(*holding)
            await database.write(quick)
            return said

        gateway.run(gateway.gateway.worker.stop())
        gateway.run(gateway.gateway.inventory.stop())
        busy = "all database connections are busy"
        assert gateway.run(crowd()) == ["2 requests are waiting for the database already", busy, busy]


@pytest.mark.thorough
def test_out_of_connections(databases: Databases) -> None:
    """The server has none left, because others have taken them all."""
    databases.postgres_server()  # or the test is skipped
    binaries = find_binaries()
    assert binaries is not None
    server = PostgresServer(binaries, f"max_connections={CONNECTIONS}", "superuser_reserved_connections=0")
    try:
        url = with_demo(server.url())
        with served(hasty(url)) as gateway, contextlib.ExitStack() as taken:
            operator = taken.enter_context(psycopg.connect(url, autocommit=True))
            left = CONNECTIONS - 1
            while left:  # until they are all held here: one that the gateway lost a moment ago may be free again
                try:
                    taken.enter_context(psycopg.connect(url))
                    left -= 1
                except psycopg.OperationalError:  # the rest is the gateway's
                    operator.execute(f"{OTHERS} AND application_name = 'snapshot-gateway'")
            assert told(gateway, READ) == (UNAVAILABLE, True, "the database has no connections left")
            taken.close()
            assert eventually(gateway) == NAME
    finally:
        server.stop()
