"""Two processes on one database share the quotas of callers, with the delay that the documentation states."""

import sqlite3
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.cli.programs import Program, serving
from tests.databases import KINDS, Databases
from tests.waiting import attempts, until

pytestmark = pytest.mark.thorough  # starts server processes and waits for real timeouts

QUOTA, WINDOW = 20, 600_000.0  # no requests are refilled while a test runs


def usage_reader(url: str) -> Callable[[], float]:
    """A function that returns the number of requests recorded in the database."""
    query = "SELECT full_at FROM caller_use"

    def read() -> float:
        if url.startswith("sqlite"):
            connection = sqlite3.connect(url.removeprefix("sqlite:///"), timeout=30)
            rows = connection.execute(query).fetchall()
            connection.close()
        else:
            with psycopg.connect(url) as server:
                rows = server.execute(query).fetchall()
        (full_at,) = rows[0] if rows else (0.0,)
        return float((full_at - time.time()) * QUOTA / WINDOW)

    return read


def send_request(program: Program) -> int:
    """The status of one request."""
    return program.http.post("/graphql", json={"query": "{ viewer { name } }"}).status_code


def exhaust(program: Program) -> int:
    """The number of requests that are served before the first one is rejected."""
    statuses = [send_request(program) for _ in range(QUOTA + 5)]
    served = statuses.count(200)
    assert statuses == [200] * served + [429] * (len(statuses) - served)
    return served


def serve_until_refused(program: Program) -> int:
    """The number of requests that are served before one is rejected, with pauses for the process to catch up."""
    for number, _ in enumerate(attempts(pause=0.05)):
        if send_request(program) == 429:
            return number
    raise AssertionError


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_share_one_quota(databases: Databases, kind: str) -> None:
    url = databases.new(kind)
    limits: dict[str, Any] = {"database_url": url, "caller_quota": QUOTA, "caller_window": WINDOW}
    used = usage_reader(url)
    with serving(**limits) as one, serving(**limits) as other:
        assert exhaust(one) == QUOTA
        until(lambda: used() >= QUOTA - 0.1)
        assert send_request(other) == 200  # it has not read the usage of the other process yet
        until(lambda: used() >= QUOTA + 0.9)
        assert serve_until_refused(other) < QUOTA // 2  # those before it has read the result of its commit
        assert send_request(one) == 429
        refused = other.http.post("/graphql", json={"query": "{ viewer { name } }"})
        assert int(refused.headers["retry-after"]) > WINDOW / QUOTA  # requests beyond the quota are paid back first
