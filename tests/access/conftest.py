"""Databases with and without tokens, and gateways on them."""

from collections.abc import Iterator

import pytest

from gateway.config import Settings
from tests.access.asking import make_token
from tests.databases import SLOW_KINDS, Databases
from tests.serving import Served, served

# Short, for a revocation is waited for; long enough that a cached answer is told from a new look.
TRUSTED = 0.2


@pytest.fixture(params=SLOW_KINDS)
def url(request: pytest.FixtureRequest, databases: Databases) -> str:
    """A database, on both kinds."""
    return databases.new(request.param)


@pytest.fixture
def token(url: str) -> str:
    """An operator's, called `ci`."""
    return make_token(url)


@pytest.fixture
def gateway(url: str, token: str) -> Iterator[Served]:
    """Serves the demo world to whoever has a token."""
    assert token
    with served(Settings(database_url=url, credentials_trusted=TRUSTED), demo=True) as gateway:
        yield gateway
