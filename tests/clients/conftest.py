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
    # The audit sends 61 requests at once, which a busy host may not answer within the default of 0.5 s.
    settings = Settings(database_url=databases.new("sqlite", demo=True), drain_timeout=0.1, longest_wait=60.0)
    with served(settings) as gateway:
        set_latency(gateway, 0)
        with stalled(gateway, HELD):
            yield gateway
