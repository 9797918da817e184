"""Gateways shared by the tests of the audit log: the demo world on each database, with operations of no duration."""

from collections.abc import Iterator

import pytest

from gateway.config import Settings
from tests.audit.world import ADMIN, NO_RIGHTS, OPERATOR, OTHER_TENANT_ADMIN, VIEWER, CallerClient
from tests.databases import SLOW_KINDS, Databases
from tests.graphql.client import set_latency
from tests.serving import Served, served


@pytest.fixture(scope="package", params=SLOW_KINDS)
def gateway(request: pytest.FixtureRequest, databases: Databases) -> Iterator[Served]:
    settings = Settings(database_url=databases.new(request.param, demo=True), drain_timeout=0.1)
    with served(settings) as gateway:
        set_latency(gateway, 0)
        yield gateway


@pytest.fixture(scope="package")
def admin(gateway: Served) -> CallerClient:
    return CallerClient(gateway, ADMIN)


@pytest.fixture(scope="package")
def operator(gateway: Served) -> CallerClient:
    return CallerClient(gateway, OPERATOR)


@pytest.fixture(scope="package")
def viewer(gateway: Served) -> CallerClient:
    return CallerClient(gateway, VIEWER)


@pytest.fixture(scope="package")
def unprivileged(gateway: Served) -> CallerClient:
    """A caller without any rights."""
    return CallerClient(gateway, NO_RIGHTS)


@pytest.fixture(scope="package")
def other_tenant_admin(gateway: Served) -> CallerClient:
    """An administrator of another tenant."""
    return CallerClient(gateway, OTHER_TENANT_ADMIN)


@pytest.fixture(scope="package")
def anonymous(gateway: Served) -> CallerClient:
    """A client without valid credentials."""
    return CallerClient(gateway, None)
