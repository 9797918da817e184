"""What the tests of jobs share: a clock that is set by hand, jobs that count their runs, and the rows of leases."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from gateway.jobs.leases import LEASES, LeaseState
from gateway.jobs.periodic_job import PeriodicJob, Scope
from gateway.jobs.runner import JobRunner
from gateway.store.database import Database
from tests.waiting import until_async

LEASE = 600.0  # seconds; leases expire only when a test sets the database's rows or the clock
PAST = "2020-01-01T00:00:00.000000Z"


class ManualClock:
    """A monotonic clock that moves only when a test advances it."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def __call__(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        self.seconds += seconds


class Work:
    """The work of a job. `begun` and `ended` count its runs; `gate` holds them; `error` is raised by them."""

    def __init__(self, *, held: bool = False) -> None:
        self.begun = self.ended = self.canceled = 0
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        if not held:
            self.gate.set()

    async def __call__(self) -> None:
        self.begun += 1
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.canceled += 1
            raise
        if self.error is not None:
            raise self.error
        self.ended += 1


class Process:
    """The jobs of one process, whose loop the test turns by hand. `outcomes` are those of the runs, in order."""

    def __init__(self, database: Database, owner: str, *jobs: PeriodicJob, lease: float = LEASE) -> None:
        self.clock = ManualClock()
        self.outcomes: list[tuple[str, str]] = []
        self.runner = JobRunner(
            database,
            jobs,
            owner=owner,
            lease=lease,
            clock=self.clock,
            on_run=lambda job, outcome, _seconds: self.outcomes.append((job, outcome)),
        )

    async def look(self) -> float:
        """Turns the loop once, at the time of its next look at the cluster jobs. Returns the pause it would make."""
        self.clock.advance(LEASE / 3)
        pause = await self.runner.tick()
        await asyncio.sleep(0)  # the runs begin
        return pause

    async def run_due(self) -> None:
        """Turns the loop once and waits until the runs that it has started have ended."""
        await self.look()
        await self.until_idle()

    async def until_idle(self) -> None:
        """Waits until all runs have ended."""
        await until_async(lambda: not self.runner.running)


def cluster_job(work: Callable[[], Awaitable[None]], name: str = "x", every: float = 3_600.0) -> PeriodicJob:
    return PeriodicJob(name, every, work, Scope.CLUSTER)


async def execute(database: Database, sql: str) -> None:
    async def work(tx: Any) -> None:
        await tx.rows(sql)

    await database.write(work)


async def leases(database: Database) -> dict[str, LeaseState]:
    return {row.name: row for row in await database.read(lambda tx: tx.all(LEASES), single=True)}


async def expire(database: Database, name: str = "x") -> None:
    """Lets time pass until the lease of a job has expired."""
    await execute(
        database, f"UPDATE job_lease SET lease_until = '{PAST}' WHERE name = '{name}' AND lease_until IS NOT NULL"
    )


async def make_due(database: Database, name: str = "x") -> None:
    """Lets time pass until the next run of a job is due."""
    await execute(database, f"UPDATE job_lease SET next_run_at = '{PAST}' WHERE name = '{name}'")
