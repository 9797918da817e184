"""A server that all tests of the transports share. Tests that change limits start their own."""

from collections.abc import Iterator

import httpx2
import pytest

from tests.serving import http_client

from .serving import Serving, serve


@pytest.fixture(scope="package")
def serving() -> Iterator[Serving]:
    with serve(ping_after=600.0) as running:  # seconds, so that no ping comes between the messages of a slow test
        yield running


@pytest.fixture(scope="package")
def client(serving: Serving) -> Iterator[httpx2.Client]:
    with http_client(serving.origin) as client:
        yield client
