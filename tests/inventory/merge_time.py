"""Prints how long the merge of large listings occupies the event loop and the database, in milliseconds of CPU time.

Usage: python -m tests.inventory.merge_time [--kind sqlite|postgresql] [--case TEXT]

`loop` is the most that the event loop works between two looks, some milliseconds apart: other requests wait for it.
`loop/record` is all that the refresh takes on the event loop, in microseconds per record: it must not grow with the
number of records. `write` is the most that one transaction takes in Python and, on SQLite, in the database: other
writes wait for it. CPU time, as that of a thread, does not count what other programs do meanwhile. Exits with 1 if
`loop` is above 50 ms.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.config import Settings
from gateway.drivers.base import ReportedMachine, ReportedSnapshot, ReportedSnapshots
from gateway.errors import ProviderMissing
from gateway.inventory.refresh import InventoryRefresher
from gateway.store.database import Database, Transaction
from gateway.store.database_url import open_database
from tests.databases import KINDS, Databases
from tests.inventory.scripted import ScriptedDriver, machine, snapshot

LIMIT = 50.0  # milliseconds

_TICK = 0.005  # seconds between two looks; without a pause they would compete with the writer for the interpreter

_HEAD = f"{'database':<11} {'case':<42} {'loop':>7} {'loop/record':>12} {'write':>7} {'seconds':>8}"


@dataclass(slots=True)
class Measured:
    """CPU times in seconds."""

    longest: float = 0.0  # iteration of the event loop
    total: float = 0.0
    write: float = 0.0  # longest transaction
    elapsed: float = 0.0


class TimedDatabase:
    """A database that measures the CPU time of each write, in the thread in which it runs."""

    def __init__(self, database: Database, measured: Measured) -> None:
        self._database = database
        self._measured = measured

    async def write(self, work: Any) -> Any:
        async def timed(tx: Transaction) -> Any:
            begun = time.thread_time()
            try:
                return await work(tx)
            finally:
                self._measured.write = max(self._measured.write, time.thread_time() - begun)

        return await self._database.write(timed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)


class IndexedDriver(ScriptedDriver):
    """Finds machines by ref, so that its own time does not depend on their number."""

    def __init__(self) -> None:
        super().__init__()
        self.by_ref: dict[str, tuple[ReportedMachine, ReportedSnapshots]] = {}

    def set(self, reported: ReportedMachine, *snapshots: ReportedSnapshot, current: str | None = None) -> None:
        self.by_ref[reported.ref] = (reported, ReportedSnapshots(snapshots, current))

    async def machines(self) -> Sequence[ReportedMachine]:
        return [reported for reported, _ in self.by_ref.values()]

    async def machine(self, machine_ref: str) -> ReportedMachine:
        if machine_ref not in self.by_ref:
            raise ProviderMissing("The provider has no such machine.")
        return self.by_ref[machine_ref][0]

    async def snapshots(self, machine_ref: str) -> ReportedSnapshots:
        return self.by_ref[machine_ref][1]


async def measure(database: Database, driver: IndexedDriver) -> Measured:
    """Refreshes a provider, and returns what it took."""
    measured = Measured()
    timed: Any = TimedDatabase(database, measured)
    refresher = InventoryRefresher(timed, {"lab": driver}, Settings())
    begun = time.monotonic()
    refreshing = asyncio.create_task(refresher.refresh_provider("lab"))
    last = time.thread_time()
    while not refreshing.done():
        await asyncio.sleep(_TICK)
        taken, last = time.thread_time() - last, time.thread_time()
        measured.longest = max(measured.longest, taken)
        measured.total += taken
    measured.elapsed = time.monotonic() - begun
    await refreshing
    return measured


Prepare = Callable[[IndexedDriver], None]


def _chain(number: int, prefix: str = "") -> Prepare:
    def prepare(driver: IndexedDriver) -> None:
        refs = [f"s{each}" for each in range(number)]
        snapshots = [
            snapshot(ref, name=f"{prefix}{ref}", description="before the upgrade", parent_ref=parent)
            for ref, parent in zip(refs, [None, *refs], strict=False)
        ]
        driver.set(machine("m1"), *snapshots, current=refs[-1])

    return prepare


def _fleet(number: int, prefix: str = "") -> Prepare:
    def prepare(driver: IndexedDriver) -> None:
        for each in range(number):
            reported = machine(f"m{each}", name=f"{prefix}{each}")
            driver.set(reported, snapshot("a"), snapshot("b", parent_ref="a"), current="b")

    return prepare


def _same(_: IndexedDriver) -> None:
    return None


CASES: dict[str, tuple[int, list[tuple[str, Prepare]]]] = {
    **{
        f"{number:,} snapshots in a chain": (
            number,
            [
                ("new", _chain(number)),
                ("unchanged", _same),
                *([("renamed", _chain(number, "new "))] if number <= 10_000 else []),
                *([("deleted", lambda driver: driver.set(machine("m1")))] if number <= 10_000 else []),
            ],
        )
        for number in (250, 2_000, 10_000, 65_536)
    },
    **{
        f"{number:,} machines": (
            number,
            [
                ("new", _fleet(number)),
                ("unchanged", _same),
                ("renamed", _fleet(number, "new ")),
                ("gone", lambda driver: driver.by_ref.clear()),
            ],
        )
        for number in (250, 2_000)
    },
}


async def rows(url: str, number: int, steps: list[tuple[str, Prepare]]) -> list[tuple[str, Measured]]:
    """Runs the steps of a case in one database."""
    driver = IndexedDriver()
    database = open_database(url, read_connections=2, write_connections=2, read_timeout=30)
    measured = []
    try:
        for name, prepare in steps:
            prepare(driver)
            measured.append((name, await measure(database, driver)))
    finally:
        await database.close()
    return measured


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=KINDS, default="sqlite")
    parser.add_argument("--case", default="", help="measure the cases whose name contains this text alone")
    given = parser.parse_args()
    longest = 0.0
    print(_HEAD)
    with tempfile.TemporaryDirectory() as place:
        databases = Databases(Path(place))
        try:
            for case, (number, steps) in CASES.items():
                if given.case not in case:
                    continue
                for step, row in asyncio.run(rows(databases.new(given.kind), number, steps)):
                    longest = max(longest, row.longest)
                    times = f"{row.longest * 1e3:7.1f} {row.total / number * 1e6:12.1f} {row.write * 1e3:7.1f}"
                    print(f"{given.kind:<11} {case + ', ' + step:<42} {times} {row.elapsed:8.1f}", flush=True)
        finally:
            databases.close()
    return int(longest * 1e3 > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
