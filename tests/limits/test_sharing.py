"""Two processes on one database give a caller one quota, within the slack that the documentation states."""

import sqlite3
import time
from collections.abc import Callable

import psycopg
import pytest

from tests.cli.programs import Program, serving
from tests.databases import KINDS, Databases

pytestmark = pytest.mark.thorough  # servers in processes of their own, and waits that are real

QUOTA, WINDOW = 20, 600_000.0  # nothing comes back while a test runs


def noted(url: str) -> Callable[[], float]:
    """How many requests the database knows of."""
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


def until(read: Callable[[], float], least: float) -> None:
    deadline = time.monotonic() + 30
    while (found := read()) < least:
        assert time.monotonic() < deadline, f"{found} and not yet {least}"


def ask(program: Program) -> int:
    return program.http.post("/graphql", json={"query": "{ viewer { name } }"}).status_code


def exhaust(program: Program) -> int:
    """How many requests it serves until it refuses one."""
    answers = [ask(program) for _ in range(QUOTA + 5)]
    served = answers.count(200)
    assert answers == [200] * served + [429] * (len(answers) - served)
    return served


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_share_one_quota(databases: Databases, kind: str) -> None:
    url = databases.new(kind)
    limits = {"database_url": url, "caller_quota": QUOTA, "caller_window": WINDOW}
    used = noted(url)
    with serving(**limits) as one, serving(**limits) as other:
        assert exhaust(one) == QUOTA
        until(used, QUOTA - 0.1)
        assert ask(other) == 200  # it has heard of nothing yet
        until(used, QUOTA + 0.9)
        assert exhaust(other) <= 2  # what comes between the commit and its own knowing of it
        assert ask(one) == 429
        refused = other.http.post("/graphql", json={"query": "{ viewer { name } }"})
        assert int(refused.headers["retry-after"]) > WINDOW / QUOTA  # what was too much is worked off
