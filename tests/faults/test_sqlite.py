"""An SQLite file whose disk is full, or that another process holds on to."""

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
from tests.databases import Databases
from tests.faults.asking import COUNTS, CREATE, NAME, READ, create, eventually, told
from tests.faults.conftest import hasty, with_demo
from tests.serving import served

pytestmark = pytest.mark.thorough  # servers in processes of their own, and waits that are real

WISH = {"input": {"machineId": "vm-11", "name": "never"}}
BUSY = ("SERVICE_UNAVAILABLE", True, "other work holds on to the database")


@pytest.fixture
def url(databases: Databases) -> str:
    return with_demo(databases.new("sqlite"))


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
        while True:
            file.write(bytes(4_096))


def test_a_full_disk(small_disk: Path) -> None:
    """Reads are served and writes refused, with nothing changed; when there is room again, all goes on."""
    url = with_demo(f"sqlite:///{small_disk}/gateway.db")
    filler = small_disk / "filler"
    with served(hasty(url)) as gateway:
        before = gateway.ask(COUNTS)
        fill(filler)
        # What is in the log already may be written over: it takes some writes until it has to grow.
        made = 0
        while "errors" not in (body := create(gateway, f"number {made}")):
            made += 1
        (error,) = body["errors"]
        assert error["message"] == "the database is out of space"
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


def test_a_lock_that_another_process_holds(url: str) -> None:
    other = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    with served(hasty(url, write_timeout=0.3)) as gateway:
        before = gateway.ask(COUNTS)
        other.execute("BEGIN IMMEDIATE")
        assert told(gateway, CREATE, WISH) == BUSY
        assert gateway.ask(COUNTS) == before
        other.execute("ROLLBACK")
        assert eventually(gateway, CREATE, WISH)["createSnapshot"]["errors"] == []
    other.close()


def test_a_crowd_is_refused_at_once(url: str) -> None:
    with served(hasty(url, database_queue=3, write_timeout=30.0)) as gateway:
        database = gateway.gateway.database
        gateway.run(gateway.gateway.worker.stop())
        gateway.run(gateway.gateway.inventory.stop())
        gate, inside = threading.Event(), threading.Event()

        async def hold(_: Any) -> None:
            inside.set()
            gate.wait(30)  # in the writer's own thread

        async def quick(tx: Any) -> int:
            return len(await tx.rows("SELECT 1"))

        async def crowd() -> list[int]:
            holding = asyncio.create_task(database.write(hold))
            await asyncio.to_thread(inside.wait, 30)
            waiting = [asyncio.create_task(database.write(quick)) for _ in range(2)]
            await asyncio.sleep(0)
            with pytest.raises(Unavailable, match="3 writes are waiting for the database already"):
                await database.write(quick)
            gate.set()
            await holding
            return [await task for task in waiting] + [await database.write(quick)]

        assert gateway.run(crowd()) == [1, 1, 1]


def test_what_has_waited_too_long_is_not_begun(url: str) -> None:
    """Its client was told, or will be, that nothing was changed: so nothing is."""
    with served(hasty(url, write_timeout=0.2)) as gateway:
        database = gateway.gateway.database
        gateway.run(gateway.gateway.worker.stop())
        gateway.run(gateway.gateway.inventory.stop())
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
            await asyncio.sleep(0.3)  # longer than it may wait
            gate.set()
            await holding
            with pytest.raises(Unavailable, match="other work holds on to the database"):
                await waiting

        gateway.run(story())
        assert not begun.is_set()
