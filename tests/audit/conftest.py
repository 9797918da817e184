"""Gateways that tests of the record share: the demo world on each database, whose providers need no time."""

from collections.abc import Iterator

import pytest

from gateway.config import Settings
from tests.audit.world import ADMIN, BLIND, OPERATOR, STRANGER, VIEWER, As
from tests.databases import SLOW_KINDS, Databases
from tests.graphql.asking import latency
from tests.serving import Served, served


@pytest.fixture(scope="package", params=SLOW_KINDS)
def gateway(request: pytest.FixtureRequest, databases: Databases) -> Iterator[Served]:
    settings = Settings(database_url=databases.new(request.param), drain_timeout=0.1)
    with served(settings, demo=True) as gateway:
        latency(gateway, 0)
        yield gateway


@pytest.fixture(scope="package")
def admin(gateway: Served) -> As:
    return As(gateway, ADMIN)


@pytest.fixture(scope="package")
def operator(gateway: Served) -> As:
    return As(gateway, OPERATOR)


@pytest.fixture(scope="package")
def viewer(gateway: Served) -> As:
    return As(gateway, VIEWER)


@pytest.fixture(scope="package")
def blind(gateway: Served) -> As:
    """Who may not even read."""
    return As(gateway, BLIND)


@pytest.fixture(scope="package")
def stranger(gateway: Served) -> As:
    """An administrator of another tenant."""
    return As(gateway, STRANGER)


@pytest.fixture(scope="package")
def nobody(gateway: Served) -> As:
    return As(gateway, None)
