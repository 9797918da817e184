"""Options of pytest, and what processes that run tests load."""

import gc
import re
from pathlib import Path

import pytest

# Importing the gateway and collecting the tests create millions of objects that live as long as the process.
# Traversing them takes a third of the time; see pytest_collection_finish.
gc.disable()


_THOROUGH_MODULE = re.compile(rb"^pytestmark = pytest\.mark\.thorough\b", re.MULTILINE)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--thorough", action="store_true", help="also run slow tests, as CI does")


def pytest_configure(config: pytest.Config) -> None:
    """Loads the fixtures, except in the controller of pytest-xdist, which runs no tests and starts the workers."""
    if hasattr(config, "workerinput") or config.getoption("dist") == "no":
        config.pluginmanager.import_plugin("tests.fixtures")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leaves out modules with slow tests alone, whose imports take seconds. Called for no file that is named."""
    thorough = config.getoption("--thorough") or collection_path.suffix != ".py"
    return None if thorough or not _THOROUGH_MODULE.search(collection_path.read_bytes()) else True


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
