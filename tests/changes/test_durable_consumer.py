"""Durable consumers of the change feed: each change has its effects once, through crashes, restarts and competition."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.changes.durable_consumer import BatchTaken, ConsumerBatch, DurableConsumer, log_unknown_consumers
from gateway.changes.outbox import BATCH, ChangeEvent, Lagged, last_position
from gateway.models import CallerUse
from gateway.operations.housekeeping import sweep
from gateway.store.database import Transaction
from gateway.store.statements import insert
from tests.databases import SLOW_KINDS, Databases
from tests.examples import EXAMPLES
from tests.operations.world import Story, World, play
from tests.waiting import at_most, until_async

Run = Callable[[Story], None]

NAME = "test"
DAY = 86_400.0
# The effect of a change is a row of a table that is not published: a change that has its effect twice is an error.
_EFFECT = insert(CallerUse, "caller", "full_at")
_EFFECTS = "SELECT caller FROM caller_use ORDER BY full_at"
_NEWEST = "SELECT xid, id FROM event ORDER BY xid DESC, id DESC LIMIT 1"
_CHANGES = "SELECT noun, change, subject_id FROM event WHERE noun = 'machine' ORDER BY xid, id"


class Crash(Exception):
    """The process is killed."""


def consumer_of(world: World, name: str = NAME) -> DurableConsumer:
    """A new object, as in a new process."""
    return DurableConsumer(world.database, name, ["machine"])


async def next_batch(world: World, name: str = NAME) -> ConsumerBatch:
    """The next batch, once all events so far can be read: open transactions of the PostgreSQL server delay that."""

    async def all_can_be_read() -> bool:
        rows = await world.database.read(lambda tx: tx.rows(_NEWEST))
        return [tuple(row) for row in rows] in ([], [await world.database.read(last_position)])

    await until_async(all_can_be_read)
    return await consumer_of(world, name).batch()


def text_of(event: ChangeEvent) -> str:
    return f"{event.noun} {event.change} {event.subject_id}"


async def process(world: World, batch: ConsumerBatch, name: str = NAME, crash_after: int | None = None) -> None:
    """Commits the effects of a batch together with the position. Raises Crash after that many statements."""

    async def work(transaction: Transaction) -> None:
        steps = 0

        def step() -> None:
            nonlocal steps
            if steps == crash_after:
                raise Crash
            steps += 1

        step()
        await consumer_of(world, name).commit(transaction, batch)
        for event in batch.events:
            step()
            await transaction.run(_EFFECT, caller=f"{name}: {text_of(event)} {event.position}", full_at=event.id)
        step()

    await world.database.write(work)


async def effects(world: World) -> list[str]:
    """What the effects were made of, in order."""
    rows = await world.database.read(lambda tx: tx.rows(_EFFECTS))
    return [row[0].partition(": ")[2].partition(" (")[0] for row in rows]


async def catch_up(world: World) -> None:
    """Processes all batches up to the end."""
    for _ in at_most(20):
        batch = await next_batch(world)
        if batch.is_end:
            break
        await process(world, batch)


async def describe(world: World, number: int, text: str) -> None:
    await world.execute(f"UPDATE machine SET description = '{text}' WHERE id = {number}")


async def change_noticed(world: World, number: int, text: str) -> str:
    await describe(world, number, text)
    return f"machine UPDATED {number}"


async def age_events(world: World, seconds: float) -> None:
    """Sets the time of all events back."""
    older = {
        "sqlite": f"strftime('%Y-%m-%dT%H:%M:%f000Z', at, '-{seconds} seconds')",
        "postgresql": f"at - interval '{seconds} seconds'",
    }
    await world.execute(f"UPDATE event SET at = {older[world.database.dialect]}")


async def stored_events(world: World) -> int:
    rows = await world.database.read(lambda tx: tx.rows("SELECT count(*) FROM event"))
    return int(rows[0][0])


async def housekeep(world: World, *known: str) -> None:
    """With events kept for an hour, and for a week for the known consumers."""
    kept = replace(world.settings, keep_events=3_600.0, keep_events_for_consumers=7 * DAY)
    await sweep(world.database, kept, known)


def test_a_new_consumer_begins_at_the_end(run: Run) -> None:
    """It receives the changes of its nouns since then, in order, and continues after a restart."""

    async def story(world: World) -> None:
        await world.provider()
        await world.machine()
        assert (await next_batch(world)).is_end
        await describe(world, 1, "a")
        await world.snapshot(1, "not wanted")
        await world.machine("m2")
        batch = await next_batch(world)
        assert [text_of(event) for event in batch.events] == ["machine UPDATED 1", "machine CREATED 2"]
        # Until it is committed, the batch is read again.
        assert await next_batch(world) == batch
        await process(world, batch)
        await world.snapshot(1, "not wanted either")
        later = await next_batch(world)
        assert (later.events, later.is_end) == ([], False)
        await process(world, later)
        assert (await next_batch(world)).is_end
        assert await effects(world) == ["machine UPDATED 1", "machine CREATED 2"]

    run(story)


def test_consumers_have_their_own_positions(run: Run) -> None:
    async def story(world: World) -> None:
        await world.provider()
        await world.machine()
        assert (await next_batch(world, "one")).is_end
        await describe(world, 1, "a")
        assert (await next_batch(world, "two")).is_end
        await describe(world, 1, "b")
        await process(world, one := await next_batch(world, "one"), "one")
        await process(world, two := await next_batch(world, "two"), "two")
        assert (len(one.events), len(two.events)) == (2, 1)

    run(story)


def test_more_than_one_batch(run: Run) -> None:
    async def story(world: World) -> None:
        await world.provider()
        await world.machine()
        assert (await next_batch(world)).is_end

        async def change_often(transaction: Transaction) -> None:
            for number in range(BATCH + 5):
                await transaction.rows(f"UPDATE machine SET description = '{number}' WHERE id = 1")

        await world.database.write(change_often)
        batch = await next_batch(world)
        assert len(batch.events) == BATCH
        await process(world, batch)
        assert len((await next_batch(world)).events) == 5

    run(story)


@pytest.mark.parametrize("kind", SLOW_KINDS)
@given(data=st.data())
@settings(max_examples=EXAMPLES // 2)  # each with a database of its own
def test_every_change_has_its_effect_once(databases: Databases, kind: str, data: st.DataObject) -> None:
    """Whatever crashes: before the position is written, between the effects, and before the commit."""

    async def story(world: World) -> None:
        await world.provider()
        await world.machine()
        assert (await next_batch(world)).is_end
        expected: list[str] = []
        for step in range(data.draw(st.integers(1, 4))):
            changes = data.draw(st.integers(0, 3))
            expected += [await change_noticed(world, 1, f"{step}-{change}") for change in range(changes)]
            batch = await next_batch(world)
            # Of up to three events; a later crash does not happen.
            with suppress(Crash):
                await process(world, batch, crash_after=data.draw(st.integers(0, 5)))
        await catch_up(world)
        assert await effects(world) == expected

    play(databases.new(kind), story, provider=False)


def test_two_processes_with_the_same_batch(run: Run) -> None:
    """One commits. The other waits for it, and rolls back."""

    async def story(world: World) -> None:
        await world.provider()
        await world.machine()
        assert (await next_batch(world)).is_end
        await describe(world, 1, "a")
        batches = [await next_batch(world) for _ in range(2)]
        outcomes = await asyncio.gather(*(process(world, batch) for batch in batches), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes if outcome is not None] == [BatchTaken]
        assert await effects(world) == ["machine UPDATED 1"]
        assert (await next_batch(world)).is_end

    run(story)


def test_events_are_kept_until_every_known_consumer_has_processed_them(run: Run) -> None:
    async def story(world: World) -> None:
        await world.provider()
        await world.machine()
        for name in ("slow", "fast"):
            assert (await next_batch(world, name)).is_end
        for text in "abc":
            await describe(world, 1, text)
        await process(world, await next_batch(world, "fast"), "fast")
        await age_events(world, 2 * DAY)
        await housekeep(world, "slow", "fast")
        batch = await next_batch(world, "slow")
        assert len(batch.events) == 3
        await process(world, batch, "slow")
        await housekeep(world, "slow", "fast")
        assert await stored_events(world) == 1  # the last one, which is the position of both

    run(story)


def test_an_unknown_consumer_holds_no_events_back(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and gets an error if it is run again."""

    async def story(world: World) -> None:
        await world.provider()
        await world.machine()
        for name in ("known", "removed", "newer"):
            assert (await next_batch(world, name)).is_end
        with caplog.at_level(logging.INFO, "gateway.changes.durable_consumer"):
            await log_unknown_consumers(world.database, ["known", "not started yet"])
            await log_unknown_consumers(world.database, ["known", "removed", "newer"])
        assert [record.message for record in caplog.records] == [
            "Ignored consumers in the database that this process does not know consumers=newer,removed"
        ]
        for text in "abc":
            await describe(world, 1, text)
        await process(world, await next_batch(world, "known"), "known")
        await age_events(world, 2 * DAY)
        await housekeep(world, "known", "not started yet")
        assert await stored_events(world) == 1
        with pytest.raises(Lagged):
            await next_batch(world, "removed")

    run(story)


