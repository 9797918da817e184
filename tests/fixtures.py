"""Shared fixtures: databases, and gateways that serve them. `conftest.py` loads them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.config import Settings
from gateway.drivers.simulator.driver import SimulatedDriver
from tests.databases import SLOW_KINDS, Databases
from tests.examples import load_profile
from tests.serving import Served, served


def pytest_configure() -> None:
    load_profile()
    SimulatedDriver.poll_interval = 0.02  # many tests wait until the driver notices that they have ended a task


@pytest.fixture(scope="session")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Databases]:
    made = Databases(tmp_path_factory.mktemp("databases"))
    yield made
    made.close()


@pytest.fixture(params=SLOW_KINDS)
def demo(request: pytest.FixtureRequest, databases: Databases) -> Iterator[Served]:
    """A gateway that serves the demo world, on each kind of database in the thorough run. Each test has its own."""
    with served(Settings(database_url=databases.new(request.param, demo=True))) as gateway:
        yield gateway


@pytest.fixture
def server(databases: Databases) -> Iterator[Served]:
    """The same on SQLite only, for tests that do not depend on the database."""
    with served(Settings(database_url=databases.new("sqlite", demo=True))) as gateway:
        yield gateway


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository."""
    return Path(__file__).parent.parent
