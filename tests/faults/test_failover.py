"""Failover to a standby that the URL names too: no acknowledged write is lost."""

import signal
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from gateway.store.migrate import migrate
from gateway.store.postgres_hosts import single_host_urls
from tests.databases import Databases, prepare
from tests.faults.client import COUNTS, create, retry_until_served
from tests.faults.conftest import short_timeouts
from tests.postgres import PostgresServer, find_binaries
from tests.serving import Served, served
from tests.waiting import until

ALL = '{ vm(id: "vm-11") { snapshots(first: 1000, filter: {name: {like: "kept*"}}) { nodes { id name } } } }'


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("postgresql://u:p@h/d", ["postgresql://u:p@h/d"]),
        (
            "postgresql://u:p@h1:1,h2:2/d?target_session_attrs=read-write&connect_timeout=3&sslmode=require",
            [f"postgresql://u:p@h{n}:{n}/d?target_session_attrs=read-write&sslmode=require" for n in (1, 2)],
        ),
        ("postgresql://u@[::1]:1,h2/d", ["postgresql://u@[::1]:1/d", "postgresql://u@h2/d"]),
        ("postgresql:///d?host=h1,h2&port=1,2", ["postgresql://h1/d?port=1", "postgresql://h2/d?port=2"]),
        ("postgresql://u@/d?host=/run/postgresql", ["postgresql://u@/d?host=%2Frun%2Fpostgresql"]),
    ],
)
def test_urls_of_single_hosts(url: str, hosts: list[str]) -> None:
    assert single_host_urls(url) == hosts


@pytest.fixture
def pair(databases: Databases) -> Iterator[tuple[PostgresServer, PostgresServer]]:
    """A primary and a synchronous standby."""
    databases.postgres_server()  # or the test is skipped
    binaries = find_binaries()
    assert binaries is not None
    primary = PostgresServer(binaries, "synchronous_commit=on")
    try:
        prepare(primary.url(), demo=True)
        standby = PostgresServer(binaries, "synchronous_commit=on", primary=primary)
        try:
            with psycopg.connect(primary.url(), autocommit=True) as connection:
                connection.execute("ALTER SYSTEM SET synchronous_standby_names = 'standby'")
                connection.execute("SELECT pg_reload_conf()")
                state = "SELECT sync_state = 'sync' FROM pg_stat_replication"
                until(lambda: connection.execute(state).fetchone() == (True,))
            yield primary, standby
        finally:
            standby.stop()
    finally:
        primary.stop()


class Load:
    """Clients that create snapshots and store which were acknowledged."""

    def __init__(self, gateway: Served, clients: int = 3) -> None:
        self._gateway = gateway
        self._stopped = threading.Event()
        self.acknowledged: dict[str, str] = {}
        self.codes: set[str] = set()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(clients)]
        for thread in self._threads:
            thread.start()

    def _run(self, client: int) -> None:
        number = 0
        while not self._stopped.is_set():
            name = f"kept-{client}-{number}"
            body: dict[str, Any] = create(self._gateway, name)
            if "errors" in body:
                self.codes |= {error["extensions"]["code"] for error in body["errors"]}
            elif not (payload := body["data"]["createSnapshot"])["errors"]:
                self.acknowledged[payload["snapshot"]["id"]] = name
            number += 1

    def stop(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join(30)


@pytest.mark.thorough
@pytest.mark.parametrize("frozen", [False, True], ids=["power off", "frozen"])
def test_standby_takes_over(pair: tuple[PostgresServer, PostgresServer], frozen: bool) -> None:
    primary, standby = pair
    url = (
        f"postgresql://gateway@127.0.0.1:{primary.port},127.0.0.1:{standby.port}/postgres"
        "?target_session_attrs=read-write&sslmode=prefer&connect_timeout=2"
    )
    migrate(url)  # psycopg reads it too
    settings = short_timeouts(url, operation_queue_per_machine=100_000, operation_lease=2.0, database_wait=1.0)
    with served(settings) as gateway:
        load = Load(gateway)
        try:
            until(lambda: len(load.acknowledged) >= 20)
            if frozen:
                primary.signal(signal.SIGSTOP)  # the host accepts connections and does not respond
            else:
                primary.kill()
            before = len(load.acknowledged)
            until(lambda: "SERVICE_UNAVAILABLE" in load.codes)
            standby.promote()
            until(lambda: len(load.acknowledged) >= before + 20)
        finally:
            load.stop()
            primary.kill()
        assert load.codes <= {"SERVICE_UNAVAILABLE", "OUTCOME_UNKNOWN"}
        found = {node["id"]: node["name"] for node in retry_until_served(gateway, ALL)["vm"]["snapshots"]["nodes"]}
        assert load.acknowledged.items() <= found.items()
        assert len({*found.values()}) == len(found)
        done = retry_until_served(gateway, COUNTS)["operations"]["totalCount"]
        assert done >= len(found)
        migrate(url)


@pytest.mark.thorough
def test_commit_without_standby_is_not_acknowledged(pair: tuple[PostgresServer, PostgresServer]) -> None:
    """A statement timeout of the server would end the wait for the standby and report the commit as done."""
    primary, standby = pair
    with psycopg.connect(primary.url(), autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET statement_timeout = '200ms'")
        connection.execute("SELECT pg_reload_conf()")
    with served(short_timeouts(primary.url())) as gateway:
        gateway.run(gateway.gateway.worker.stop())
        gateway.run(gateway.gateway.jobs.stop())
        assert create(gateway, "kept")["data"]["createSnapshot"]["errors"] == []
        standby.signal(signal.SIGSTOP)
        try:
            (error,) = create(gateway, "in doubt")["errors"]
            assert error["extensions"] == {"code": "OUTCOME_UNKNOWN"}
        finally:
            standby.signal(signal.SIGCONT)
        assert create(gateway, "kept too")["data"]["createSnapshot"]["errors"] == []
