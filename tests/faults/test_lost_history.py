"""The database has lost delivered changes, for example after a failover: subscribers get an error and must reload."""

import json
import sqlite3

import psycopg
import pytest

from tests.databases import SLOW_KINDS, Databases
from tests.faults.client import create
from tests.faults.conftest import short_timeouts
from tests.serving import served
from tests.waiting import within

FOLLOW = "subscription { snapshotChanged { kind snapshot { name } } }"


@pytest.mark.parametrize("kind", SLOW_KINDS)
def test_subscribers_get_an_error(databases: Databases, kind: str) -> None:
    url = databases.new(kind, demo=True)
    with served(short_timeouts(url, write_timeout=10.0)) as gateway:
        gateway.run(gateway.gateway.worker.stop())
        gateway.run(gateway.gateway.jobs.stop())
        headers = {"accept": "text/event-stream"}
        with gateway.http.stream("POST", "/graphql", json={"query": FOLLOW}, headers=headers) as answer:
            bodies = (json.loads(line[6:]) for line in within(answer.iter_lines()) if line.startswith("data: {"))
            create(gateway, "before")
            assert next(bodies)["data"]["snapshotChanged"]["snapshot"]["name"] == "before"
            delete_events(url)
            (error,) = next(bodies)["errors"]
        assert error["extensions"] == {"code": "LIMIT_EXCEEDED", "retryable": True}
        assert error["message"].endswith("Reload the data and subscribe again.")
        with gateway.http.stream("POST", "/graphql", json={"query": FOLLOW}, headers=headers) as answer:
            lines = within(answer.iter_lines())
            assert next(lines) == ":"
            create(gateway, "after")
            body = next(json.loads(line[6:]) for line in lines if line.startswith("data: {"))
        assert body["data"]["snapshotChanged"]["snapshot"]["name"] == "after"


def delete_events(url: str) -> None:
    """Deletes all events from the outbox."""
    if url.startswith("sqlite"):
        with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
            connection.execute("DELETE FROM event")
        connection.close()
    else:
        with psycopg.connect(url) as postgres:
            postgres.execute("DELETE FROM event")
