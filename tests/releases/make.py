"""Writes dumps of the databases of a released version, which every later version must upgrade. Run with that version:

    python -m tests.releases.make 0.1.0

The dumps contain some machines of the demo world, an operation that was running when the gateway was killed, and one
that was queued.
"""

import asyncio
import sqlite3
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from gateway.access.caller import local_caller
from gateway.access.origin import RequestOrigin
from gateway.app import opened_database, opened_drivers
from gateway.config import Settings
from gateway.inventory.demo import load_demo
from gateway.models import MachineKind, Surface
from gateway.operations.audit_refusals import RefusalLog
from gateway.operations.commands.base import MachineId
from gateway.operations.commands.create_snapshot import CreateSnapshot
from gateway.operations.service import Operations
from gateway.operations.worker import Worker
from gateway.store.migrate import migrate
from tests.postgres import PostgresServer, find_binaries
from tests.waiting import until_async

HERE = Path(__file__).parent

KEPT = "(11, 12, 201)"
SHRINK = (
    f"DELETE FROM operation WHERE machine_id NOT IN {KEPT}",
    f"DELETE FROM snapshot WHERE machine_id NOT IN {KEPT}",
    "DELETE FROM simulated_snapshot WHERE ref NOT IN (SELECT provider_ref FROM snapshot)",
    f"DELETE FROM machine WHERE id NOT IN {KEPT}",
    "DELETE FROM simulated_machine WHERE ref NOT IN (SELECT provider_ref FROM machine)",
    "DELETE FROM event",
)


def main() -> None:
    version = sys.argv[1]
    with tempfile.TemporaryDirectory() as directory:
        url = f"sqlite:///{directory}/gateway.db"
        fill(url)
        with sqlite3.connect(f"{directory}/gateway.db") as connection:
            text = "\n".join(connection.iterdump())
        (HERE / f"{version}.sqlite.sql").write_text(text + "\n")
    binaries = find_binaries()
    assert binaries is not None, "PostgreSQL is not installed"
    server = PostgresServer(binaries)
    try:
        fill(server.url())
        (HERE / f"{version}.postgresql.sql").write_text(dump(binaries, server.url()))
    finally:
        server.stop()


def fill(url: str) -> None:
    migrate(url)
    asyncio.run(_fill(Settings(database_url=url)))


async def _fill(settings: Settings) -> None:
    settings = replace(settings, operation_lease=1.0, drain_timeout=0.01)
    caller, origin = local_caller("default"), RequestOrigin(Surface.COMMAND_LINE)
    async with opened_database(settings) as database:
        await load_demo(database, "default")

        async def shrink(tx: Any) -> None:
            for statement in SHRINK:
                await tx.rows(statement)

        await database.write(shrink)
        async with opened_drivers(database, []) as drivers:
            refusals = RefusalLog(database, "default")
            operations = Operations(database, drivers, settings, wake=lambda: None, refusals=refusals)
            vm = MachineId(MachineKind.VM, 11)
            for name in ("running when it was killed", "waiting when it was killed"):
                await operations.execute(CreateSnapshot(machine=vm, name=name), caller, origin, name)

            async def refresh(_machine_id: int) -> None:
                raise NotImplementedError

            worker = Worker(database, drivers, settings, refresh)
            await worker.start()
            query = "SELECT count(*) FROM operation WHERE issued AND task_ref IS NOT NULL AND state = 'RUNNING'"

            async def is_running() -> bool:
                return bool((await database.read(lambda tx: tx.rows(query)))[0][0] == 1)

            await until_async(is_running)
            await worker.stop()

        async def reduce_latency(tx: Any) -> None:
            await tx.rows("UPDATE simulated_machine SET latency_ms = 50")

        await database.write(reduce_latency)


def dump(binaries: Path, url: str) -> str:
    program = [str(binaries / "pg_dump"), "--inserts", "--no-owner", "--no-privileges", "--dbname", url]
    text = subprocess.run(program, check=True, capture_output=True, text=True).stdout
    return "\n".join(line for line in text.splitlines() if line and not line.startswith(("--", "\\"))) + "\n"


if __name__ == "__main__":
    main()
