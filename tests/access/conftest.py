"""Databases with and without tokens, and gateways on them."""

from collections.abc import Iterator

import pytest

from gateway.config import Settings
from tests.access.clients import create_token
from tests.databases import SLOW_KINDS, Databases
from tests.serving import Served, served

# Seconds: short, because tests wait for revocations, but long enough that a cached result differs from a new one.
CREDENTIALS_TRUSTED = 0.2


@pytest.fixture(params=SLOW_KINDS)
def url(request: pytest.FixtureRequest, databases: Databases) -> str:
    """The URL of a database with the demo world, of each kind."""
    return databases.new(request.param, demo=True)


@pytest.fixture
def token(url: str) -> str:
    """A token named `ci` with the role `operator`."""
    return create_token(url)


@pytest.fixture
def gateway(url: str, token: str) -> Iterator[Served]:
    """A gateway with the demo world, which requires authentication because `token` exists."""
    assert token
    with served(Settings(database_url=url, credentials_trusted=CREDENTIALS_TRUSTED)) as gateway:
        yield gateway


@pytest.fixture
def open_gateway(url: str) -> Iterator[Served]:
    """A gateway with the demo world and without users."""
    with served(Settings(database_url=url)) as gateway:
        yield gateway
