"""The floor: an echo of the same bytes, and the same rows by bare SQL in process. The upper bound for a gateway.

1 / (echo time + SQL time), on one core.
"""

import asyncio
import sqlite3
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import uvloop

from tests.bench import load, machine
from tests.bench.data import ROOT, Database
from tests.bench.measuring import Plan, Results
from tests.bench.processes import free_port, start
from tests.bench.workloads import FIRST_MACHINE, Workload

_COLUMNS = "s.id, s.name, s.description, s.state, s.memory, s.is_current, s.size_bytes, s.created_at"
_ONE = f"SELECT m.id, m.name, {{more}}{_COLUMNS} FROM machine m JOIN snapshot s ON s.machine_id = m.id WHERE m.id = $1"
_NEWEST = "ORDER BY s.created_at DESC, s.id DESC"
_DEEP = f"{_ONE} AND (s.created_at, s.id) < ($2, $3) {_NEWEST}"
_PAGE = "SELECT id, name FROM machine WHERE tenant = 'default' AND kind = 'VM' AND name > $1 ORDER BY name, id LIMIT 51"
_ELEVEN = "FROM snapshot s WHERE s.machine_id = m.id ORDER BY s.created_at DESC, s.id DESC LIMIT 11"

_SQL = {
    "W1": (_ONE + f" {_NEWEST} LIMIT 21").format(more=""),
    "W1b": (_ONE + f" {_NEWEST} LIMIT 21").format(more="m.snapshot_count, "),
    "W3": (_DEEP + " LIMIT 21").format(more=""),
    "W7": (_DEEP + " LIMIT 1001").format(more=""),
}
_MANY = {
    "sqlite": f"SELECT m.id, m.name, {_COLUMNS} FROM ({_PAGE}) m JOIN snapshot s ON s.id IN (SELECT s.id {_ELEVEN})",
    "postgresql": f"SELECT m.id, m.name, s.* FROM ({_PAGE}) m CROSS JOIN LATERAL (SELECT {_COLUMNS} {_ELEVEN}) s",
}


@dataclass(frozen=True, slots=True)
class Floor:
    """Minimum seconds per request, per database."""

    echo: float
    sql: dict[str, float]


def measure(plan: Plan, results: Results) -> dict[str, Floor]:
    """By workload; for reads with a recorded response."""
    answers = {}
    for workload in plan.workloads:
        if not workload.burst:
            found = [results.get((workload.name, system.name)) for system in plan.systems]
            answers[workload.name] = next((figures.all.answer for figures in found if figures), b"")
    echoes = _echoes(plan, [workload for workload in plan.workloads if answers.get(workload.name)], answers)
    floors = {}
    for name, echo in echoes.items():
        sql = {}
        with machine.on(plan.cores.server):
            for kind, database in plan.databases.items():
                statement = _MANY[kind] if name == "W2" else _SQL.get(name)
                if statement is not None:
                    work = _postgresql if database.is_postgresql else _sqlite
                    sql[kind] = work(database, statement, _parameters(name, database), plan.seconds)
        floors[name] = Floor(echo, sql)
        plan.say(f"{name}: echo {echo * 1e6:.0f} us, SQL {', '.join(f'{sql[kind] * 1e6:.0f} us' for kind in sql)}")
    return floors


def _echoes(plan: Plan, workloads: Sequence[Workload], answers: dict[str, bytes]) -> dict[str, float]:
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        for workload in workloads:
            Path(folder, workload.name).write_bytes(answers[workload.name])
        command = [sys.executable, "-m", "uvicorn", "tests.bench.echo:app", "--port", str(port)]
        with start(
            "echo",
            [*command, "--no-access-log", "--log-level", "warning"],
            port,
            cores=plan.cores.server,
            log=plan.logs / "echo.log",
            environment={"ANSWERS": folder},
            directory=ROOT,
        ) as server:
            server.await_listening()
            times = {}
            for workload in workloads:
                request = load.http(port, f"/{workload.name}", b'{"query":"' + b"x" * 400 + b'"}')
                for seconds in (plan.seconds / 3, plan.seconds):
                    sample = load.run(
                        port, (request for _ in range(10_000_000)), workload.connections, seconds, lambda _: True
                    )
                times[workload.name] = 1 / sample.rate
            return times


def _parameters(name: str, database: Database) -> list[tuple[Any, ...]]:
    if name in ("W1", "W1b"):
        return [(FIRST_MACHINE + 1 + place * 5,) for place in range(200)]
    if name == "W2":
        return [(f"machine-{place:05}",) for place in range(50, database.size.machines - 50, 50)]
    return [(FIRST_MACHINE, *place) for place in _places(name, database)]


def _places(name: str, database: Database) -> list[tuple[Any, int]]:
    """The positions that W3 and W7 read from, as bound by the driver."""
    depth = database.size.depth
    offsets = range(1_000, depth + 1, 1_000) if name == "W7" else range(depth, depth + 140, 7)
    query = "SELECT created_at, id FROM snapshot WHERE machine_id = $1 ORDER BY created_at DESC, id DESC"
    if database.is_postgresql:
        rows: list[Any] = asyncio.run(_fetch(database.url, query, FIRST_MACHINE))
    else:
        with closing(sqlite3.connect(database.file)) as connection:
            rows = connection.execute(query, (FIRST_MACHINE,)).fetchall()
    return [(rows[offset][0], rows[offset][1]) for offset in offsets if offset < len(rows)]


async def _fetch(url: str, query: str, *parameters: Any) -> list[Any]:
    connection = await asyncpg.connect(url)
    try:
        rows: list[Any] = await connection.fetch(query, *parameters)
        return rows
    finally:
        await connection.close()


def _sqlite(database: Database, sql: str, parameters: Sequence[tuple[Any, ...]], seconds: float) -> float:
    with closing(sqlite3.connect(database.file, isolation_level=None)) as connection:
        connection.execute("PRAGMA mmap_size = 268435456")
        for values in parameters:
            connection.execute(sql, values).fetchall()
        count, begun = 0, time.perf_counter()
        while time.perf_counter() - begun < seconds:
            for values in parameters:
                connection.execute(sql, values).fetchall()
            count += len(parameters)
        return (time.perf_counter() - begun) / count


def _postgresql(database: Database, sql: str, parameters: Sequence[tuple[Any, ...]], seconds: float) -> float:
    """Several connections, so that the driver is measured and not its waiting."""

    async def one(connection: Any, until: float) -> int:
        count = 0
        while time.perf_counter() < until:
            await connection.fetch(sql, *parameters[count % len(parameters)])
            count += 1
        return count

    async def many() -> float:
        connections = [await asyncpg.connect(database.url, server_settings={"jit": "off"}) for _ in range(4)]
        try:
            for part in (seconds / 3, seconds):
                begun = time.perf_counter()
                counts = await asyncio.gather(*(one(connection, begun + part) for connection in connections))
            return (time.perf_counter() - begun) / sum(counts)
        finally:
            for connection in connections:
                await connection.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(many())
