"""Who may work on an operation, and who not any more."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from gateway.models import OperationState
from gateway.operations.claims import Claim, LeaseLost, claim, release
from tests.operations.crashing import bury, expire_leases
from tests.operations.world import PATIENCE, SETTINGS, World, open_world, until

Run = Callable[..., None]
PATIENT = replace(SETTINGS, operation_lease=600.0)


async def take(world: World, owner: str, slots: int = 9) -> list[Claim]:
    return await claim(world.database, owner, slots=slots, providers=["sim"], lease=600.0)


async def nothing(_: Any) -> None:
    return None


async def delete_all(tx: Any) -> None:
    await tx.rows("DELETE FROM snapshot")


def test_the_heads_of_queues_are_claimed_oldest_first(run: Run) -> None:
    async def story(world: World) -> None:
        await world.machine("m1")
        await world.machine("m2")
        for machine in (2, 2, 1, 1):
            await world.create(machine)
        one = await take(world, "one", 1)
        two = await take(world, "two")
        assert ([c.row.id for c in one], [c.row.id for c in two]) == ([1], [3])
        assert await take(world, "three") == []
        await one[0].end(OperationState.SUCCEEDED, nothing)
        assert [c.row.id for c in await take(world, "three")] == [2]

    run(story)


def test_whoever_lost_the_lease_writes_nothing(run: Run) -> None:
    async def story(world: World) -> None:
        await world.machine()
        await world.create()
        (old,) = await take(world, "old")
        await old.issue()
        await expire_leases(world)
        (new,) = await take(world, "new")
        assert (new.row.fence, new.row.attempt, new.row.issued) == (2, 2, True)
        before = await world.everything()
        for write in (
            old.issue,
            old.show,
            lambda: old.beat(600.0),
            lambda: old.checkpoint("t"),
            lambda: old.reschedule(1.0, "x"),
            lambda: old.end(OperationState.FAILED, delete_all),
        ):
            with pytest.raises(LeaseLost):
                await write()
        assert old.lost
        assert await world.everything() == before
        await new.end(OperationState.SUCCEEDED, nothing)
        with pytest.raises(LeaseLost):
            await new.end(OperationState.FAILED, nothing)
        assert await world.states() == ["SUCCEEDED"]

    run(story)


def test_the_same_owner_with_an_older_fence_writes_nothing(run: Run) -> None:
    async def story(world: World) -> None:
        await world.machine()
        await world.create()
        (first,) = await take(world, "me")
        await expire_leases(world)
        (second,) = await take(world, "me")
        with pytest.raises(LeaseLost):
            await first.issue()
        await second.issue()

    run(story)


def test_a_heartbeat_without_an_answer_is_none(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that hangs: when the lease is over the work is let go, for another may have begun it."""

    async def hang(_claim: Claim, _lease: float) -> None:
        await asyncio.Event().wait()

    async def story(world: World) -> None:
        await world.machine(latency_ms=600_000)
        await world.create()
        monkeypatch.setattr(Claim, "beat", hang)
        async with world.working() as worker:

            async def at_work() -> bool:
                return bool(worker._jobs)

            await until(at_work)
            job, claimed = next(iter(worker._jobs.items()))
            await asyncio.wait([job], timeout=PATIENCE)
            assert (job.cancelled(), claimed.lost) == (True, True)

    run(story, replace(SETTINGS, operation_lease=0.3, drain_timeout=0.1))


def test_a_frozen_worker_that_wakes_up_changes_nothing(run: Run) -> None:
    async def story(world: World) -> None:
        await world.machine()
        gate, reached = asyncio.Event(), asyncio.Event()

        class Frozen(type(world.driver)):  # type: ignore[misc]
            async def create(self, work: Any, wish: Any) -> Any:
                made = await super().create(work, wish)
                reached.set()
                await gate.wait()
                return made

        frozen = world.worker(drivers={"sim": Frozen("sim", world.simulation)}, poll=600.0)
        outcome = await world.create()
        await frozen.start()
        await reached.wait()
        await expire_leases(world)
        await world.finish()
        before = await world.everything()
        (job,) = frozen._jobs
        gate.set()
        await asyncio.wait([job])
        assert await world.everything() == before
        row = await world.operation(outcome.operation_id)
        assert (row.state.value, row.attempt) == ("SUCCEEDED", 2)
        assert await world.provider_picture() == [("new", None, True)]
        await bury(frozen)

    run(story, PATIENT)


