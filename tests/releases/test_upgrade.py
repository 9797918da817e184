"""Upgrades of the databases of every released version: migrated with their data, served, their operations finished."""

import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from gateway.config import Settings
from gateway.store.migrate import check, migrate
from tests.cli.programs import GATEWAY, environment
from tests.databases import KINDS, SLOW_KINDS, Databases
from tests.graphql.client import execute_sql, set_latency
from tests.serving import Served, served

HERE = Path(__file__).parent
RELEASES = sorted({path.name.split(".sqlite")[0] for path in HERE.glob("*.sqlite.sql")})

SNAPSHOTS = (
    '{ vm(id: "vm-11") { name snapshots(sort: [{field: ID}]) { nodes'
    " { name state isCurrent memory parent { name } } } } }"
)
UNFINISHED = "{ operations(filter: {state: {in: [QUEUED, RUNNING]}}, sort: [{field: ID}]) { nodes { id state } } }"
NEVER_DELETED = 1e9

COUNTED = "SELECT snapshot_count FROM machine WHERE id = 12"
ADD = (
    "INSERT INTO snapshot (tenant, machine_id, name, name_folded, state, memory, is_current, created_at)"
    " SELECT tenant, machine_id, 'n', 'n', 'READY', FALSE, FALSE, created_at"
    " FROM snapshot WHERE machine_id = 12 ORDER BY id LIMIT 1 RETURNING id"
)


def restored(databases: Databases, release: str, kind: str) -> str:
    """Restores the dump of a release into a new database and returns its URL."""
    text = (HERE / f"{release}.{kind}.sql").read_text()
    url = databases.without_tables(kind)
    if kind == "sqlite":
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            connection.executescript(text)
    else:
        with psycopg.connect(url) as postgres:
            postgres.execute(text.encode())
    return url


def test_releases_have_dumps_of_both_databases() -> None:
    assert RELEASES
    assert [(HERE / f"{release}.postgresql.sql").exists() for release in RELEASES] == [True] * len(RELEASES)


@pytest.mark.parametrize("kind", SLOW_KINDS)
@pytest.mark.parametrize("release", RELEASES)
def test_release_is_upgraded_and_its_operations_are_finished(databases: Databases, release: str, kind: str) -> None:
    url = restored(databases, release, kind)
    before, _ = migrate(url)
    assert before is not None
    check(url)
    assert migrate(url)[0] == migrate(url)[1]
    settings = Settings(
        database_url=url, keep_operations=NEVER_DELETED, keep_gone=NEVER_DELETED, keep_events=NEVER_DELETED
    )
    with served(settings) as gateway:
        set_latency(gateway, 0)
        execute_sql(gateway, "UPDATE simulated_task SET done_at = started_at")
        unfinished = gateway.ask(UNFINISHED)["operations"]["nodes"]
        for operation in unfinished:
            assert gateway.await_operation(operation["id"])["state"] == "SUCCEEDED"
        assert gateway.ask(UNFINISHED)["operations"]["nodes"] == []
        check_snapshots(gateway)


def check_snapshots(gateway: Served) -> None:
    """Creates a snapshot, and checks it, those of the demo world, and the two that the release was creating."""
    create = 'mutation { createSnapshot(input: {machineId: "vm-11", name: "new"}) { operation { id } } }'
    id_ = gateway.ask(create)["createSnapshot"]["operation"]["id"]
    assert gateway.await_operation(id_)["state"] == "SUCCEEDED"
    vm = gateway.ask(SNAPSHOTS)["vm"]
    assert vm["name"] == "web-01"
    found = [
        (node["name"], node["state"], node["parent"] and node["parent"]["name"]) for node in vm["snapshots"]["nodes"]
    ]
    running, waiting = "running when it was killed", "waiting when it was killed"
    assert found == [
        ("test-base", "READY", None),
        ("test-before-upgrade", "READY", "test-base"),
        ("test-new-driver", "READY", "test-base"),
        (running, "READY", "test-before-upgrade"),
        (waiting, "READY", running),
        ("new", "READY", waiting),
    ]
    assert [node["name"] for node in vm["snapshots"]["nodes"] if node["isCurrent"]] == ["new"]


@pytest.mark.parametrize("kind", SLOW_KINDS)
@pytest.mark.parametrize("release", RELEASES)
def test_triggers_work_after_the_upgrade(databases: Databases, release: str, kind: str) -> None:
    url = restored(databases, release, kind)
    migrate(url)
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        run = connection.exec_driver_sql
        old = run("SELECT id FROM snapshot WHERE machine_id = 12 ORDER BY id").scalars().all()
        assert run(COUNTED).scalar() == len(old) >= 2
        run("DELETE FROM event")
        new = [run(ADD).scalar() for _ in range(2)]
        run(f"UPDATE snapshot SET state = 'DELETING' WHERE id IN ({old[0]}, {new[0]})")
        run(f"DELETE FROM snapshot WHERE id = {old[-1]}")
        events = run("SELECT noun, change, subject_id FROM event ORDER BY id").all()
        assert run(COUNTED).scalar() == len(old) + 1
    engine.dispose()
    assert [tuple(row) for row in events] == [
        ("snapshot", "CREATED", new[0]),
        ("snapshot", "CREATED", new[1]),
        ("snapshot", "UPDATED", old[0]),
        ("snapshot", "UPDATED", new[0]),
        ("snapshot", "DELETED", old[-1]),
    ]


@pytest.mark.thorough
@pytest.mark.parametrize("kind", KINDS)
def test_concurrent_migrations(databases: Databases, kind: str) -> None:
    """One of three processes migrates; the others wait for it and find nothing to do."""
    url = databases.without_tables(kind)
    command = [*GATEWAY, "migrate", "--database-url", url]
    running = [
        subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    done = [process.communicate(timeout=60) for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], done
    assert sorted("was empty" in out for out, _ in done) == [False, False, True]
    check(url)
