"""Gateways for tests of the REST API. Tests that only read share one."""

from collections.abc import Iterator

import pytest

from gateway.config import Settings
from tests.databases import KINDS, SLOW_KINDS, Databases
from tests.rest.world import Rest, rest_served


def _settings(databases: Databases, kind: str) -> Settings:
    """The demo data, and a gateway that stops without waiting for running operations."""
    return Settings(database_url=databases.new(kind, demo=True), drain_timeout=0.01)


@pytest.fixture(scope="package", params=KINDS)
def shared_both(request: pytest.FixtureRequest, databases: Databases) -> Iterator[Rest]:
    """The demo data on both databases, for tests that only read."""
    with rest_served(_settings(databases, request.param)) as rest:
        yield rest


@pytest.fixture(scope="package")
def shared(databases: Databases) -> Iterator[Rest]:
    """The demo data on SQLite, for tests that only read and do not depend on the database."""
    with rest_served(_settings(databases, "sqlite")) as rest:
        yield rest


@pytest.fixture
def rest(databases: Databases) -> Iterator[Rest]:
    """The demo data on SQLite, for one test."""
    with rest_served(_settings(databases, "sqlite")) as rest:
        yield rest


@pytest.fixture(params=SLOW_KINDS)
def rest_both(request: pytest.FixtureRequest, databases: Databases) -> Iterator[Rest]:
    """The demo data on both databases, for one test."""
    with rest_served(_settings(databases, request.param)) as rest:
        yield rest
