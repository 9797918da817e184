"""`/healthz` and `/readyz` report failures: each part that can fail is made to fail."""

import asyncio
import sqlite3
from contextlib import closing

import psycopg
import pytest

from gateway.config import Settings
from tests.cli.programs import serving
from tests.databases import SLOW_KINDS, Databases
from tests.postgres import terminate_connections
from tests.serving import Served, served
from tests.waiting import until

PARTS = dict.fromkeys(("feed", "worker", "watch", "jobs"), "ok")
OK = {"status": "ok", "gateway": "ok", "database": "ok", "schema": "ok", **PARTS}
ALIVE = {"status": "ok", **PARTS}


def health_of(gateway: Served, path: str = "/readyz") -> tuple[int, dict[str, str]]:
    """The status and body of a health response."""
    response = gateway.http.get(path)
    assert response.headers["cache-control"] == "no-store"
    body: dict[str, str] = response.json()
    return response.status_code, body


def failures(body: dict[str, str]) -> dict[str, str]:
    """The states other than `ok`."""
    return {name: state for name, state in body.items() if state != "ok"}


def test_healthy(demo: Served) -> None:
    assert health_of(demo) == (200, OK)
    assert health_of(demo, "/healthz") == (200, ALIVE)


def test_stopping(server: Served) -> None:
    server.gateway.health.stopping = True
    assert health_of(server) == (503, OK | {"status": "unavailable", "gateway": "is stopping"})
    assert health_of(server, "/healthz") == (200, ALIVE)


@pytest.mark.parametrize("kind", SLOW_KINDS)
def test_schema_revisions(databases: Databases, kind: str) -> None:
    """An older revision is not ready. An unknown one is newer, and this version serves it until it is replaced."""
    with served(Settings(database_url=databases.new(kind))) as gateway:
        for revision, problem in (("0001", "is at revision 0001 and must be migrated"), ("9999", None)):

            async def write(transaction: object, to: str = revision) -> None:
                await transaction.rows(f"UPDATE alembic_version SET version_num = '{to}'")  # type: ignore[attr-defined]

            gateway.run(gateway.gateway.database.write(write))
            status, body = health_of(gateway)
            assert (status, body["schema"]) == ((503, problem) if problem else (200, "ok"))


def test_the_database_is_unavailable(databases: Databases) -> None:
    """The gateway becomes ready again when the database accepts connections again."""
    url = databases.new("postgresql")
    name = url.rpartition("/")[2]
    with (
        served(Settings(database_url=url)) as gateway,
        psycopg.connect(databases.postgres_server().url(), autocommit=True) as admin,
    ):
        admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        terminate_connections(admin, name)
        status, body = health_of(gateway)
        assert (status, body["status"], body["database"]) == (503, "unavailable", "does not answer")
        assert health_of(gateway, "/healthz") == (200, ALIVE)  # restarting the process would not help
        admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        until(lambda: health_of(gateway)[0] == 200)


@pytest.mark.parametrize("part", ["feed", "worker", "watch", "jobs"])
def test_a_background_part_has_ended(server: Served, part: str) -> None:
    """As after a bug that its loop does not catch. Only a restart of the process helps."""
    names = {"feed": "feed", "worker": "claim", "watch": "watch", "jobs": "jobs"}

    async def end() -> None:
        task = next(task for task in asyncio.all_tasks() if task.get_name().startswith(names[part]))
        task.cancel()
        await asyncio.wait([task])

    server.run(end())
    for path in ("/readyz", "/healthz"):
        status, body = health_of(server, path)
        assert (status, failures(body)) == (503, {"status": "unavailable", part: "has ended"})


def test_a_stuck_worker(databases: Databases) -> None:
    """Another process locks the database file for longer than a lease."""
    url = databases.new("sqlite")
    with (
        served(Settings(database_url=url, operation_lease=0.1)) as gateway,
        closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as other,
    ):
        other.execute("BEGIN IMMEDIATE")
        until(lambda: health_of(gateway)[1]["worker"].startswith("has been stuck for "))
        assert health_of(gateway)[0] == 503
        assert gateway.ask("{ viewer { name } }")["viewer"]["name"]
        other.execute("ROLLBACK")
        until(lambda: health_of(gateway) == (200, OK))


@pytest.mark.thorough
def test_readiness_fails_before_the_gateway_stops(databases: Databases) -> None:
    """A second signal ends the delay."""
    with serving("--database-url", databases.new("sqlite"), stop_delay=600) as program:
        assert program.http.get("/readyz").status_code == 200
        program.process.terminate()
        response = until(lambda: None if (found := program.http.get("/readyz")).status_code == 200 else found)
        assert (response.status_code, response.json()["gateway"]) == (503, "is stopping")
        assert program.ask("{ viewer { name } }")["viewer"]["name"]
        program.process.terminate()
        out, _ = program.process.communicate(timeout=30)
        assert (program.process.returncode, out) == (0, "stopped\n")


def test_concurrent_checks_share_their_reads(demo: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anyone may send checks, so a flood of them must not occupy the database."""
    health, database = demo.gateway.health, demo.gateway.database
    reads = 0

    async def check_many_times() -> list[dict[str, str]]:
        nonlocal reads
        read = database.read

        async def slow_read(work: object, *, single: bool = False) -> object:
            nonlocal reads
            reads += work.__name__ == "_revision"  # type: ignore[attr-defined]
            await asyncio.sleep(0)
            return await read(work, single=single)  # type: ignore[arg-type]

        monkeypatch.setattr(database, "read", slow_read)
        return await asyncio.gather(*(health.readiness() for _ in range(20)))

    states = {name: state for name, state in OK.items() if name != "status"}
    assert demo.run(check_many_times()) == [states] * 20
    assert reads == 1
