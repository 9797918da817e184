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
from starlette.routing import WebSocketRoute

from gateway.access.admission import Admission
from gateway.access.authentication import Authenticator
from gateway.access.issuer import read_issuer
from gateway.access.origin import origin_of
from gateway.access.roles import Roles
from gateway.access.sharing import Sharing
from gateway.access.standing import Callers
from gateway.api.connection import WebSocketLimits
from gateway.api.execution import GraphQLExecutor
from gateway.api.http import GraphQLEndpoint
from gateway.api.middleware import middleware
from gateway.api.persisted import PersistedDocuments
from gateway.api.requests import Executor
from gateway.api.sse import EventStreams
from gateway.api.streams import Streams
from gateway.api.websocket import WebSocketEndpoint
from gateway.audit import Surface
from gateway.config import Settings
from gateway.drivers.base import Driver
from gateway.drivers.simulated import SimulatedDriver
from gateway.errors import Unauthenticated
from gateway.health import Health, Part
from gateway.inventory.demo import load_demo
from gateway.inventory.refresh import Inventory
from gateway.inventory.registering import register_provider
from gateway.inventory.watching import Watch
from gateway.models import Provider
from gateway.operations.refusals import Refusals
from gateway.operations.service import Operations
from gateway.operations.worker import Worker
from gateway.pages import page_routes
from gateway.providers import SIMULATED, ConfiguredProvider, read_providers
from gateway.rest.endpoint import rest_routes
from gateway.store.database import Database
from gateway.store.feed import Feed
from gateway.store.migrate import revisions
from gateway.store.opening import open_database
from gateway.store.simulation import Simulation
from gateway.store.statements import Statement
from gateway.telemetry.measures import Measures
from gateway.telemetry.observing import (
    LoggedRequests,
    ObservedDriver,
    ObservedExecutor,
    ObservedRest,
    observed_work,
    watch_loop,
)
from gateway.telemetry.reading import gauges
from gateway.telemetry.spans import Spans, opened_spans
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


class _Part(Part, Protocol):
    """The same, as it is begun and ended here."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


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
    simulation = Simulation(database)
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
    jwts = read_issuer(settings, roles)
    async with AsyncExitStack() as stack:
        spans = await stack.enter_async_context(opened_spans(settings))
        database = spans.database(await stack.enter_async_context(opened_database(settings)))
        refusals = Refusals(database, settings.tenant)
        await refusals.start()
        stack.push_async_callback(refusals.stop)
        authenticator = Authenticator(database, roles, jwts, settings, partial(_log_in_refused, refusals))
        await authenticator.start()
        stack.push_async_callback(authenticator.stop)
        if demo:
            await load_demo(database, settings.tenant)
        drivers = await stack.enter_async_context(opened_drivers(database, providers))
        measures = Measures()
        drivers = {name: ObservedDriver(name, driver, measures, spans) for name, driver in drivers.items()}
        inventory = Inventory(database, drivers, settings)
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
        operations = Operations(database, drivers, settings, worker.wake, refusals, spans.accepted)
        feed = Feed(database)
        callers = Callers(settings)
        sharing = Sharing(database, callers)
        await sharing.start()
        stack.push_async_callback(sharing.stop)
        parts: dict[str, _Part] = {"feed": feed, "worker": worker, "inventory": inventory, "watch": watch}
        if not refreshes:
            del parts["inventory"]
        # Stopped in reverse: what makes changes before what tells of them.
        for part in parts.values():
            await part.start()
            stack.push_async_callback(part.stop)
        executor = GraphQLExecutor(database, operations, feed, settings, persisted)
        streams = Streams()
        measures.look(lambda: gauges(database, executor, streams, feed, worker))
        health = Health(database, parts, revisions(), late=_LATE * settings.operation_lease)
        app = _application(
            settings,
            authenticator,
            Admission(callers),
            operations,
            executor,
            streams,
            database,
            health,
            measures,
            spans,
        )
        looking = asyncio.create_task(watch_loop(measures))
        stack.callback(looking.cancel)
        yield Gateway(app, authenticator, database, inventory, streams, worker, health, measures)


async def _log_in_refused(refusals: Refusals, scope: Mapping[str, Any], error: Unauthenticated) -> None:
    rest = scope["path"].startswith("/api")
    await refusals.log_in(origin_of(scope, Surface.REST if rest else Surface.GRAPHQL), error)


def _application(
    settings: Settings,
    authenticator: Authenticator,
    admission: Admission,
    operations: Operations,
    executor: GraphQLExecutor,
    streams: Streams,
    database: Database,
    health: Health,
    measures: Measures,
    spans: Spans,
) -> Starlette:
    authenticate = authenticator.authenticate
    recheck_after = settings.credentials_trusted

    def observed(transport: str) -> Executor:
        counted = ObservedExecutor(executor, transport, measures, settings.log_slower_than)
        return spans.executor(counted, executor.documents)

    http = GraphQLEndpoint(
        observed("http"),
        authenticate,
        admission,
        EventStreams(streams, recheck_after=recheck_after),
        max_body_bytes=settings.max_body_bytes,
        body_timeout=settings.body_timeout,
        refused=lambda status: measures.refused.add((str(status),)),
    )
    websocket = WebSocketEndpoint(
        observed("websocket"),
        authenticate,
        admission.callers,
        streams,
        max_message_bytes=settings.max_body_bytes,
        limits=WebSocketLimits(recheck_after=recheck_after),
    )
    named, *others = middleware(settings, admission.guarded(http))
    log_requests = [Middleware(LoggedRequests)] if settings.log_requests else []
    return Starlette(
        routes=[
            WebSocketRoute("/graphql", websocket),
            *rest_routes(
                database,
                operations,
                authenticator,
                admission,
                public_url=settings.public_url or None,
                max_body_bytes=settings.max_body_bytes,
                body_timeout=settings.body_timeout,
                middleware=[Middleware(ObservedRest, measures)],
            ),
            *web_routes(),
            *page_routes(health, schema=settings.introspection),
        ],
        middleware=[*spans.middleware(), named, *log_requests, *others],
    )
