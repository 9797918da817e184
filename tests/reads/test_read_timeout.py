"""Slow reads on SQLite: restarted in a thread after a short time on the event loop, and canceled at the timeout."""

import pytest

from gateway.config import Settings
from gateway.store import sqlite
from tests.databases import Databases
from tests.reads.world import ids, populate
from tests.serving import served

QUERY = "{ machines(first: 50) { nodes { id snapshots(first: 3) { totalCount nodes { id name } } } } }"


def test_a_slow_read_is_restarted_in_a_thread(databases: Databases, monkeypatch: pytest.MonkeyPatch) -> None:
    """With these limits, nearly every read on the event loop is interrupted, at any point of it."""
    monkeypatch.setattr(sqlite, "_PROGRESS_STEPS", 150)
    monkeypatch.setattr(sqlite, "_INLINE_SECONDS", 0.0)
    with served(Settings(database_url=databases.new("sqlite"))) as gateway:
        world = populate(gateway)
        first = gateway.ask(QUERY)
        assert {node["id"] for node in first["machines"]["nodes"]} == set(ids(world.machines))
        for _ in range(100):
            assert gateway.ask(QUERY) == first


def test_a_read_beyond_the_timeout_is_canceled(databases: Databases, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "_PROGRESS_STEPS", 150)
    settings = Settings(database_url=databases.new("sqlite"), read_timeout=1e-9)
    with served(settings) as gateway:
        populate(gateway)
        monkeypatch.setattr(sqlite, "_INLINE_SECONDS", 0.0)
        for _ in range(5):
            errors = gateway.errors('{ snapshots(first: 1000, filter: {name: {contains: "e"}}) { nodes { id name } } }')
            assert errors == [("LIMIT_EXCEEDED", "The read took longer than 1e-09 seconds.")]
    with served(Settings(database_url=settings.database_url)) as gateway:
        assert gateway.ask("{ snapshots(first: 1) { totalCount } }") == {"snapshots": {"totalCount": 150}}
