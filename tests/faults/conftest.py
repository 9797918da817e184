"""Gateways whose connection to the database goes through a relay."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from gateway.config import Settings
from tests.databases import Databases
from tests.serving import Served, served
from tests.tcp_relay import TcpRelay, running_relay

LONG_TIMEOUTS: dict[str, Any] = {"read_timeout": 30.0, "write_timeout": 30.0, "database_wait": 30.0}


def short_timeouts(url: str, **changes: Any) -> Settings:
    """Settings with timeouts short enough for tests that reach them, and long enough for a slow machine."""
    short: dict[str, Any] = {"read_timeout": 3.0, "write_timeout": 3.0, "database_wait": 3.0, "drain_timeout": 2.0}
    return Settings(database_url=url, **(short | changes))


@dataclass
class RelayedGateway:
    """A gateway, and the relay to its PostgreSQL. `url` bypasses the relay."""

    gateway: Served
    relay: TcpRelay
    url: str


@contextmanager
def relayed_gateway(databases: Databases, **changes: Any) -> Iterator[RelayedGateway]:
    url = databases.new("postgresql", demo=True)
    with (
        running_relay(databases.postgres_server().port) as relay,
        served(short_timeouts(relay.url(url.rpartition("/")[2]), **changes)) as gateway,
    ):
        yield RelayedGateway(gateway, relay, url)
        relay.heal()


@pytest.fixture
def relayed(databases: Databases) -> Iterator[RelayedGateway]:
    """With timeouts that no test reaches."""
    with relayed_gateway(databases, **LONG_TIMEOUTS) as made:
        yield made
