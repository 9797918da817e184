"""`/healthz` and `/readyz` tell the truth: each thing that can break is broken, and looked at from outside."""

import asyncio
import sqlite3
from contextlib import closing

import psycopg
import pytest

from gateway.config import Settings
from tests.cli.programs import serving
from tests.databases import SLOW_KINDS, Databases
from tests.serving import Served, served

PARTS = dict.fromkeys(("feed", "worker", "inventory", "watch"), "ok")
OK = {"status": "ok", "gateway": "ok", "database": "ok", "schema": "ok", **PARTS}
ALIVE = {"status": "ok", **PARTS}


def asked(gateway: Served, path: str = "/readyz") -> tuple[int, dict[str, str]]:
    answer = gateway.http.get(path)
    assert answer.headers["cache-control"] == "no-store"
    body: dict[str, str] = answer.json()
    return answer.status_code, body


def troubles(body: dict[str, str]) -> dict[str, str]:
    """What is not ok."""
    return {name: state for name, state in body.items() if state != "ok"}


def test_all_is_well(demo: Served) -> None:
    assert asked(demo) == (200, OK)
    assert asked(demo, "/healthz") == (200, ALIVE)


def test_it_is_stopping(server: Served) -> None:
    server.gateway.health.stopping = True
    assert asked(server) == (503, OK | {"status": "unavailable", "gateway": "is stopping"})
    assert asked(server, "/healthz") == (200, ALIVE)


@pytest.mark.parametrize("kind", SLOW_KINDS)
def test_the_schema(databases: Databases, kind: str) -> None:
    """An older one cannot be served; an unknown one is newer, and this version serves until it is replaced."""
    with served(Settings(database_url=databases.new(kind))) as gateway:
        for revision, trouble in (("0001", "is at 0001, and not migrated"), ("9999", None)):

            async def write(transaction: object, to: str = revision) -> None:
                await transaction.rows(f"UPDATE alembic_version SET version_num = '{to}'")  # type: ignore[attr-defined]

            gateway.run(gateway.gateway.database.write(write))
            status, body = asked(gateway)
            assert (status, body["schema"]) == ((503, trouble) if trouble else (200, "ok"))


def test_the_database_is_gone(databases: Databases) -> None:
    """Its connections are cut and no new ones are let in; then it comes back, and so does the gateway."""
    url = databases.new("postgresql")
    name = url.rpartition("/")[2]
    with (
        served(Settings(database_url=url)) as gateway,
        psycopg.connect(databases.postgres_server().url(), autocommit=True) as admin,
    ):
        admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
        status, body = asked(gateway)
        assert (status, body["status"], body["database"]) == (503, "unavailable", "does not answer")
        assert asked(gateway, "/healthz") == (200, ALIVE)  # a new start of the process would not help
        admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        while asked(gateway)[0] != 200:
            pass


@pytest.mark.parametrize("part", ["feed", "worker", "inventory", "watch"])
def test_a_part_has_ended(server: Served, part: str) -> None:
    """As it would by a bug that no loop catches: then only a new start helps."""
    names = {"feed": "feed", "worker": "claim", "inventory": "refresh", "watch": "watch"}

    async def end() -> None:
        task = next(task for task in asyncio.all_tasks() if task.get_name().startswith(names[part]))
        task.cancel()
        await asyncio.wait([task])

    server.run(end())
    for path in ("/readyz", "/healthz"):
        status, body = asked(server, path)
        assert (status, troubles(body)) == (503, {"status": "unavailable", part: "has ended"})


def test_the_worker_is_stuck(databases: Databases) -> None:
    """Another process keeps the file locked for longer than leases last."""
    url = databases.new("sqlite")
    with (
        served(Settings(database_url=url, operation_lease=0.1)) as gateway,
        closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as other,
    ):
        other.execute("BEGIN IMMEDIATE")
        while not (answer := asked(gateway))[1]["worker"].startswith("is stuck for "):
            pass
        assert answer[0] == 503
        assert gateway.ask("{ viewer { name } }")["viewer"]["name"]
        other.execute("ROLLBACK")
        while asked(gateway) != (200, OK):
            pass


@pytest.mark.thorough
def test_a_balancer_sees_it_stop_before_it_does(databases: Databases) -> None:
    with serving("--database-url", databases.new("sqlite"), stop_delay=2) as program:
        assert program.http.get("/readyz").status_code == 200
        program.process.terminate()
        while (answer := program.http.get("/readyz")).status_code == 200:
            pass
        assert (answer.status_code, answer.json()["gateway"]) == (503, "is stopping")
        assert program.ask("{ viewer { name } }")["viewer"]["name"]
        out, _ = program.process.communicate(timeout=30)
        assert (program.process.returncode, out) == (0, "stopped\n")
