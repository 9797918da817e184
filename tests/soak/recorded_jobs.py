"""The jobs of gateways whose runs are recorded, called in the process of each gateway.

Every cluster job of the gateway writes a record when a run begins and when it ends, and three more jobs only write
records: one that is short, one that lasts longer than a lease, and one that lasts until it is canceled. A record is
written in a transaction that confirms the claim of the run, as a job that must not be done twice writes.
"""

import asyncio
import os
import random
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace
from functools import partial
from math import inf
from typing import Any

import pytest

from gateway.app import JobParts, periodic_jobs, running_gateway
from gateway.jobs.cluster_schedule import ClusterSchedule
from gateway.jobs.leases import CURRENT_CLAIM, JobClaim
from gateway.jobs.periodic_job import PeriodicJob, Scope
from gateway.server import http_server
from gateway.store.database import Database, Transaction

STEP = 0.1  # seconds between two records of a run
PERIOD = 1.0  # seconds, of the three jobs of this test

CREATE_RECORDS = (
    "CREATE TABLE job_record (id BIGINT GENERATED ALWAYS AS IDENTITY, job TEXT, fence INT, pid INT, event TEXT)"
)
_INSERT = "INSERT INTO job_record (job, fence, pid, event) VALUES ($1, $2, $3, $4)"


async def _record(database: Database, event: str) -> None:
    claim = CURRENT_CLAIM.get()

    async def work(tx: Transaction) -> None:
        await claim.confirm(tx)
        await tx.rows(_INSERT, (claim.job, claim.fence, os.getpid(), event))

    await database.write(work)


async def _recorded(database: Database, run: Callable[[], Awaitable[None]]) -> None:
    await _record(database, "begin")
    await run()
    await _record(database, "end")


async def _steps(database: Database, seconds: float) -> None:
    """Writes a record every `STEP` seconds, for at least half of `seconds` and at most `seconds`."""
    left = seconds * random.uniform(0.5, 1.0)
    while left > 0:
        await _record(database, "step")
        await asyncio.sleep(STEP)
        left -= STEP


def recorded_jobs(parts: JobParts) -> list[PeriodicJob]:
    """The jobs of a gateway, and three of this test."""
    database, lease = parts.database, parts.settings.operation_lease
    jobs = [
        *periodic_jobs(parts),
        PeriodicJob("soak:short", PERIOD, partial(_steps, database, 4 * STEP), Scope.CLUSTER),
        PeriodicJob("soak:long", PERIOD, partial(_steps, database, 2 * lease), Scope.CLUSTER),
        PeriodicJob("soak:stream", PERIOD, partial(_steps, database, inf), Scope.CLUSTER, stuck_after=inf),
    ]
    return [
        replace(job, run=partial(_recorded, database, job.run)) if job.scope is Scope.CLUSTER else job for job in jobs
    ]


def record_jobs() -> None:
    """Makes the gateway of this process run `recorded_jobs`."""
    pytest.MonkeyPatch().setattr(http_server, "running_gateway", partial(running_gateway, jobs=recorded_jobs))


def ignore_lost_leases() -> None:
    """The same with a bug: a run continues, and commits, when another process has claimed its job."""
    record_jobs()
    patch = pytest.MonkeyPatch()
    look = ClusterSchedule.look

    async def look_without_loss(self: ClusterSchedule, running: Collection[str]) -> Any:
        begun, _lost = await look(self, running)
        return begun, []

    async def confirm_always(_self: JobClaim, _tx: Transaction) -> None:
        return None

    patch.setattr(ClusterSchedule, "look", look_without_loss)
    patch.setattr(JobClaim, "confirm", confirm_always)
