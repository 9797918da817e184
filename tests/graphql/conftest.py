"""Gateways shared by tests of the GraphQL API: the demo world on each database, read-only or writable."""

from collections.abc import Iterator

import pytest

from gateway.config import Settings
from tests.databases import KINDS, SLOW_KINDS, Databases
from tests.graphql.client import dump, set_latency
from tests.serving import Served, served, without_refreshes


@pytest.fixture(scope="package", params=KINDS)
def gateway(request: pytest.FixtureRequest, databases: Databases) -> Iterator[Served]:
    """The demo world, read-only: the fixture fails if a test changed the database."""
    with served(Settings(database_url=databases.new(request.param, demo=True))) as gateway:
        before = dump(gateway)
        yield gateway
        assert dump(gateway) == before


@pytest.fixture(scope="module", params=SLOW_KINDS)
def busy(request: pytest.FixtureRequest, databases: Databases) -> Iterator[Served]:
    """The demo world with instantaneous providers. Each test uses different machines.

    Periodic refreshes are disabled, because some tests change the inventory directly in the database.
    """
    settings = Settings(database_url=databases.new(request.param, demo=True), drain_timeout=0.1)
    with served(settings, jobs=without_refreshes) as gateway:
        set_latency(gateway, 0)
        yield gateway
