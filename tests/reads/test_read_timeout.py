"""Slow reads on SQLite: restarted in a thread after a short time on the event loop, and canceled at the timeout."""

from functools import partial

import pytest

from gateway.config import Settings
from gateway.store import database_url
from gateway.store.sqlite import SqliteDatabase
from tests.databases import Databases
from tests.reads.world import ids, populate
from tests.serving import served

QUERY = "{ machines(first: 50) { nodes { id snapshots(first: 3) { totalCount nodes { id name } } } } }"


def limit_inline_reads(monkeypatch: pytest.MonkeyPatch, *, progress_steps: int) -> None:
    """Interrupts each read on the event loop whose statement takes more than `progress_steps` instructions."""
    limited = partial(SqliteDatabase, inline_seconds=0.0, progress_steps=progress_steps)
    monkeypatch.setattr(database_url, "SqliteDatabase", limited)


def test_a_slow_read_is_restarted_in_a_thread(databases: Databases, monkeypatch: pytest.MonkeyPatch) -> None:
    """With these limits, nearly every read on the event loop is interrupted, at any point of it."""
    limit_inline_reads(monkeypatch, progress_steps=150)
    with served(Settings(database_url=databases.new("sqlite"), keep_gone=1e9)) as gateway:
        world = populate(gateway)
        first = gateway.ask(QUERY)
        assert {node["id"] for node in first["machines"]["nodes"]} == set(ids(world.machines))
        for _ in range(100):
            assert gateway.ask(QUERY) == first


def test_a_read_beyond_the_timeout_is_canceled(databases: Databases, monkeypatch: pytest.MonkeyPatch) -> None:
    url = databases.new("sqlite")
    with served(Settings(database_url=url, keep_gone=1e9)) as gateway:
        populate(gateway)
    limit_inline_reads(monkeypatch, progress_steps=300)  # no read of a starting gateway takes as many
    with served(Settings(database_url=url, read_timeout=1e-9, keep_gone=1e9)) as gateway:
        for _ in range(5):
            errors = gateway.errors('{ snapshots(first: 1000, filter: {name: {contains: "e"}}) { nodes { id name } } }')
            assert errors == [("LIMIT_EXCEEDED", "The read took longer than 1e-09 seconds.")]
    with served(Settings(database_url=url, keep_gone=1e9)) as gateway:
        assert gateway.ask("{ snapshots(first: 1) { totalCount } }") == {"snapshots": {"totalCount": 150}}
