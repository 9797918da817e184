"""Fixtures: runs an async test with an open database, on SQLite and on PostgreSQL."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gateway.app import opened_database
from gateway.config import Settings
from gateway.store.database import Database
from tests.databases import SLOW_KINDS, Databases

Story = Callable[[Database], Awaitable[Any]]


@pytest.fixture(params=SLOW_KINDS)
def url(request: pytest.FixtureRequest, databases: Databases) -> str:
    """The URL of a new, migrated, empty database."""
    return databases.new(request.param)


@pytest.fixture
def run(url: str) -> Callable[[Story], Any]:
    """Runs an async function with an open database, and returns its result."""

    def run_story(story: Story) -> Any:
        async def with_database() -> Any:
            async with opened_database(Settings(database_url=url, write_connections=8)) as database:
                return await story(database)

        return asyncio.run(with_database())

    return run_story