@pytest.mark.parametrize("is_empty", [False, True], ids=["", "since the first event"])
def test_a_consumer_that_is_too_far_behind(run: Run, is_empty: bool) -> None:
    """It is informed, also if there was no event when it started. It reads the data again and continues."""

    async def story(world: World) -> None:
        if is_empty:
            assert (await next_batch(world)).is_end
        await world.provider()
        await world.machine()
        if not is_empty:
            assert (await next_batch(world)).is_end
        for text in "abc":
            await describe(world, 1, text)
        await age_events(world, 8 * DAY)
        await housekeep(world, NAME)
        for _ in range(2):
            with pytest.raises(Lagged):
                await next_batch(world)
        await world.database.write(consumer_of(world).restart)
        assert (await next_batch(world)).is_end
        await describe(world, 1, "d")
        await catch_up(world)
        assert await effects(world) == ["machine UPDATED 1"]

    run(story)


def test_a_consumer_that_starts_before_the_first_event(run: Run) -> None:
    async def story(world: World) -> None:
        assert (await next_batch(world)).is_end
        assert (await next_batch(world, "another")).is_end
        await world.provider()
        await world.machine()
        for name in (NAME, "another"):
            assert [text_of(event) for event in (await next_batch(world, name)).events] == ["machine CREATED 1"]

    run(story)


