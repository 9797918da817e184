"""Upgrades of the databases of every released version: migrated with their data, served, their operations finished."""

import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from gateway.config import Settings
from gateway.store.migrate import check, migrate
from tests.cli.programs import GATEWAY, environment
from tests.databases import KINDS, Databases
from tests.serving import Served, served

HERE = Path(__file__).parent
RELEASES = sorted({path.name.split(".sqlite")[0] for path in HERE.glob("*.sqlite.sql")})

SNAPSHOTS = (
    '{ vm(id: "vm-11") { name snapshots(sort: [{field: ID}]) { nodes'
    " { name state isCurrent memory parent { name } } } } }"
)
UNFINISHED = "{ operations(filter: {state: {in: [QUEUED, RUNNING]}}, sort: [{field: ID}]) { nodes { id state } } }"
NEVER_DELETED = 1e9


def restored(databases: Databases, directory: Path, release: str, kind: str) -> str:
    """Restores the dump of a release into a new database and returns its URL."""
    text = (HERE / f"{release}.{kind}.sql").read_text()
    if kind == "sqlite":
        with closing(sqlite3.connect(directory / "old.db")) as connection:
            connection.executescript(text)
        return f"sqlite:///{directory}/old.db"
    server = databases.postgres_server()
    name = f"release_{release.replace('.', '_')}"
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name}".encode())
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0".encode())
    with psycopg.connect(server.url(name)) as connection:
        connection.execute(text.encode())
    return server.url(name)


def test_releases_have_dumps_of_both_databases() -> None:
    assert RELEASES
    assert [(HERE / f"{release}.postgresql.sql").exists() for release in RELEASES] == [True] * len(RELEASES)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("release", RELEASES)
def test_release_is_upgraded_and_its_operations_are_finished(
    databases: Databases, tmp_path: Path, release: str, kind: str
) -> None:
    url = restored(databases, tmp_path, release, kind)
    before, _ = migrate(url)
    assert before is not None
    check(url)
    assert migrate(url)[0] == migrate(url)[1]
    settings = Settings(
        database_url=url, keep_operations=NEVER_DELETED, keep_gone=NEVER_DELETED, keep_events=NEVER_DELETED
    )
    with served(settings) as gateway:
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


@pytest.mark.thorough
@pytest.mark.parametrize("kind", KINDS)
def test_concurrent_migrations(databases: Databases, tmp_path: Path, kind: str) -> None:
    """One of three processes migrates; the others wait for it and find nothing to do."""
    if kind == "sqlite":
        url = f"sqlite:///{tmp_path}/new.db"
    else:
        url = databases.postgres_server().url("migrated_at_once")
        with psycopg.connect(databases.postgres_server().url(), autocommit=True) as connection:
            connection.execute("DROP DATABASE IF EXISTS migrated_at_once")
            connection.execute("CREATE DATABASE migrated_at_once")
    command = [*GATEWAY, "migrate", "--database-url", url]
    running = [
        subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    done = [process.communicate(timeout=60) for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], done
    assert sorted("was empty" in out for out, _ in done) == [False, False, True]
    check(url)
