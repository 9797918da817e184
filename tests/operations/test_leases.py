"""Claims, leases and the fence against late owners."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from gateway.models import OperationState
from gateway.operations.claims import Claim, LeaseLost, release
from gateway.operations.worker import Worker
from tests.operations.crash_injection import expire_leases, kill_workers
from tests.operations.world import SETTINGS, World, open_world
from tests.waiting import until_async

Run = Callable[..., None]


async def no_effect(_: Any) -> None:
    return None


async def delete_all(tx: Any) -> None:
    await tx.rows("DELETE FROM snapshot")


def test_first_operations_of_queues_are_claimed_oldest_first(run: Run) -> None:
    async def story(world: World) -> None:
        await world.machine("m1")
        await world.machine("m2")
        for machine in (2, 2, 1, 1):
            await world.create(machine)
        one = await world.claim("one", 1)
        two = await world.claim("two")
        assert ([c.row.id for c in one], [c.row.id for c in two]) == ([1], [3])
        assert await world.claim("three") == []
        await one[0].end(OperationState.SUCCEEDED, no_effect)
        assert [c.row.id for c in await world.claim("three")] == [2]

    run(story)


def test_worker_without_lease_writes_nothing(run: Run) -> None:
    async def story(world: World) -> None:
        await world.machine()
        await world.create()
        (old,) = await world.claim("old")
        await old.mark_dispatched()
        await expire_leases(world)
        (new,) = await world.claim("new")
        assert (new.row.fence, new.row.attempt, new.row.dispatched) == (2, 2, True)
        before = await world.everything()
        for write in (
            old.mark_dispatched,
            old.report_progress,
            lambda: old.heartbeat(600.0),
            lambda: old.checkpoint("t"),
            lambda: old.reschedule(1.0, "x"),
            lambda: old.end(OperationState.FAILED, delete_all),
        ):
            with pytest.raises(LeaseLost):
                await write()
        assert old.lost
        assert await world.everything() == before
        await new.end(OperationState.SUCCEEDED, no_effect)
        with pytest.raises(LeaseLost):
            await new.end(OperationState.FAILED, no_effect)
        assert await world.states() == ["SUCCEEDED"]

    run(story)


def test_same_owner_with_an_older_fence_writes_nothing(run: Run) -> None:
    async def story(world: World) -> None:
        await world.machine()
        await world.create()
        (first,) = await world.claim("me")
        await expire_leases(world)
        (second,) = await world.claim("me")
        with pytest.raises(LeaseLost):
            await first.mark_dispatched()
        await second.mark_dispatched()

    run(story)


def test_heartbeat_without_response_does_not_renew_the_lease(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database hangs: when the lease expires the task is canceled, because another worker may have claimed it."""

    async def hang(_claim: Claim, _lease: float) -> None:
        await asyncio.Event().wait()

    async def story(world: World) -> None:
        await world.machine(latency_ms=600_000)
        await world.create()
        monkeypatch.setattr(Claim, "heartbeat", hang)
        canceled: list[Claim] = []

        @contextmanager
        def recorded(claimed: Claim) -> Iterator[None]:
            try:
                yield
            except asyncio.CancelledError:
                canceled.append(claimed)
                raise

        async with world.working(context=recorded) as worker:
            await world.until_state(1, "RUNNING")
            # Otherwise the worker claims the operation again at once, and is idle only for a moment.
            await world.execute("UPDATE operation SET lease_until = '2999-01-01T00:00:00.000000Z'")

            async def is_canceled() -> bool:
                return bool(canceled)

            await until_async(is_canceled)
            await until_idle(worker)
            assert canceled[0].lost

    run(story, replace(SETTINGS, operation_lease=0.3, drain_timeout=0.1))


async def until_idle(worker: Worker) -> None:
    async def is_idle() -> bool:
        return worker.running == 0

    await until_async(is_idle)


