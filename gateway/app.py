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

from gateway.access.admission import Admission
from gateway.access.authentication import Authenticator
from gateway.access.issuer import read_issuer
from gateway.access.origin import origin_of
from gateway.access.roles import Roles
from gateway.access.sharing import Sharing
from gateway.access.standing import Callers
from gateway.api.execution import GraphQLExecutor
from gateway.api.persisted import PersistedDocuments
from gateway.api.streams import Streams
from gateway.audit import Surface
from gateway.config import Settings
from gateway.drivers.base import Driver
from gateway.drivers.simulated import SimulatedDriver
from gateway.errors import GatewayError
from gateway.health import Health, Part
from gateway.inventory.demo import load_demo
from gateway.inventory.refresh import Inventory
from gateway.inventory.registering import register_provider
from gateway.inventory.watching import Watch
from gateway.models import Provider
from gateway.operations.refusals import Refusals
from gateway.operations.service import Operations
from gateway.operations.worker import Worker
from gateway.providers import SIMULATED, ConfiguredProvider, read_providers
from gateway.store.database import Database
from gateway.store.feed import Feed
from gateway.store.migrate import revisions
from gateway.store.opening import open_database
from gateway.store.simulation import Simulation
from gateway.store.statements import Statement
from gateway.surfaces import Surfaces
from gateway.telemetry.measures import Measures
from gateway.telemetry.observing import (
    ObservedDriver,
    observed_work,
    watch_loop,
)
from gateway.telemetry.reading import gauges
from gateway.telemetry.spans import opened_spans

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
    jwts, callers, measures, streams = read_issuer(settings, roles), Callers(settings), Measures(), Streams()
    async with AsyncExitStack() as stack:
        spans = await stack.enter_async_context(opened_spans(settings))
        database = spans.database(await stack.enter_async_context(opened_database(settings)))
        refusals = Refusals(database, settings.tenant)
        authenticator = Authenticator(database, roles, jwts, settings, partial(_log_in_refused, refusals))
        await _begun(stack, refusals, authenticator, Sharing(database, callers))
        if demo:
            await load_demo(database, settings.tenant)
        drivers = {
            name: ObservedDriver(name, driver, measures, spans)
            for name, driver in (await stack.enter_async_context(opened_drivers(database, providers))).items()
        }
        feed, inventory = Feed(database), Inventory(database, drivers, settings)
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


async def _log_in_refused(refusals: Refusals, scope: Mapping[str, Any], error: GatewayError) -> None:
    rest = scope["path"].startswith("/api")
    await refusals.log_in(origin_of(scope, Surface.REST if rest else Surface.GRAPHQL), error)
