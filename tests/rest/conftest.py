"""Gateways for tests of the REST API. Only what changes something needs one for itself."""

from collections.abc import Iterator

import pytest

from gateway.config import Settings
from tests.databases import KINDS, Databases
from tests.rest.world import Rest, rest_served


def _settings(databases: Databases, kind: str) -> Settings:
    """Work that goes on when a test ends is not waited for."""
    return Settings(database_url=databases.new(kind), drain_timeout=0.01)


@pytest.fixture(scope="package", params=KINDS)
def readable(request: pytest.FixtureRequest, databases: Databases) -> Iterator[Rest]:
    """The demo world, on both databases, for tests that only read."""
    with rest_served(_settings(databases, request.param), demo=True) as rest:
        yield rest


@pytest.fixture(scope="package")
def reading(databases: Databases) -> Iterator[Rest]:
    """The same on SQLite only, for what does not depend on the database."""
    with rest_served(_settings(databases, "sqlite"), demo=True) as rest:
        yield rest


@pytest.fixture
def rest(databases: Databases) -> Iterator[Rest]:
    """The demo world for this test alone."""
    with rest_served(_settings(databases, "sqlite"), demo=True) as rest:
        yield rest


@pytest.fixture(params=KINDS)
def both(request: pytest.FixtureRequest, databases: Databases) -> Iterator[Rest]:
    """The same on both databases."""
    with rest_served(_settings(databases, request.param), demo=True) as rest:
        yield rest
