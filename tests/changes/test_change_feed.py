"""The reader of the outbox: every committed change once, in order, to the listeners that want it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import psycopg

from gateway.changes.change_feed import ChangeFeed, Listener
from gateway.changes.outbox import ChangeEvent, last_position
from gateway.models import Change
from gateway.store.database import Database
from tests.databases import Databases
from tests.operations.world import Story, World, play
from tests.waiting import PATIENCE, at_most, until_async

Run = Callable[[Story], None]

# Events that only a newer version writes: of another noun, and of another kind of change.
NEWER = (
    "INSERT INTO event (xid, at, tenant, noun, change, machine_id, subject_id) SELECT {xid}, {now}, 'default', {event}"
)
NEWER_EVENTS = ("'batch', 'CREATED', NULL, 7", "'machine', 'ARCHIVED', 1, 1")


def every(_event: ChangeEvent) -> bool:
    return True


@asynccontextmanager
async def reading(database: Database) -> AsyncIterator[ChangeFeed]:
    feed = ChangeFeed(database, poll=0.02)
    await feed.start()
    try:
        yield feed
    finally:
        await feed.stop()


async def received(listener: Listener, count: int) -> list[tuple[str, Change | None, int, str | None]]:
    """The next `count` events: noun, kind of change, number and name."""
    events: list[ChangeEvent] = []
    async with asyncio.timeout(PATIENCE):
        while len(events) < count:
            events += await listener.batch()
    return [(event.noun, event.change, event.subject_id, event.subject_name) for event in events]


def test_listeners_receive_the_nouns_that_they_name(run: Run) -> None:
    """The condition of a listener is not even called for others."""

    async def story(world: World) -> None:
        offered: list[str] = []

        def is_wanted(event: ChangeEvent) -> bool:
            offered.append(event.noun)
            return event.subject_id != 2

        async with (
            reading(world.database) as feed,
            feed.listen(["machine", "provider"], every) as both,
            feed.listen(["machine"], is_wanted) as machines,
        ):
            assert feed.listeners == 2
            await world.provider()
            for ref in ("m1", "m2", "m3"):
                await world.snapshot(await world.machine(ref), f"of {ref}", machine_ref=ref)
            assert await received(both, 4) == [
                ("provider", Change.CREATED, 0, "sim"),
                *(("machine", Change.CREATED, number, None) for number in (1, 2, 3)),
            ]
            assert await received(machines, 2) == [("machine", Change.CREATED, number, None) for number in (1, 3)]
            assert offered == ["machine"] * 3
        assert feed.listeners == 0

    run(story)


def test_events_of_a_newer_version_are_skipped(run: Run) -> None:
    """By live listeners, and by one that resumes."""

    async def story(world: World) -> None:
        await world.provider()
        await world.machine()
        postgres = world.database.dialect == "postgresql"
        xid, now = ("pg_current_xact_id()::text::bigint", "clock_timestamp()") if postgres else ("0", "'2026'")
        async with reading(world.database) as feed, feed.listen(["machine", "batch"], every) as listener:
            start = listener.start
            for event in NEWER_EVENTS:
                await world.execute(NEWER.format(xid=xid, now=now, event=event))
            await world.machine("m2")
            expected = [("batch", Change.CREATED, 7, None), ("machine", Change.CREATED, 2, None)]
            assert await received(listener, 2) == expected
            async with feed.listen(["machine"], every, start) as resumed:
                assert await received(resumed, 1) == expected[1:]
            assert not feed.ended

    run(story)


def test_other_tasks_run_while_many_changes_are_read(run: Run) -> None:
    """Such as those of an import, which commits all of them at once. A read has 1,000."""

    async def story(world: World) -> None:
        rounds = 0
        seen: dict[int, int] = {}  # the round of the event loop in which each change was offered

        def is_wanted(event: ChangeEvent) -> bool:
            seen[event.subject_id] = rounds
            return True

        async def count_rounds() -> None:
            nonlocal rounds
            for rounds in at_most(10**9):  # noqa: B007 - read by `is_wanted`
                await asyncio.sleep(0)

        postgres = world.database.dialect == "postgresql"
        xid, now = ("pg_current_xact_id()::text::bigint", "clock_timestamp()") if postgres else ("0", "'2026'")
        await world.provider()
        async with reading(world.database) as feed, feed.listen(["machine"], is_wanted) as listener:
            counting = asyncio.create_task(count_rounds())
            await world.execute(
                "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2500)"
                f" INSERT INTO event (xid, at, tenant, noun, change, subject_id)"
                f" SELECT {xid}, {now}, 'default', 'machine', 'UPDATED', i FROM n"
            )
            assert len(await received(listener, 2_500)) == 2_500
            counting.cancel()
        assert seen[1] < seen[1_500] < seen[2_500]

    run(story)


class PausedDatabase:
    """A database whose reads of the position of the end wait for `resume`. They run after that."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.dialect = database.dialect
        self.paused = asyncio.Event()
        self.resume = asyncio.Event()

    async def read(self, work: Any, *, single: bool = False) -> Any:
        if work is last_position:
            self.paused.set()
            await self.resume.wait()
        return await self._database.read(work, single=single)

    async def listen(self, _wake: Callable[[], None]) -> None:
        pass


def test_a_listener_that_joins_during_an_idle_read_misses_nothing(run: Run) -> None:
    """Without listeners, the feed only reads where the end is."""

    async def story(world: World) -> None:
        await world.provider()
        database: Any = PausedDatabase(world.database)
        database.resume.set()
        async with reading(database) as feed:
            database.resume.clear()
            database.paused.clear()
            await asyncio.wait_for(database.paused.wait(), PATIENCE)
            async with feed.listen(["machine"], every) as listener:
                await world.machine()
                database.resume.set()
                assert await received(listener, 1) == [("machine", Change.CREATED, 1, None)]

    run(story)


def test_transactions_that_commit_in_another_order(databases: Databases) -> None:
    """On PostgreSQL, an event with a lower number may be committed later. It is delivered in its order."""
    url = databases.new("postgresql")

    async def story(world: World) -> None:
        for ref in ("m1", "m2", "m3"):
            await world.machine(ref)
        change = b"UPDATE machine SET description = 'changed' WHERE id = %d"
        with psycopg.connect(url) as first, psycopg.connect(url) as second:
            async with reading(world.database) as feed, feed.listen(["machine"], every) as listener:
                first.execute(change % 1)
                second.execute(change % 2)
                second.commit()
                worked_at = feed.worked_at
                await until_async(lambda: feed.worked_at > worked_at)
                first.execute(change % 3)
                first.commit()
                assert await received(listener, 3) == [
                    ("machine", Change.UPDATED, number, None) for number in (1, 3, 2)
                ]

    play(url, story)
