"""Gateways that tests of the API share: the demo world on each database, to be read or to be changed."""

from collections.abc import Iterator

import pytest

from gateway.config import Settings
from tests.databases import KINDS, Databases
from tests.graphql.asking import dump, latency
from tests.serving import Served, served


@pytest.fixture(scope="module", params=KINDS)
def gateway(request: pytest.FixtureRequest, databases: Databases) -> Iterator[Served]:
    """The demo world. No test of the module may change it, and at the end that is looked at."""
    with served(Settings(database_url=databases.new(request.param)), demo=True) as gateway:
        before = dump(gateway)
        yield gateway
        assert dump(gateway) == before


@pytest.fixture(scope="module", params=KINDS)
def busy(request: pytest.FixtureRequest, databases: Databases) -> Iterator[Served]:
    """The demo world, whose providers need no time; each test has machines of its own in it.

    Providers are not read by themselves, for some tests change what the gateway knows behind its back.
    """
    settings = Settings(database_url=databases.new(request.param), drain_timeout=0.1)
    with served(settings, demo=True, refreshes=False) as gateway:
        latency(gateway, 0)
        yield gateway
