"""Shared fixtures: databases, and gateways that serve them."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.config import Settings
from tests.databases import KINDS, Databases
from tests.examples import load_profile
from tests.serving import Served, served

# Collecting the tests creates millions of objects that live as long as the process. While it creates them, traversing
# them is a third of the time; see pytest_collection_finish.
gc.disable()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--thorough", action="store_true", help="also run slow tests, as CI does")


def pytest_configure() -> None:
    load_profile()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselects slow tests without --thorough, so that a default run takes less than two minutes."""
    if not config.getoption("--thorough"):
        slow = [item for item in items if item.get_closest_marker("thorough")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if not item.get_closest_marker("thorough")]


def pytest_collection_finish() -> None:
    """Exempts what exists now from garbage collection, and collects the garbage of the tests."""
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)
    gc.enable()


@pytest.fixture(scope="session")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Databases]:
    made = Databases(tmp_path_factory.mktemp("databases"))
    yield made
    made.close()


@pytest.fixture(params=KINDS)
def demo(request: pytest.FixtureRequest, databases: Databases) -> Iterator[Served]:
    """A gateway that serves the demo world, on each kind of database. Each test has its own."""
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
