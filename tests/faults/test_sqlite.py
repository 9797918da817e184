"""SQLite on a full disk, locked by another process, or with a full queue of writes."""

import asyncio
import contextlib
import os
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import Unavailable
from tests.databases import Databases, prepare
from tests.faults.client import COUNTS, CREATE, NAME, READ, create, query_error, retry_until_served
from tests.faults.conftest import short_timeouts
from tests.serving import served
from tests.waiting import at_most

pytestmark = pytest.mark.thorough  # servers in processes of their own, and waits that are real

INPUT = {"input": {"machineId": "vm-11", "name": "never"}}
BUSY = ("SERVICE_UNAVAILABLE", True, "The database is locked by another transaction.")


@pytest.fixture
def url(databases: Databases) -> str:
    return databases.new("sqlite", demo=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("no file system can be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def fill(filler: Path) -> None:
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for _ in at_most(10_000):  # five times the size of the disk
            file.write(bytes(4_096))


def test_full_disk(small_disk: Path) -> None:
    """Reads are served and writes are refused without effect. When there is space again, writes are served."""
    url = prepare(f"sqlite:///{small_disk}/gateway.db", demo=True)
    filler = small_disk / "filler"
    with served(short_timeouts(url)) as gateway:
        before = gateway.ask(COUNTS)
        fill(filler)
        # Space within the write-ahead log is reused: it takes some writes until the file has to grow.
        made = 0
        for number in at_most(10_000):
            body = create(gateway, f"number {number}")
            if "errors" in body:
                break
            made = number
        (error,) = body["errors"]
        assert error["message"] == "The database is out of disk space."
        assert error["extensions"] == {"code": "SERVICE_UNAVAILABLE", "retryable": True}
        answer = gateway.http.post("/api/vms/11/snapshots", json={"name": "never"})
        assert (answer.status_code, answer.json()["error"]["kind"]) == (503, "service_unavailable")
        assert gateway.ask(READ) == NAME
        after = gateway.ask(COUNTS)
        assert after["operations"]["totalCount"] == before["operations"]["totalCount"] + made
        filler.unlink()
        answer = create(gateway, "after")["data"]["createSnapshot"]
        assert gateway.await_operation(answer["operation"]["id"])["state"] == "SUCCEEDED"
    with sqlite3.connect(small_disk / "gateway.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def test_lock_held_by_another_process(url: str) -> None:
    other = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    with served(short_timeouts(url, write_timeout=0.3)) as gateway:
        before = gateway.ask(COUNTS)
        other.execute("BEGIN IMMEDIATE")
        assert query_error(gateway, CREATE, INPUT) == BUSY
        assert gateway.ask(COUNTS) == before
        other.execute("ROLLBACK")
        assert retry_until_served(gateway, CREATE, INPUT)["createSnapshot"]["errors"] == []
    other.close()


def test_write_over_the_queue_limit_is_refused_at_once(url: str) -> None:
    with served(short_timeouts(url, database_queue=3, write_timeout=30.0)) as gateway:
        database = gateway.gateway.database
        gateway.run(gateway.gateway.worker.stop())
        gateway.run(gateway.gateway.jobs.stop())
        gate, inside = threading.Event(), threading.Event()

        async def hold(_: Any) -> None:
            inside.set()
            gate.wait(30)  # in the writer thread

        async def quick(tx: Any) -> int:
            return len(await tx.rows("SELECT 1"))

        async def fill_queue() -> list[int]:
            holding = asyncio.create_task(database.write(hold))
            await asyncio.to_thread(inside.wait, 30)
            waiting = [asyncio.create_task(database.write(quick)) for _ in range(2)]
            await asyncio.sleep(0)
            with pytest.raises(Unavailable, match=r"^The database queue is full: 3 writes are waiting already\.$"):
                await database.write(quick)
            gate.set()
            await holding
            return [await task for task in waiting] + [await database.write(quick)]

        assert gateway.run(fill_queue()) == [1, 1, 1]


def test_write_that_waited_too_long_is_not_started(url: str) -> None:
    """Its client gets an error that says nothing was changed, so the write must not run."""
    with served(short_timeouts(url, write_timeout=0.2)) as gateway:
        database = gateway.gateway.database
        gateway.run(gateway.gateway.worker.stop())
        gateway.run(gateway.gateway.jobs.stop())
        gate, inside, begun = threading.Event(), threading.Event(), threading.Event()

        async def hold(_: Any) -> None:
            inside.set()
            gate.wait(30)

        async def late(_: Any) -> None:
            begun.set()

        async def story() -> None:
            holding = asyncio.create_task(database.write(hold))
            await asyncio.to_thread(inside.wait, 30)
            waiting = asyncio.create_task(database.write(late))
            await asyncio.sleep(0)  # from now on it waits
            await asyncio.sleep(0.3)  # longer than it may
            gate.set()
            await holding
            with pytest.raises(Unavailable, match=r"The database is locked by another transaction\."):
                await waiting

        gateway.run(story())
        assert not begun.is_set()
