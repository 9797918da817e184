"""A gateway for client tests: the demo world, where operations finish immediately, except those on one machine."""

from collections.abc import Iterator

import pytest

from gateway.config import Settings
from tests.databases import Databases
from tests.graphql.client import set_latency, stalled
from tests.serving import Served, served

HELD = "vm-12"  # the same as in gateway.js


@pytest.fixture
def gateway(databases: Databases) -> Iterator[Served]:
    with served(Settings(database_url=databases.new("sqlite", demo=True), drain_timeout=0.1)) as gateway:
        set_latency(gateway, 0)
        with stalled(gateway, HELD):
            yield gateway