def test_heartbeats_keep_the_lease(run: Run) -> None:
    async def story(world: World) -> None:
        await world.machine(latency_ms=600_000)
        operation = (await world.create()).operation_id

        async def renewed() -> bool:
            row = await world.operation(operation)
            return bool(row.lease_until and row.started_at and (row.lease_until - row.started_at).total_seconds() > 1.0)

        async with world.working():
            await until(renewed)
            await world.execute("UPDATE simulated_task SET done_at = started_at")
            await world.until_done()
        assert (await world.operation(operation)).attempt == 1

    run(story)


def test_many_workers_share_the_work(run: Run, url: str) -> None:
    async def story(world: World) -> None:
        for number in range(1, 6):
            await world.machine(f"m{number}")
            for step in range(4):
                await world.create(number, name=f"s{step}")
        others = [World(open_world(url), world.settings) for _ in range(3)]
        workers = [each.worker() for each in (world, *others)]
        for worker in workers:
            await worker.start()
        await world.until_done()
        for worker in workers:
            await worker.stop()
        for other in others:
            await other.database.close()
        assert set(await world.states()) == {"SUCCEEDED"}
        for number in range(1, 6):
            rows = await world.snapshots()
            line = [
                (row.name, rows[row.parent_id].name if row.parent_id else None)
                for row in rows.values()
                if row.machine_id == number
            ]
            assert line == [("s0", None), ("s1", "s0"), ("s2", "s1"), ("s3", "s2")]
            assert len(await world.provider_picture(f"m{number}")) == 4

    run(story)


def test_a_worker_that_stops_lets_running_work_end_and_begins_nothing(run: Run) -> None:
    async def story(world: World) -> None:
        await world.machine(latency_ms=600_000)
        first = (await world.create(name="one")).operation_id
        await world.create(name="two")

        async def begun() -> bool:
            return (await world.operation(first)).task_ref is not None

        worker = world.worker()
        await worker.start()
        await until(begun)
        stopping = asyncio.create_task(worker.stop())
        await asyncio.sleep(0)
        await world.execute("UPDATE simulated_task SET done_at = started_at")
        await stopping
        assert await world.states() == ["SUCCEEDED", "QUEUED"]

    run(story)


def test_what_does_not_end_in_time_is_taken_over_at_once(run: Run) -> None:
    async def story(world: World) -> None:
        await world.machine(latency_ms=600_000)
        operation = (await world.create()).operation_id

        async def begun() -> bool:
            return (await world.operation(operation)).task_ref is not None

        async with world.working():
            await until(begun)
        row = await world.operation(operation)
        assert (row.state.value, row.owner, row.lease_until, row.issued) == ("RUNNING", None, None, True)
        await world.execute("UPDATE simulated_task SET done_at = started_at")
        await world.finish()
        row = await world.operation(operation)
        assert (row.state.value, row.attempt) == ("SUCCEEDED", 2)
        assert await world.provider_picture() == [("new", None, True)]

    run(story, replace(PATIENT, drain_timeout=0.01))


def test_release_is_for_ones_own(run: Run) -> None:
    async def story(world: World) -> None:
        await world.machine("m1")
        await world.machine("m2")
        await world.create(1)
        await world.create(2)
        await take(world, "one", 1)
        await take(world, "two", 1)
        await release(world.database, "one")
        assert [row.owner for row in await world.rows_of_operations()] == [None, "two"]

    run(story)


def test_operations_wait_for_a_process_that_has_their_driver(run: Run) -> None:
    async def story(world: World) -> None:
        await world.provider("other")
        await world.machine("m1")
        await world.machine("m2", provider="other")
        others = {"other": type(world.driver)("other", world.simulation)}
        everyone = World(world.database, world.settings)
        everyone.drivers.update(others)
        mine = (await world.create(1)).operation_id
        theirs = (await everyone.create(2)).operation_id
        async with world.working():
            await world.until_state(mine, "SUCCEEDED")
        assert (await world.operation(theirs)).state.value == "QUEUED"
        await world.finish(drivers=others)
        assert (await world.operation(theirs)).state.value == "SUCCEEDED"

    run(story)
