"""Gauges that are computed at each scrape: those of this process, and those computed from the database."""

import os
import platform
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa
from sqlmodel import col

from gateway.changes.change_feed import ChangeFeed
from gateway.columns import now
from gateway.graphql.execution.executor import GraphQLExecutor
from gateway.graphql.transports.streams import OpenStreams
from gateway.jobs.leases import LEASES
from gateway.jobs.runner import JobRunner
from gateway.models import Operation, OperationState, Provider
from gateway.operations.statements import unfinished
from gateway.operations.worker import Worker
from gateway.store.database import Database, Transaction
from gateway.store.statements import Query
from gateway.telemetry import metrics as m
from gateway.telemetry.metrics import Labels, MetricFamily, Sample
from gateway.version import VERSION

_STATM = Path("/proc/self/statm")


class _UnfinishedOperations(NamedTuple):
    state: OperationState
    number: int
    since: datetime


class _ProviderState(NamedTuple):
    name: str
    observed_at: datetime | None
    problem: str | None


_UNFINISHED = Query(
    sa.select(
        col(Operation.state), sa.func.count().label("number"), sa.func.min(col(Operation.created_at)).label("since")
    )
    .where(unfinished())
    .group_by(col(Operation.state)),
    _UnfinishedOperations,
)
_PROVIDERS = Query(sa.select(col(Provider.name), col(Provider.observed_at), col(Provider.problem)), _ProviderState)


def process_gauges(
    database: Database,
    executor: GraphQLExecutor,
    streams: OpenStreams,
    feed: ChangeFeed,
    worker: Worker,
    jobs: JobRunner,
) -> Iterator[tuple[MetricFamily, Labels, float]]:
    """Yield the gauges of this process."""
    documents, at = executor.documents, time.monotonic()
    protected, probationary = documents.stats()
    yield m.LOOKUPS, ("kept",), protected.hits + probationary.hits
    yield m.LOOKUPS, ("read",), probationary.misses
    yield m.DOCUMENTS, ("regular",), protected.size
    yield m.DOCUMENTS, ("new",), probationary.size
    yield m.STREAMS, (), len(streams)
    yield m.LISTENERS, (), feed.listeners
    yield m.STATEMENTS, (), database.statement_count
    for use, load in database.load.items():
        yield m.CONNECTIONS, (use, "running"), load.running
        yield m.CONNECTIONS, (use, "waiting"), load.waiting
    yield m.FEED_AGE, (), at - feed.worked_at
    yield m.WORKER_AGE, (), at - worker.worked_at
    yield m.RUNNING, (), worker.running
    yield m.JOBS_AGE, (), at - jobs.worked_at
    for name, state in jobs.process_jobs.items():
        yield m.JOB_FAILURES, (name,), state.failures
        if (age := state.age(at)) is not None:
            yield m.JOB_AGE, (name,), age
    yield m.BUILD_INFO, (VERSION, platform.python_version(), database.dialect), 1
    yield m.PROCESSES, (), 1
    yield m.CPU, (), time.process_time()
    if _STATM.exists():
        yield m.MEMORY, (), int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def database_gauges(database: Database) -> list[Sample]:
    """Return the gauges that are computed from the database and therefore are the same for all processes."""

    async def read(transaction: Transaction) -> list[Sample]:
        at = now()
        found: list[Sample] = [(m.DATABASE_UP.name, (), 1)]
        states = {row.state: row for row in await transaction.all(_UNFINISHED)}
        for state in (OperationState.QUEUED, OperationState.RUNNING):
            row = states.get(state)
            found.append((m.UNFINISHED.name, (state,), row.number if row else 0))
            oldest = (at - row.since).total_seconds() if row else 0
            found.append((m.OLDEST.name, (state,), max(0, oldest)))
        for provider in await transaction.all(_PROVIDERS):
            name = provider.name
            found.append((m.PROVIDER_PROBLEM.name, (name,), int(provider.problem is not None)))
            if provider.observed_at is not None:
                found.append((m.PROVIDER_AGE.name, (name,), max(0, (at - provider.observed_at).total_seconds())))
        for job in await transaction.all(LEASES):
            found.append((m.JOB_FAILURES.name, (job.name,), job.failures))
            if (age := job.age) is not None:
                found.append((m.JOB_AGE.name, (job.name,), age))
        return found

    try:
        return await database.read(read)
    except Exception:  # noqa: BLE001 - the failure itself is the value of the gauge
        return [(m.DATABASE_UP.name, (), 0)]
