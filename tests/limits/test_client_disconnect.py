"""The SQL of a query is canceled when its client disconnects. Mutations are not canceled."""

import asyncio
import contextlib
import json
import socket
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from gateway.config import Settings
from gateway.fair_queue import CLAIM, Claim
from gateway.store.database_url import open_database
from tests.databases import Databases
from tests.serving import Served, served
from tests.waiting import until

pytestmark = pytest.mark.thorough  # starts server processes and waits for real timeouts

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
LONG = ENDLESS.replace("FROM n)", "FROM n WHERE i < 1000000)")
WAITING = (
    "SELECT query FROM pg_stat_activity WHERE application_name LIKE 'snapshot-gateway %' AND wait_event_type = 'Lock'"
    " AND datname = current_database()"
)
READ = '{ vm(id: "vm-11") { snapshots { nodes { name } } } }'
WRITE = 'mutation { createSnapshot(input: {machineId: "vm-11", name: "disconnected"}) { operation { id } } }'


def test_sqlite_stops_a_canceled_read(databases: Databases) -> None:
    """The only thread is free at once, although the timeout of the read is ten minutes."""

    async def main() -> int:
        CLAIM.set(Claim("a"))  # of a caller: another thread is reserved for the gateway
        database = open_database(databases.new("sqlite"), read_connections=1, write_connections=1, read_timeout=600)
        began = asyncio.Event()
        loop = asyncio.get_running_loop()

        async def endless(tx: Any) -> Any:
            loop.call_soon_threadsafe(began.set)
            return await tx.rows(ENDLESS)

        async def long(tx: Any) -> Any:
            return await tx.rows(LONG)

        reading = asyncio.create_task(database.read(endless, single=True))
        await began.wait()
        reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reading
        async with asyncio.timeout(60):
            ((count,),) = await database.read(long, single=True)
            await database.close()
        return int(count)

    assert asyncio.run(main()) == 1_000_000


@pytest.fixture
def url(databases: Databases) -> str:
    return databases.new("postgresql", demo=True)


@pytest.fixture
def gateway(url: str) -> Iterator[Served]:
    settings = Settings(database_url=url, read_timeout=600.0, read_connections=32)
    with served(settings) as found:
        yield found


def send(gateway: Served, query: str) -> socket.socket:
    body = json.dumps({"query": query}).encode()
    connection = socket.create_connection(("127.0.0.1", int(gateway.url.rpartition(":")[2])), 20)
    head = f"POST /graphql HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    connection.sendall(head.encode() + b"\r\n\r\n" + body)
    return connection


def test_postgresql_cancels_a_read_when_the_client_disconnects(gateway: Served, url: str) -> None:
    with psycopg.connect(url) as blocking, psycopg.connect(url, autocommit=True) as looking:

        def waiting() -> list[str]:
            """The client's blocked queries. A refresh also waits for the lock, and selects more columns."""
            queries = [query for (query,) in looking.execute(WAITING)]
            return [query for query in queries if "snapshot" in query and "provider_ref" not in query]

        blocking.execute("LOCK TABLE snapshot IN ACCESS EXCLUSIVE MODE")
        with send(gateway, READ):
            until(lambda: bool(waiting()))
        until(lambda: not waiting())
        blocking.rollback()
    assert gateway.ask("{ viewer { name } }") == {"viewer": {"name": "local"}}


def test_a_mutation_runs_to_its_end_when_the_client_disconnects(gateway: Served, url: str) -> None:
    with psycopg.connect(url) as blocking, psycopg.connect(url, autocommit=True) as looking:
        blocking.execute("LOCK TABLE snapshot IN ACCESS EXCLUSIVE MODE")
        with send(gateway, WRITE):
            until(lambda: any("snapshot" in query for (query,) in looking.execute(WAITING)))
        # This request is served after the gateway has detected the disconnect.
        assert gateway.ask("{ viewer { name } }") == {"viewer": {"name": "local"}}
        blocking.rollback()

    def created() -> bool:
        found = gateway.ask('{ snapshots(filter: {name: {eq: "disconnected"}}) { totalCount } }')
        return bool(found["snapshots"]["totalCount"] == 1)

    until(created)
