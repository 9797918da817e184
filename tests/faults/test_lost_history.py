"""A database that lost what it had told, as a standby that took over may have: subscribers are told to read again."""

import json
import sqlite3

import psycopg
import pytest

from tests.databases import KINDS, Databases
from tests.faults.asking import create
from tests.faults.conftest import hasty, with_demo
from tests.serving import served

FOLLOW = "subscription { snapshotChanged { kind snapshot { name } } }"


@pytest.mark.parametrize("kind", KINDS)
def test_subscribers_are_told_to_read_again(databases: Databases, kind: str) -> None:
    url = with_demo(databases.new(kind))
    with served(hasty(url, write_timeout=10.0)) as gateway:
        gateway.run(gateway.gateway.worker.stop())
        gateway.run(gateway.gateway.inventory.stop())
        headers = {"accept": "text/event-stream"}
        with gateway.http.stream("POST", "/graphql", json={"query": FOLLOW}, headers=headers) as answer:
            bodies = (json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: {"))
            create(gateway, "told")
            assert next(bodies)["data"]["snapshotChanged"]["snapshot"]["name"] == "told"
            forget(url)
            (error,) = next(bodies)["errors"]
        assert error["extensions"] == {"code": "LIMIT_EXCEEDED", "retryable": True}
        assert error["message"].endswith("read again, then subscribe")
        with gateway.http.stream("POST", "/graphql", json={"query": FOLLOW}, headers=headers) as answer:
            lines = answer.iter_lines()
            assert next(lines) == ":"
            create(gateway, "after")
            body = next(json.loads(line[6:]) for line in lines if line.startswith("data: {"))
        assert body["data"]["snapshotChanged"]["snapshot"]["name"] == "after"


def forget(url: str) -> None:
    """Takes the last changes out of the outbox."""
    if url.startswith("sqlite"):
        with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
            connection.execute("DELETE FROM event")
        connection.close()
    else:
        with psycopg.connect(url) as postgres:
            postgres.execute("DELETE FROM event")
