"""The composition root: settings -> database, drivers, worker, ASGI application. The only place that names them all."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from sqlmodel import col, select
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, WebSocketRoute

from gateway.access.admission import Admission
from gateway.access.authentication import Authenticator
from gateway.access.issuer import read_issuer
from gateway.access.origin import origin_of
from gateway.access.quota_sync import QuotaSync
from gateway.access.quotas import Quotas
from gateway.access.roles import Roles
from gateway.changes.change_feed import ChangeFeed
from gateway.config import Settings
from gateway.drivers.base import Driver
from gateway.drivers.simulator.driver import SimulatedDriver
from gateway.drivers.simulator.world import SimulatedWorld
from gateway.errors import GatewayError
from gateway.graphql.execution.executor import GraphQLExecutor
from gateway.graphql.execution.persisted_documents import PersistedDocuments
from gateway.graphql.requests import Executor
from gateway.graphql.schema.build import print_sdl
from gateway.graphql.transports.http import GraphQLEndpoint
from gateway.graphql.transports.sse import EventStreams
from gateway.graphql.transports.streams import Streams
from gateway.graphql.transports.websocket.connection import WebSocketLimits
from gateway.graphql.transports.websocket.endpoint import WebSocketEndpoint
from gateway.http.health import Health, Part
from gateway.http.middleware import middleware
from gateway.http.pages import page_routes
from gateway.inventory.change_watcher import Watch
from gateway.inventory.demo import load_demo
from gateway.inventory.provider_configuration import SIMULATED, ConfiguredProvider, read_providers
from gateway.inventory.provider_rows import register_provider
from gateway.inventory.refresh import Inventory
from gateway.models import Provider, Surface
from gateway.operations.audit_refusals import RefusalLog
from gateway.operations.service import Operations
from gateway.operations.worker import Worker
from gateway.rest.endpoint import rest_routes
from gateway.store.database import Database
from gateway.store.migrate import revisions
from gateway.store.opening import open_database
from gateway.store.statements import Statement
from gateway.telemetry.gauges import gauges
from gateway.telemetry.instrumentation import (
    LoggedRequests,
    ObservedDriver,
    ObservedExecutor,
    ObservedRest,
    observed_work,
    watch_loop,
)
from gateway.telemetry.metrics import Measures
from gateway.telemetry.spans import Spans
from gateway.telemetry.traces import opened_spans
from gateway.web import routes as web_routes

log = logging.getLogger(__name__)

_LATE = 3  # leases after which a part that has not worked is stuck

_SIMULATED = Statement(select(Provider.name).where(col(Provider.driver) == "simulated"))


@dataclass(frozen=True, slots=True)
class Gateway:
    """A running gateway. Close `streams` before the connections that carry them."""

    app: Starlette
    authenticator: Authenticator
    database: Database
    inventory: Inventory
    streams: Streams
    worker: Worker
    health: Health
    measures: Measures


@dataclass(frozen=True, slots=True)
class Surfaces:
    """The parts that requests are answered by."""

    settings: Settings
    database: Database
    operations: Operations
    executor: GraphQLExecutor
    authenticator: Authenticator
    admission: Admission
    streams: Streams
    health: Health
    measures: Measures
    spans: Spans

    def application(self) -> Starlette:
        """Raises StartupError for an origin in the settings that is none."""
        named, *others = middleware(self.settings, self.admission.guarded(self._http()))
        log_requests = [Middleware(LoggedRequests)] if self.settings.log_requests else []
        return Starlette(
            routes=[
                WebSocketRoute("/graphql", self._websocket()),
                *self._rest(),
                *web_routes(),
                *page_routes(self.health, print_sdl() if self.settings.introspection else None),
            ],
            middleware=[*self.spans.middleware(), named, *log_requests, *others],
        )

    def _executor(self, transport: str) -> Executor:
        observed = ObservedExecutor(self.executor, transport, self.measures, self.settings.log_slower_than)
        return self.spans.executor(observed, self.executor.documents)

    def _http(self) -> GraphQLEndpoint:
        return GraphQLEndpoint(
            self._executor("http"),
            self.authenticator.authenticate,
            self.admission,
            EventStreams(self.streams, recheck_after=self.settings.credentials_trusted),
            max_body_bytes=self.settings.max_body_bytes,
            body_timeout=self.settings.body_timeout,
            refused=lambda status: self.measures.refused.add((str(status),)),
        )

    def _websocket(self) -> WebSocketEndpoint:
        return WebSocketEndpoint(
            self._executor("websocket"),
            self.authenticator.authenticate,
            self.admission.callers,
            self.streams,
            max_message_bytes=self.settings.max_body_bytes,
            limits=WebSocketLimits(recheck_after=self.settings.credentials_trusted),
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
            middleware=[Middleware(ObservedRest, self.measures)],
        )


class _Begins(Protocol):
    async def start(self) -> None: ...

    async def stop(self) -> None: ...


class _Part(Part, _Begins, Protocol):
    """What runs beside the requests, as it is begun and ended here."""


@asynccontextmanager
async def opened_database(settings: Settings) -> AsyncIterator[Database]:
    """The migrated database of `settings`. Raises StartupError."""
    database = open_database(
        settings.database_url,
        read_connections=settings.read_connections,
        write_connections=settings.write_connections,
        read_timeout=settings.read_timeout,
        write_timeout=settings.write_timeout,
        wait=settings.database_wait,
        queue=settings.database_queue,
    )
    try:
        yield database
    finally:
        await database.close()


@asynccontextmanager
async def opened_drivers(
    database: Database, providers: Sequence[ConfiguredProvider]
) -> AsyncIterator[Mapping[str, Driver]]:
    """A driver for every configured and every simulated provider, by name. Raises StartupError."""
    for provider in providers:
        await register_provider(database, provider.name, provider.driver, provider.tenant)
    drivers = {provider.name: provider.make() for provider in providers if provider.driver != SIMULATED}
    simulation = SimulatedWorld(database)
    rows = await database.read(lambda transaction: transaction.all(_SIMULATED), single=True)
    async with AsyncExitStack() as stack:
        for driver in drivers.values():
            stack.push_async_callback(driver.close)
        yield drivers | {row.name: SimulatedDriver(row.name, simulation) for row in rows}


async def prepare(settings: Settings, *, demo: bool) -> bool:
    """What is to be done once before several processes run a gateway, as in `running`. Raises StartupError.

    Says whether everybody will be asked who they are.
    """
    roles = Roles.read(settings.roles)
    async with opened_database(settings) as database:
        authenticator = Authenticator(database, roles, read_issuer(settings, roles), settings)
        await authenticator.start()
        if demo:
            await load_demo(database, settings.tenant)
        await authenticator.stop()
    return authenticator.asks


@asynccontextmanager
async def running(settings: Settings, *, demo: bool = False, refreshes: bool = True) -> AsyncIterator[Gateway]:
    """A gateway on a migrated database: its worker, refresh and feed run until this is left. Raises StartupError.

    `demo`: the demo world is loaded when the database has no machines. `refreshes`: it reads providers again by itself,
    which one of several processes does for all.
    """
    providers, persisted, roles = read_providers(settings), PersistedDocuments(settings), Roles.read(settings.roles)
    jwts, callers, measures, streams = read_issuer(settings, roles), Quotas(settings), Measures(), Streams()
    async with AsyncExitStack() as stack:
        spans = await stack.enter_async_context(opened_spans(settings))
        database = spans.database(await stack.enter_async_context(opened_database(settings)))
        refusals = RefusalLog(database, settings.tenant)
        authenticator = Authenticator(database, roles, jwts, settings, partial(_log_in_refused, refusals))
        await _begun(stack, refusals, authenticator, QuotaSync(database, callers))
        if demo:
            await load_demo(database, settings.tenant)
        drivers = {
            name: ObservedDriver(name, driver, measures, spans)
            for name, driver in (await stack.enter_async_context(opened_drivers(database, providers))).items()
        }
        feed, inventory = ChangeFeed(database), Inventory(database, drivers, settings)
        watch = Watch(inventory, drivers, listens=refreshes)
        worker = Worker(
            database,
            drivers,
            settings,
            inventory.refresh_machine,
            limits={provider.name: provider.concurrency for provider in providers},
            look=watch.look,
            around=partial(observed_work, measures, spans),
        )
        parts: dict[str, _Part] = {"feed": feed, "worker": worker, "inventory": inventory, "watch": watch}
        if not refreshes:
            del parts["inventory"]
        await _begun(stack, *parts.values())
        operations = Operations(database, drivers, settings, worker.wake, refusals, spans.accepted)
        executor = GraphQLExecutor(database, operations, feed, settings, persisted)
        measures.look(lambda: gauges(database, executor, streams, feed, worker))
        health = Health(database, parts, revisions(), late=_LATE * settings.operation_lease)
        admission = Admission(callers)
        surfaces = Surfaces(
            settings, database, operations, executor, authenticator, admission, streams, health, measures, spans
        )
        looking = asyncio.create_task(watch_loop(measures))
        stack.callback(looking.cancel)
        yield Gateway(surfaces.application(), authenticator, database, inventory, streams, worker, health, measures)


async def _begun(stack: AsyncExitStack, *parts: _Begins) -> None:
    """They are stopped in reverse: what makes changes before what tells of them."""
    for part in parts:
        await part.start()
        stack.push_async_callback(part.stop)


async def _log_in_refused(refusals: RefusalLog, scope: Mapping[str, Any], error: GatewayError) -> None:
    rest = scope["path"].startswith("/api")
    await refusals.log_in(origin_of(scope, Surface.REST if rest else Surface.GRAPHQL), error)
