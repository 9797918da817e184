"""The composition root: creates the database, drivers, worker and ASGI application from the settings.

It is the only module that knows all concrete parts.
"""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from math import inf
from time import monotonic
from typing import Any, Protocol

from sqlmodel import col, select
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, WebSocketRoute

from gateway.access.admission import Admission
from gateway.access.authentication import Authenticator
from gateway.access.issuer import read_jwt_verifier
from gateway.access.origin import origin_of
from gateway.access.quota_sync import SYNC_INTERVAL, QuotaSync, delete_full_quotas
from gateway.access.quotas import Quotas
from gateway.access.roles import Roles
from gateway.changes.change_feed import ChangeFeed
from gateway.changes.durable_consumer import CONSUMERS, log_unknown_consumers
from gateway.config import Settings
from gateway.drivers.base import Driver
from gateway.drivers.simulator.driver import SimulatedDriver
from gateway.drivers.simulator.world import SimulatedWorld
from gateway.errors import GatewayError
from gateway.graphql.error_format import GRAPHQL_FORMAT
from gateway.graphql.execution.executor import GraphQLExecutor
from gateway.graphql.execution.persisted_documents import PersistedDocuments
from gateway.graphql.requests import Executor
from gateway.graphql.schema.build import print_sdl
from gateway.graphql.transports.http import GraphQLEndpoint
from gateway.graphql.transports.sse import EventStreams
from gateway.graphql.transports.streams import OpenStreams
from gateway.graphql.transports.websocket.connection import WebSocketLimits
from gateway.graphql.transports.websocket.endpoint import WebSocketEndpoint
from gateway.http.errors import ErrorFormats
from gateway.http.health import Health, Part
from gateway.http.load_shedding import LoopTurns
from gateway.http.middleware import middleware
from gateway.http.pages import page_routes
from gateway.inventory.change_watcher import RESUBSCRIBE_INTERVAL, ChangeWatcher
from gateway.inventory.demo import load_demo
from gateway.inventory.provider_configuration import SIMULATED, ConfiguredProvider, read_providers
from gateway.inventory.provider_rows import ProviderName, register_provider
from gateway.inventory.refresh import InventoryRefresher
from gateway.jobs.periodic_job import PeriodicJob, Scope
from gateway.jobs.runner import JobRunner
from gateway.models import Provider, Surface
from gateway.operations.audit_refusals import COUNTS_INTERVAL, RefusalLog
from gateway.operations.commands.base import Outcome
from gateway.operations.commands.refresh_provider import refresh_job
from gateway.operations.housekeeping import SWEEP_INTERVAL, sweep
from gateway.operations.processes import RENEWALS_PER_LEASE, Processes
from gateway.operations.service import Operations
from gateway.operations.worker import Worker
from gateway.rest.endpoint import rest_routes
from gateway.rest.errors import REST_FORMAT
from gateway.rest.requests import PREFIX
from gateway.store.database import Database
from gateway.store.database_url import open_database
from gateway.store.migrate import revisions
from gateway.store.statements import Query
from gateway.telemetry.gauges import process_gauges
from gateway.telemetry.instrumentation import (
    InstrumentedDriver,
    InstrumentedExecutor,
    InstrumentedRest,
    RequestLogMiddleware,
    count_shed,
    instrumented_operation,
    measure_loop_lag,
)
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.tracing_hooks import TracingHooks
from gateway.telemetry.tracing_setup import open_tracing
from gateway.web.graphiql import routes as web_routes

log = logging.getLogger(__name__)

ERROR_FORMATS = ErrorFormats({"/graphql": GRAPHQL_FORMAT, PREFIX: REST_FORMAT})

# Seconds for which a thread that runs Python may keep the event loop waiting. A read of SQLite gives the interpreter up
# at each row, so with CPython's default of 5 ms a page of 50 rows takes up to 0.25 s while such a thread runs.
SWITCH_INTERVAL = 0.0005
_STUCK_AFTER_LEASES = 3  # operation leases without progress after which a background part is reported as stuck
_REFRESH_STUCK_AFTER = 3_600.0  # seconds of a refresh; each request to the provider has a timeout of its own
_QUOTA_DELETION_INTERVAL = 3_600.0  # seconds

