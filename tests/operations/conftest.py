"""Fixtures that run a story (an async test body) in a new world, on SQLite and, in the thorough run, on PostgreSQL."""

from collections.abc import Callable

import pytest

from gateway.config import Settings
from tests.databases import SLOW_KINDS, Databases
from tests.operations.world import SETTINGS, Story, play


@pytest.fixture(params=SLOW_KINDS)
def url(request: pytest.FixtureRequest, databases: Databases) -> str:
    """URL of a migrated, empty database."""
    return databases.new(request.param)


@pytest.fixture
def run(url: str) -> Callable[..., None]:
    """Runs a story in a new world."""

    def run_story(story: Story, settings: Settings = SETTINGS) -> None:
        play(url, story, settings)

    return run_story