def test_stopped_worker_that_continues_changes_nothing(run: Run) -> None:
    async def story(world: World) -> None:
        await world.machine()
        gate, reached = asyncio.Event(), asyncio.Event()

        class Frozen(type(world.driver)):  # type: ignore[misc]
            async def create(self, work: Any, command: Any) -> Any:
                made = await super().create(work, command)
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
        gate.set()
        await until_idle(frozen)
        assert await world.everything() == before
        row = await world.operation(outcome.operation_id)
        assert (row.state.value, row.attempt) == ("SUCCEEDED", 2)
        assert await world.provider_picture() == [("new", None, True)]
        await kill_workers()

    run(story)


def test_heartbeats_renew_the_lease(run: Run) -> None:
    async def story(world: World) -> None:
        await world.machine(latency_ms=600_000)
        operation = (await world.create()).operation_id

        async def renewed() -> bool:
            row = await world.operation(operation)
            return bool(row.lease_until and row.started_at and (row.lease_until - row.started_at).total_seconds() > 3.5)

        async with world.working():
            await until_async(renewed)
            await world.execute("UPDATE simulated_task SET done_at = started_at")
            await world.until_done()
        assert (await world.operation(operation)).attempt == 1

    run(story, replace(SETTINGS, operation_lease=3.0))


def test_several_workers_share_the_operations(run: Run, url: str) -> None:
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


def test_stopping_worker_finishes_running_operations_and_claims_none(run: Run) -> None:
    async def story(world: World) -> None:
        await world.machine(latency_ms=600_000)
        first = (await world.create(name="one")).operation_id
        await world.create(name="two")

        async def has_task() -> bool:
            return (await world.operation(first)).task_ref is not None

        worker = world.worker()
        await worker.start()
        await until_async(has_task)
        stopping = asyncio.create_task(worker.stop())
        await asyncio.sleep(0)
        await world.execute("UPDATE simulated_task SET done_at = started_at")
        await stopping
        assert await world.states() == ["SUCCEEDED", "QUEUED"]

    run(story)


def test_operation_over_the_drain_timeout_is_released(run: Run) -> None:
    async def story(world: World) -> None:
        await world.machine(latency_ms=600_000)
        operation = (await world.create()).operation_id

        async def has_task() -> bool:
            return (await world.operation(operation)).task_ref is not None

        async with world.working():
            await until_async(has_task)
        row = await world.operation(operation)
        assert (row.state.value, row.owner, row.lease_until, row.dispatched) == ("RUNNING", None, None, True)
        await world.execute("UPDATE simulated_task SET done_at = started_at")
        await world.finish()
        row = await world.operation(operation)
        assert (row.state.value, row.attempt) == ("SUCCEEDED", 2)
        assert await world.provider_picture() == [("new", None, True)]

    run(story, replace(SETTINGS, drain_timeout=0.01))


def test_release_is_limited_to_the_owner(run: Run) -> None:
    async def story(world: World) -> None:
        await world.machine("m1")
        await world.machine("m2")
        await world.create(1)
        await world.create(2)
        await world.claim("one", 1)
        await world.claim("two", 1)
        await release(world.database, "one")
        assert [row.owner for row in await world.rows_of_operations()] == [None, "two"]

    run(story)


def test_operations_wait_for_a_process_with_their_driver(run: Run) -> None:
    async def story(world: World) -> None:
        await world.provider("other")
        await world.machine("m1")
        await world.machine("m2", provider="other")
        others = {"other": type(world.driver)("other", world.simulation)}
        both = World(world.database, world.settings)
        both.drivers.update(others)
        mine = (await world.create(1)).operation_id
        theirs = (await both.create(2)).operation_id
        async with world.working():
            await world.until_state(mine, "SUCCEEDED")
        assert (await world.operation(theirs)).state.value == "QUEUED"
        await world.finish(drivers=others)
        assert (await world.operation(theirs)).state.value == "SUCCEEDED"

    run(story)