_SIMULATED = Query(select(Provider.name).where(col(Provider.driver) == "simulated"), ProviderName)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """A running gateway. `streams` must be closed before the connections that carry them."""

    app: Starlette
    authenticator: Authenticator
    database: Database
    inventory: InventoryRefresher
    streams: OpenStreams
    turns: LoopTurns
    worker: Worker
    jobs: JobRunner
    health: Health
    metrics: Metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class JobParts:
    """The parts of a gateway whose work is done by jobs."""

    settings: Settings
    database: Database
    drivers: Mapping[str, Driver]
    quotas: QuotaSync
    refusals: RefusalLog
    inventory: InventoryRefresher
    watch: ChangeWatcher
    processes: Processes


def periodic_jobs(parts: JobParts) -> list[PeriodicJob]:
    """All jobs of a process. `docs/jobs.md` describes each.

    The measurement of the event loop is no job, because other work must not delay it: that delay is what it measures.
    """
    database, settings, quotas = parts.database, parts.settings, parts.quotas
    refreshes = [
        PeriodicJob(
            refresh_job(name),
            settings.refresh_interval,
            partial(parts.inventory.keep_fresh, name),
            Scope.CLUSTER,
            stuck_after=_REFRESH_STUCK_AFTER,
        )
        for name in parts.drivers
    ]
    change_hints = [
        PeriodicJob(
            f"change-hints:{name}",
            RESUBSCRIBE_INTERVAL,
            partial(parts.watch.consume_hints, name),
            Scope.CLUSTER,
            stuck_after=inf,
        )
        for name in parts.watch.providers_with_hints
    ]
    return [
        *refreshes,
        *change_hints,
        PeriodicJob("sweep", SWEEP_INTERVAL, partial(sweep, database, settings, CONSUMERS), Scope.CLUSTER),
        PeriodicJob("quota-deletion", _QUOTA_DELETION_INTERVAL, partial(delete_full_quotas, database), Scope.CLUSTER),
        PeriodicJob("quota-sync", SYNC_INTERVAL, quotas.synchronize, Scope.PROCESS, has_work=quotas.has_due),
        PeriodicJob(
            "registration", settings.operation_lease / RENEWALS_PER_LEASE, parts.processes.renew, Scope.PROCESS
        ),
        PeriodicJob("refusal-counts", COUNTS_INTERVAL, parts.refusals.record_counts, Scope.PROCESS),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Surfaces:
    """The parts that serve requests, and the ASGI application made of them."""

    settings: Settings
    database: Database
    operations: Operations
    executor: GraphQLExecutor
    authenticator: Authenticator
    admission: Admission
    streams: OpenStreams
    turns: LoopTurns
    health: Health
    metrics: Metrics
    tracing: TracingHooks

    def application(self) -> Starlette:
        """Create the ASGI application. Raises StartupError for an invalid origin in the settings."""
        graphql = self.admission.wrap(self._http())
        on_shed = partial(count_shed, self.metrics)
        named, *others = middleware(self.settings, ERROR_FORMATS, graphql, self.authenticator, self.turns, on_shed)
        log_requests = [Middleware(RequestLogMiddleware)] if self.settings.log_requests else []
        return Starlette(
            routes=[
                WebSocketRoute("/graphql", self._websocket()),
                *self._rest(),
                *web_routes(),
                *page_routes(self.health, print_sdl() if self.settings.introspection else None),
            ],
            middleware=[*self.tracing.middleware(), named, *log_requests, *others],
            exception_handlers={404: ERROR_FORMATS.no_route},
        )

    def _executor(self, transport: str) -> Executor:
        instrumented = InstrumentedExecutor(self.executor, transport, self.metrics, self.settings.log_slower_than)
        return self.tracing.wrap_executor(instrumented, self.executor.documents)

    def _http(self) -> GraphQLEndpoint:
        return GraphQLEndpoint(
            self._executor("http"),
            self.authenticator.authenticate,
            self.admission,
            EventStreams(self.streams, recheck_interval=self.settings.credentials_trusted),
            max_body_bytes=self.settings.max_body_bytes,
            body_timeout=self.settings.body_timeout,
            turns=self.turns,
            on_rejection=lambda status: self.metrics.refused.add((str(status),)),
        )

    def _websocket(self) -> WebSocketEndpoint:
        return WebSocketEndpoint(
            self._executor("websocket"),
            self.authenticator.authenticate,
            self.admission.quotas,
            self.streams,
            max_message_bytes=self.settings.max_body_bytes,
            limits=WebSocketLimits(recheck_interval=self.settings.credentials_trusted),
            turns=self.turns,
        )

    def _rest(self) -> list[BaseRoute]:
        return rest_routes(
            self.database,
            self.operations,
            self.authenticator,
            self.admission,
            public_url=self.settings.public_url or None,
            max_body_bytes=self.settings.max_body_bytes,
            body_timeout=self.settings.body_timeout,
            turns=self.turns,
            max_cost=self.settings.max_cost,
            middleware=[Middleware(InstrumentedRest, self.metrics)],
        )


class _Startable(Protocol):
    async def start(self) -> None: ...

    async def stop(self) -> None: ...


class _Part(Part, _Startable, Protocol):
    """A background part that is started and stopped with the gateway and reports its health."""


@asynccontextmanager
async def opened_database(settings: Settings) -> AsyncIterator[Database]:
    """Open the database of `settings`, which must be migrated, and close it at the end. Raises StartupError."""
    database = open_database(
        settings.database_url,
        read_connections=settings.read_connections,
        write_connections=settings.write_connections,
        read_timeout=settings.read_timeout,
        write_timeout=settings.write_timeout,
        acquire_timeout=settings.database_wait,
        max_waiting=settings.database_queue,
        longest_wait=settings.longest_wait,
    )
    try:
        yield database
    finally:
        await database.close()


@asynccontextmanager
async def opened_drivers(
    database: Database, providers: Sequence[ConfiguredProvider]
) -> AsyncIterator[Mapping[str, Driver]]:
    """Yield the drivers of all configured and all simulated providers, by provider name. Raises StartupError."""
    for provider in providers:
        await register_provider(database, provider.name, provider.driver, provider.tenant)
    drivers = {provider.name: provider.make() for provider in providers if provider.driver != SIMULATED}
    simulated_world = SimulatedWorld(database)
    rows = await database.read(lambda transaction: transaction.all(_SIMULATED), single=True)
    async with AsyncExitStack() as stack:
        for driver in drivers.values():
            stack.push_async_callback(driver.close)
        yield drivers | {row.name: SimulatedDriver(row.name, simulated_world) for row in rows}


async def prepare(settings: Settings, *, demo: bool) -> bool:
    """Do once what must precede several processes that each run a gateway (`running_gateway`). Raises StartupError.

    Checks that authentication is configured as required, loads the demo world if `demo`, and returns whether requests
    require authentication.
    """
    roles = Roles.read(settings.roles)
    async with opened_database(settings) as database:
        authenticator = Authenticator(database, roles, read_jwt_verifier(settings, roles), settings)
        await authenticator.start()
        if demo:
            await load_demo(database, settings.tenant)
        await authenticator.stop()
    return authenticator.requires_authentication


@asynccontextmanager
async def running_gateway(
    settings: Settings,
    *,
    demo: bool = False,
    clock: Callable[[], float] = monotonic,
    jobs: Callable[[JobParts], Sequence[PeriodicJob]] = periodic_jobs,
) -> AsyncIterator[Gateway]:
    """Run a gateway on a migrated database: its worker, change feed and jobs run until the block is left.

    `demo`: load the demo world if the database has no machines. `clock`: monotonic seconds, for rate limits and cached
    credentials. `jobs`: the jobs to run. Raises StartupError.
    """
    providers, persisted, roles = read_providers(settings), PersistedDocuments(settings), Roles.read(settings.roles)
    jwts, metrics, streams = read_jwt_verifier(settings, roles), Metrics(), OpenStreams()
    quotas = Quotas(settings, clock)
    sys.setswitchinterval(SWITCH_INTERVAL)
    async with AsyncExitStack() as stack:
        tracing = await stack.enter_async_context(open_tracing(settings))
        database = tracing.wrap_database(await stack.enter_async_context(opened_database(settings)))
        await log_unknown_consumers(database)
        refusals = RefusalLog(database, settings.tenant, clock)
        on_refusal = partial(_record_refused_login, refusals)
        authenticator = Authenticator(database, roles, jwts, settings, on_refusal=on_refusal, clock=clock)
        stack.push_async_callback(refusals.stop)
        await _start_all(stack, authenticator)
        if demo:
            await load_demo(database, settings.tenant)
        drivers = {
            name: InstrumentedDriver(name, driver, metrics, tracing)
            for name, driver in (await stack.enter_async_context(opened_drivers(database, providers))).items()
        }
        feed, inventory = ChangeFeed(database), InventoryRefresher(database, drivers, settings)
        watch = ChangeWatcher(inventory, drivers)
        worker = Worker(
            database,
            drivers,
            settings,
            inventory.refresh_machine,
            limits={provider.name: provider.concurrency for provider in providers},
            on_machine_changed=watch.request_refresh,
            context=partial(instrumented_operation, metrics, tracing),
        )
        processes = Processes(database, worker.name, settings.operation_lease)
        job_parts = JobParts(
            settings=settings,
            database=database,
            drivers=drivers,
            quotas=QuotaSync(database, quotas),
            refusals=refusals,
            inventory=inventory,
            watch=watch,
            processes=processes,
        )
        runner = JobRunner(
            database, jobs(job_parts), owner=worker.name, lease=settings.operation_lease, on_run=metrics.count_job_run
        )
        parts: dict[str, _Part] = {"feed": feed, "worker": worker, "watch": watch, "jobs": runner}
        await _start_all(stack, processes, *parts.values())

        def on_accepted(outcomes: Sequence[Outcome]) -> None:
            tracing.record_accepted(outcomes)
            if any(outcome.provider is not None for outcome in outcomes):
                runner.wake()

        operations = Operations(
            database,
            drivers,
            settings,
            wake=worker.wake,
            refusals=refusals,
            refuse_kind=processes.refusal,
            on_accepted=on_accepted,
        )
        turns = LoopTurns(settings.longest_wait)
        executor = GraphQLExecutor(database, operations, feed, turns, settings, persisted)
        metrics.add_gauges(lambda: process_gauges(database, executor, streams, feed, worker, runner))
        health = Health(
            database,
            parts,
            revisions(),
            stuck_after=_STUCK_AFTER_LEASES * settings.operation_lease,
            job_problems=runner.problems,
        )
        surfaces = Surfaces(
            settings=settings,
            database=database,
            operations=operations,
            executor=executor,
            authenticator=authenticator,
            admission=Admission(quotas),
            streams=streams,
            turns=turns,
            health=health,
            metrics=metrics,
            tracing=tracing,
        )
        measuring = asyncio.create_task(measure_loop_lag(metrics))
        stack.callback(measuring.cancel)
        yield Gateway(
            app=surfaces.application(),
            authenticator=authenticator,
            database=database,
            inventory=inventory,
            streams=streams,
            turns=turns,
            worker=worker,
            jobs=runner,
            health=health,
            metrics=metrics,
        )


async def _start_all(stack: AsyncExitStack, *parts: _Startable) -> None:
    """Start the parts. They are stopped in reverse order, so that producers of changes stop before their consumers."""
    for part in parts:
        await part.start()
        stack.push_async_callback(part.stop)


async def _record_refused_login(refusals: RefusalLog, scope: Mapping[str, Any], error: GatewayError) -> None:
    rest = scope["path"].startswith("/api")
    await refusals.record_login(origin_of(scope, Surface.REST if rest else Surface.GRAPHQL), error)
