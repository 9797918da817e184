"""`python -m tests.bench.pool`: compares the gateway's connection pool with asyncpg's (docs/decisions/0002).

Measures acquire, one prepared SELECT and release, in process, on a temporary PostgreSQL server on loopback. The SELECT
returns one row, or as many rows as a page of W1. The pools take turns in each round: A B C A B C. Takes 90 seconds.
"""

import argparse
import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import asyncpg
import uvloop

from gateway.config import Settings
from gateway.store.database import DatabaseLimits
from gateway.store.fair_slots import FairSlots
from gateway.store.postgres_hosts import Connector
from gateway.store.postgres_pool import ConnectionPool
from tests.bench import machine
from tests.bench.machine import Cores
from tests.postgres import PostgresServer, find_binaries

_TASKS = (1, 32)
_STATEMENTS = {
    "one row": ("SELECT id, name FROM snapshot WHERE id = $1", 1),
    "21 rows": ("SELECT id, name, description, state, created_at FROM snapshot ORDER BY id LIMIT 20 + $1", 21),
}
_TABLE = """
    CREATE TABLE snapshot AS SELECT id::bigint, 'snapshot ' || id AS name, 'before the upgrade' AS description,
        'READY' AS state, now() + id * interval '1 second' AS created_at FROM generate_series(1, 1000) id;
    ALTER TABLE snapshot ADD PRIMARY KEY (id);
    ANALYZE snapshot;
"""

Read = Callable[[str], Awaitable[list[Any]]]


@dataclass(slots=True)
class Figures:
    """Microseconds per read in each round: elapsed, and CPU of this process."""

    elapsed: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.pool", description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement (default 1)")
    parser.add_argument("--rounds", type=int, default=5, help="of all measurements (default 5)")
    arguments = parser.parse_args()
    if not (0 < arguments.seconds <= 60 and 0 < arguments.rounds <= 20):
        parser.error("--seconds is at most 60, --rounds at most 20")
    binaries = find_binaries()
    if binaries is None:
        parser.error("PostgreSQL is not installed: apt-get install postgresql")
    cores = Cores.find()
    with machine.on(cores.load):
        server = PostgresServer(binaries)
    try:
        with machine.on(cores.server), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_measure(server.url(), arguments.rounds, arguments.seconds))
    finally:
        server.stop()


async def _measure(url: str, rounds: int, seconds: float) -> None:
    """Prints one table per statement and number of concurrent tasks."""
    size = Settings().read_connections
    connector = Connector(url, timeout=5.0)
    connection = await connector.connect()
    await connection.execute(_TABLE)
    await connection.close()
    limits = DatabaseLimits(
        read_connections=size,
        write_connections=size,
        read_timeout=5.0,
        write_timeout=5.0,
        acquire_timeout=5.0,
        max_waiting=1_000,
        longest_wait=5.0,
    )
    own = ConnectionPool(connector, FairSlots(size, limits), jit="off")
    unreset = await _asyncpg_pool(connector, size, reset=_keep)
    reset = await _asyncpg_pool(connector, size)
    pools = {"gateway": _own(own), "asyncpg, reset=no-op": _theirs(unreset), "asyncpg, default reset": _theirs(reset)}
    print(f"{size} connections, median of {rounds} rounds of {seconds:g} s (minimum to maximum)")
    for title, (sql, rows) in _STATEMENTS.items():
        for tasks in _TASKS:
            figures = {name: Figures() for name in pools}
            for _ in range(rounds):
                for name, read in pools.items():
                    assert len(await read(sql)) == rows
                    await _run(read, sql, tasks, seconds / 5)
                    elapsed, cpu = await _run(read, sql, tasks, seconds)
                    figures[name].elapsed.append(elapsed)
                    figures[name].cpu.append(cpu)
            _print(f"{title}, {tasks} concurrent", figures)
    await own.close()
    await unreset.close()
    await reset.close()


def _own(pool: ConnectionPool) -> Read:
    async def read(sql: str) -> list[Any]:
        connection, claim = await pool.acquire()
        try:
            rows: list[Any] = await connection.fetch(sql, 1)
            return rows
        finally:
            pool.release(connection, claim)

    return read


def _theirs(pool: Any) -> Read:
    async def read(sql: str) -> list[Any]:
        connection = await pool.acquire()
        try:
            rows: list[Any] = await connection.fetch(sql, 1)
            return rows
        finally:
            await pool.release(connection)

    return read


async def _asyncpg_pool(connector: Connector, size: int, **options: Any) -> Any:
    """Opens connections as the gateway does, and has no limit on idle time, which would cost a timer per read."""

    async def connect(*_: Any, **__: Any) -> Any:
        return await connector.connect(jit="off")

    return await asyncpg.create_pool(
        min_size=0,
        max_size=size,
        max_queries=math.inf,
        max_inactive_connection_lifetime=0,
        connect=connect,
        **options,
    )


async def _keep(_: Any) -> None:
    """Leaves the connection as it is."""


async def _run(read: Read, sql: str, tasks: int, seconds: float) -> tuple[float, float]:
    """Microseconds per read: elapsed, and CPU of this process."""
    until = time.perf_counter() + seconds

    async def repeat() -> int:
        count = 0
        while time.perf_counter() < until:
            await read(sql)
            count += 1
        return count

    cpu, begun = time.process_time(), time.perf_counter()
    count = sum(await asyncio.gather(*(repeat() for _ in range(tasks))))
    return (time.perf_counter() - begun) / count * 1e6, (time.process_time() - cpu) / count * 1e6


def _print(title: str, figures: Mapping[str, Figures]) -> None:
    print(f"\n{title:24}{'elapsed us':>22}{'CPU us':>22}{'CPU above gateway':>20}")
    for name, measured in figures.items():
        more = median(measured.cpu) - median(figures["gateway"].cpu)
        print(f"{name:24}{_spread(measured.elapsed):>22}{_spread(measured.cpu):>22}{more:>+20.1f}")


def _spread(values: list[float]) -> str:
    return f"{median(values):.1f} ({min(values):.0f} to {max(values):.0f})"


if __name__ == "__main__":
    main()
