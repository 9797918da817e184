"""A gateway for clients: the demo world, whose work takes no time, but on one machine, where it takes for ever."""

from collections.abc import Iterator

import pytest

from gateway.config import Settings
from tests.databases import Databases
from tests.graphql.asking import held, latency
from tests.serving import Served, served

HELD = "vm-12"  # as in gateway.js


@pytest.fixture
def gateway(databases: Databases) -> Iterator[Served]:
    with served(Settings(database_url=databases.new("sqlite"), drain_timeout=0.1), demo=True) as gateway:
        latency(gateway, 0)
        with held(gateway, HELD):
            yield gateway
