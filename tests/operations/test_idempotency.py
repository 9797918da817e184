"""Idempotency keys: a repeated request returns the recorded outcomes and changes nothing."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from gateway.errors import GatewayError, IdempotencyKeyReused, NotFound, Refusal, Throttled, Unavailable, Unconfirmed
from gateway.models import IdempotencyKey, Operation
from tests.operations.world import World, open_world, refusals

Run = Callable[..., None]


def test_replay_returns_the_recorded_outcome_and_changes_nothing(run: Run) -> None:
    async def story(world: World) -> None:
        await world.machine()
        first = await world.create(key="k", name="n")
        before = await world.everything()
        assert await world.create(key="k", name=" n ") == first
        assert await world.everything() == before
        await world.finish()
        await world.delete(first.snapshot_id)
        await world.finish()
        assert await world.create(key="k", name="n") == first
        assert len(await world.rows(Operation)) == 2

    run(story)


@pytest.mark.parametrize("committed", [True, False])
@pytest.mark.parametrize("second", [Unavailable("absent"), Throttled("busy", retry_after=1), Unconfirmed("lost again")])
def test_outcome_that_cannot_be_looked_up_is_unknown(run: Run, second: GatewayError, committed: bool) -> None:
    """The outcome of the first COMMIT is unknown, and the second attempt meets a database that is absent."""

    async def story(world: World) -> None:
        await world.machine()
        write, calls = world.database.write, 0

        async def write_in_doubt(work: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == 1:
                if committed:
                    await write(work)
                raise Unconfirmed("The first COMMIT is in doubt.")
            raise second

        world.database.write = write_in_doubt  # type: ignore[method-assign]
        with pytest.raises(Unconfirmed):
            await world.create(key="k", name="n")
        assert calls == 2
        world.database.write = write  # type: ignore[method-assign]
        assert len(await world.rows(Operation)) == int(committed)
        assert (await world.create(key="k", name="n")).operation_id == 1
        assert len(await world.rows(Operation)) == 1

    run(story)


def test_key_with_other_arguments_is_refused(run: Run) -> None:
    async def story(world: World) -> None:
        await world.machine()
        await world.machine("m2")
        await world.create(key="k")
        before = await world.everything()
        for changes in ({"name": "other"}, {"description": "x"}, {"memory": True}, {"machine": 2}):
            with pytest.raises(IdempotencyKeyReused) as caught:
                await world.create(**({"key": "k"} | changes))
            assert caught.value.path == ("idempotencyKey",)
        assert await world.everything() == before

    run(story)


def test_key_is_scoped_to_caller_and_mutation(run: Run) -> None:
    async def story(world: World) -> None:
        await world.tree()
        other = replace(world.caller, key="other")
        numbers = [
            (await world.create(key="k")).operation_id,
            (await world.create(key="k", caller=other)).operation_id,
            (await world.create_several([1], key="k"))[0].operation_id,
            (await world.refresh(key="k")).operation_id,
            (await world.delete(1, key="k"))[0].operation_id,
        ]
        assert numbers == [1, 2, 3, 4, 5]

    run(story)


def test_refused_items_are_replayed(run: Run) -> None:
    async def story(world: World) -> None:
        a, _, c, _ = await world.tree()
        await world.delete(c)
        first = await world.delete(c, a, 99, key="k", with_descendants=True)
        again = await world.delete(c, a, 99, key="k", with_descendants=True)
        assert refusals(first) == refusals(again)
        assert refusals(first)[:3] == [("CONFLICT", "ids/0"), None, ("NOT_FOUND", "ids/2")]
        assert [replace(o, refusal=None) for o in again] == [replace(o, refusal=None) for o in first]
        assert again[0].refusal.conflict == first[0].refusal.conflict
        assert again[0].refusal.message == first[0].refusal.message

    run(story)


def test_refusal_and_dry_run_record_no_key(run: Run) -> None:
    async def story(world: World) -> None:
        a, *_ = await world.tree()
        with pytest.raises(NotFound):
            await world.create(99, key="k")
        await world.delete(99, key="k")
        await world.delete(a, key="k", dry_run=True)
        await world.revert(a, key="k", dry_run=True)
        with pytest.raises(Refusal):
            await world.revert(99, key="k")
        assert await world.rows(IdempotencyKey) == []
        assert (await world.create(key="k")).operation_id == 1

    run(story)


def test_key_expires_after_a_day(run: Run) -> None:
    async def story(world: World) -> None:
        await world.machine()
        await world.create(key="k")
        await world.execute("UPDATE idempotency_key SET created_at = '2020-01-01T00:00:00.000000Z'")
        second = await world.create(key="k", name="other")
        assert second.operation_id == 2
        assert await world.create(key="k", name="other") == second

    run(story)


def test_one_of_concurrent_requests_with_a_key_takes_effect(run: Run, url: str) -> None:
    async def story(world: World) -> None:
        await world.tree()
        elsewhere = World(open_world(url), world.settings)
        try:
            worlds = [world, elsewhere] * 8
            outcomes = await asyncio.gather(*(each.create(key="k") for each in worlds))
            deleted = await asyncio.gather(*(each.delete(1, 2, key="k") for each in worlds))
        finally:
            await elsewhere.database.close()
        assert {o.operation_id for o in outcomes} == {1}
        assert {tuple(o.operation_id for o in each) for each in deleted} == {(2, 3)}
        assert len(await world.rows(Operation)) == 3
        assert len(await world.snapshots()) == 5

    run(story)


def test_concurrent_deletes_are_accepted_once(run: Run, url: str) -> None:
    async def story(world: World) -> None:
        a, b, c, d = await world.tree()
        elsewhere = World(open_world(url), world.settings)
        try:
            orders = [(a, b, c, d), (d, c, b, a)] * 4
            pairs = zip([world, elsewhere] * 4, orders, strict=True)
            answers = await asyncio.gather(*(each.delete(*order) for each, order in pairs))
        finally:
            await elsewhere.database.close()
        accepted = [o.snapshot_id for outcomes in answers for o in outcomes if o.refusal is None]
        assert sorted(accepted) == [a, b, c, d]
        assert {each for outcomes in answers for each in refusals(outcomes) if each} == {
            ("CONFLICT", f"ids/{index}") for index in range(4)
        }

    run(story)