def test_a_batch_of_before_a_restart_is_not_committed(run: Run) -> None:
    async def story(world: World) -> None:
        await world.provider()
        await world.machine()
        assert (await next_batch(world)).is_end
        await describe(world, 1, "a")
        batch = await next_batch(world)
        await world.database.write(consumer_of(world).restart)
        with pytest.raises(BatchTaken):
            await process(world, batch)
        assert await effects(world) == []

    run(story)


def test_transactions_that_commit_in_another_order(databases: Databases) -> None:
    """On PostgreSQL, the consumer waits for older transactions, also for those that are open when it starts."""

    async def story(world: World) -> None:
        await world.provider()
        for ref in ("m1", "m2"):
            await world.machine(ref)
        with psycopg.connect(url) as older:
            older.execute("UPDATE machine SET description = 'changed' WHERE id = 1")
            assert (await consumer_of(world).batch()).is_end
            await describe(world, 2, "a")
            assert (await consumer_of(world).batch()).is_end
            older.commit()
        await catch_up(world)
        rows = await world.database.read(lambda tx: tx.rows(_CHANGES))
        assert [f"{row[0]} {row[1]} {row[2]}" for row in rows][-2:] == ["machine UPDATED 1", "machine UPDATED 2"]
        assert sorted(await effects(world)) == ["machine UPDATED 1", "machine UPDATED 2"]

    url = databases.new("postgresql")
    play(url, story, provider=False)
