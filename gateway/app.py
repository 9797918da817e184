"""The composition root: settings -> database, drivers, worker, ASGI application. The only place that names them all."""

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from sqlmodel import col, select
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute

from gateway.access.authentication import Authenticator
from gateway.access.issuer import read_issuer
from gateway.access.roles import Roles
from gateway.api.connection import WebSocketLimits
from gateway.api.execution import GraphQLExecutor
from gateway.api.http import GraphQLEndpoint
from gateway.api.middleware import middleware
from gateway.api.persisted import PersistedDocuments
from gateway.api.sse import EventStreams
from gateway.api.streams import Streams
from gateway.api.websocket import WebSocketEndpoint
from gateway.config import Settings
from gateway.drivers.base import Driver
from gateway.drivers.simulated import SimulatedDriver
from gateway.inventory.demo import load_demo
from gateway.inventory.refresh import Inventory
from gateway.inventory.registering import register_provider
from gateway.inventory.watching import Watch
from gateway.models import Provider
from gateway.operations.service import Operations
from gateway.operations.worker import Worker
from gateway.pages import page_routes
from gateway.providers import SIMULATED, ConfiguredProvider, read_providers
from gateway.rest.endpoint import rest_routes
from gateway.store.database import Database
from gateway.store.feed import Feed
from gateway.store.opening import open_database
from gateway.store.simulation import Simulation
from gateway.store.statements import Statement
from gateway.web import routes as web_routes

log = logging.getLogger(__name__)

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


@asynccontextmanager
async def opened_database(settings: Settings) -> AsyncIterator[Database]:
    """The migrated database of `settings`. Raises StartupError."""
    database = open_database(
        settings.database_url,
        read_connections=settings.read_connections,
        write_connections=settings.write_connections,
        read_timeout=settings.read_timeout,
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


@asynccontextmanager
async def running(settings: Settings, *, demo: bool = False) -> AsyncIterator[Gateway]:
    """A gateway on a migrated database: its worker, refresh and feed run until this is left. Raises StartupError.

    `demo`: the demo world is loaded when the database has no machines.
    """
    providers, persisted, roles = read_providers(settings), PersistedDocuments(settings), Roles.read(settings.roles)
    jwts = read_issuer(settings, roles)
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(opened_database(settings))
        authenticator = Authenticator(database, roles, jwts, settings)
        await authenticator.start()
        stack.push_async_callback(authenticator.stop)
        if demo:
            await load_demo(database, settings.tenant)
        drivers = await stack.enter_async_context(opened_drivers(database, providers))
        inventory = Inventory(database, drivers, settings)
        watch = Watch(inventory, drivers)
        worker = Worker(
            database,
            drivers,
            settings,
            inventory.refresh_machine,
            limits={provider.name: provider.concurrency for provider in providers},
            look=watch.look,
        )
        operations = Operations(database, drivers, settings, worker.wake)
        feed = Feed(database)
        # Stopped in reverse: what makes changes before what tells of them.
        for part in (feed, worker, inventory, watch):
            await part.start()
            stack.push_async_callback(part.stop)
        executor = GraphQLExecutor(database, operations, feed, settings, persisted)
        streams = Streams()
        app = _application(settings, authenticator, operations, executor, streams, database)
        yield Gateway(app, authenticator, database, inventory, streams, worker)


def _application(
    settings: Settings,
    authenticator: Authenticator,
    operations: Operations,
    executor: GraphQLExecutor,
    streams: Streams,
    database: Database,
) -> Starlette:
    authenticate = authenticator.authenticate
    recheck_after = settings.credentials_trusted
    events = EventStreams(streams, recheck_after=recheck_after)
    http = GraphQLEndpoint(executor, authenticate, events, max_body_bytes=settings.max_body_bytes)
    limits = WebSocketLimits(recheck_after=recheck_after)
    websocket = WebSocketEndpoint(
        executor, authenticate, streams, max_message_bytes=settings.max_body_bytes, limits=limits
    )
    return Starlette(
        routes=[
            WebSocketRoute("/graphql", websocket),
            *rest_routes(
                database,
                operations,
                authenticator,
                public_url=settings.public_url or None,
                max_body_bytes=settings.max_body_bytes,
            ),
            *web_routes(),
            *page_routes(database, schema=settings.introspection),
        ],
        middleware=middleware(settings, http),
    )
