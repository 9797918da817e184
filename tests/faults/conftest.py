"""Gateways whose databases can be taken away."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from gateway.app import opened_database
from gateway.config import Settings
from gateway.inventory.demo import load_demo
from gateway.store.migrate import migrate
from tests.databases import Databases
from tests.faults.proxy import Proxy, proxied
from tests.serving import Served, served


def hasty(url: str, **changes: Any) -> Settings:
    """Settings with which what is waited for ends soon, but nothing that only has a slow machine."""
    short: dict[str, Any] = {"read_timeout": 3.0, "write_timeout": 3.0, "database_wait": 3.0, "drain_timeout": 2.0}
    return Settings(database_url=url, **(short | changes))


def with_demo(url: str) -> str:
    """The URL of a database, which now is migrated and has the demo world."""

    async def load() -> None:
        async with opened_database(Settings(database_url=url)) as database:
            await load_demo(database, "default")

    migrate(url)
    asyncio.run(load())
    return url


@dataclass
class Wired:
    """A gateway, and the wire to its PostgreSQL; `url` goes around the wire."""

    gateway: Served
    wire: Proxy
    url: str


@contextmanager
def wired_gateway(databases: Databases, **changes: Any) -> Iterator[Wired]:
    url = with_demo(databases.new("postgresql"))
    port = databases.postgres_server().port
    with (
        proxied(port) as wire,
        served(hasty(url.replace(f":{port}/", f":{wire.port}/"), **changes)) as gateway,
    ):
        yield Wired(gateway, wire, url)
        wire.heal()


@pytest.fixture
def wired(databases: Databases) -> Iterator[Wired]:
    with wired_gateway(databases) as made:
        yield made
