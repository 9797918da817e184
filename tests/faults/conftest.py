"""Gateways whose connection to the database goes through a proxy."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from gateway.config import Settings
from tests.databases import Databases
from tests.faults.proxy import Proxy, running_proxy
from tests.serving import Served, served


def short_timeouts(url: str, **changes: Any) -> Settings:
    """Settings with timeouts short enough for tests, and long enough for a slow machine."""
    short: dict[str, Any] = {"read_timeout": 3.0, "write_timeout": 3.0, "database_wait": 3.0, "drain_timeout": 2.0}
    return Settings(database_url=url, **(short | changes))


@dataclass
class ProxiedGateway:
    """A gateway, and the proxy to its PostgreSQL. `url` bypasses the proxy."""

    gateway: Served
    proxy: Proxy
    url: str


@contextmanager
def proxied_gateway(databases: Databases, **changes: Any) -> Iterator[ProxiedGateway]:
    url = databases.new("postgresql", demo=True)
    port = databases.postgres_server().port
    with (
        running_proxy(port) as proxy,
        served(short_timeouts(url.replace(f":{port}/", f":{proxy.port}/"), **changes)) as gateway,
    ):
        yield ProxiedGateway(gateway, proxy, url)
        proxy.heal()


@pytest.fixture
def proxied(databases: Databases) -> Iterator[ProxiedGateway]:
    with proxied_gateway(databases) as made:
        yield made
