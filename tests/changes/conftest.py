"""A migrated, empty database of each kind, and stories that run in a new world on it."""

from collections.abc import Callable

import pytest

from tests.databases import SLOW_KINDS, Databases
from tests.operations.world import Story, play


@pytest.fixture(params=SLOW_KINDS)
def url(request: pytest.FixtureRequest, databases: Databases) -> str:
    """URL of a migrated, empty database."""
    return databases.new(request.param)


@pytest.fixture
def run(url: str) -> Callable[[Story], None]:
    """Runs a story in a new world, whose provider does not exist yet."""

    def run_story(story: Story) -> None:
        play(url, story, provider=False)

    return run_story
