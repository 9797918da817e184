"""What a provider can do to an operation, and how that ends."""

import logging
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest

from gateway.columns import now
from gateway.drivers.simulator.tables import SimulatedSnapshot, SimulatedTask
from gateway.errors import ProviderMissing, ProviderUnavailable
from gateway.models import SnapshotState
from gateway.operations.claims import claim
from tests.operations.world import ORIGIN, SETTINGS, World, until

Run = Callable[..., None]


async def outcome_of(world: World, operation: int | None) -> tuple[str, str | None, str | None, str | None]:
    row = await world.operation(operation)
    assert (row.owner, row.lease_until, row.phase) == (None, None, None)
    return row.state.value, row.error_code, row.error_message, row.error_provider_message


async def behave(world: World, on: str, kind: str, **more: Any) -> None:
    await world.simulation.set_behavior("m1", fault={"on": on, "kind": kind} | more)


def test_a_refused_create_leaves_an_error_that_can_be_deleted(run: Run) -> None:
    async def story(world: World) -> None:
        await world.tree()
        await behave(world, "create", "refuse", message="disk full", times=1)
        outcome = await world.create()
        await world.finish()
        assert (await world.picture())[-1] == ("new", "ERROR", None, False)
        assert await outcome_of(world, outcome.operation_id) == (
            "FAILED",
            "PROVIDER_FAILED",
            "the provider reported an error",
            "disk full",
        )
        await behave(world, "any", "hang")  # the provider is not asked
        await world.delete(outcome.snapshot_id)
        await world.finish()
        assert await world.states() == ["FAILED", "SUCCEEDED"]
        assert [row[0] for row in await world.picture()] == ["a", "b", "c", "d"]

    run(story)


@pytest.mark.parametrize("state", [SnapshotState.READY, SnapshotState.ERROR])
def test_a_failed_delete_leaves_what_was(run: Run, state: SnapshotState) -> None:
    async def story(world: World) -> None:
        await world.machine()
        snapshot = await world.snapshot(1, "s", state=state)
        await behave(world, "delete", "refuse")
        await world.delete(snapshot)
        assert (await world.picture())[0][1] == "DELETING"
        await world.finish()
        assert await world.picture() == [("s", state.value, None, False)]
        assert await world.states() == ["FAILED"]

    run(story)


def test_a_failed_revert_leaves_what_was(run: Run) -> None:
    async def story(world: World) -> None:
        a, *_ = await world.tree()
        before = await world.picture()
        await behave(world, "revert", "refuse")
        await world.revert(a)
        await world.finish()
        assert await world.picture() == before
        assert await world.states() == ["FAILED"]

    run(story)


@pytest.mark.parametrize("kind", ["unavailable", "busy"])
def test_a_provider_that_is_away_is_tried_again_and_the_queue_waits(run: Run, kind: str) -> None:
    async def story(world: World) -> None:
        await world.machine()
        await behave(world, "create", kind, times=2)
        await world.create(name="one")
        await world.create(name="two")
        await world.finish()
        assert await world.picture() == [("one", "READY", None, False), ("two", "READY", "one", True)]
        rows = await world.rows_of_operations()
        assert [(row.state.value, row.attempt, row.error_code) for row in rows] == [
            ("SUCCEEDED", 3, None),
            ("SUCCEEDED", 1, None),
        ]

    run(story)


def test_a_provider_that_stays_away_fails_the_operation_at_its_deadline(run: Run) -> None:
    async def story(world: World) -> None:
        await world.machine()
        await behave(world, "create", "unavailable")
        operation = (await world.create()).operation_id
        await world.finish()
        assert (await outcome_of(world, operation))[:3] == (
            "FAILED",
            "PROVIDER_UNAVAILABLE",
            "the provider does not answer",
        )
        assert await world.picture() == [("new", "ERROR", None, False)]

    run(story, replace(SETTINGS, operation_deadline=0.2))


@pytest.mark.parametrize("verb", ["create", "revert", "delete"])
def test_a_lost_answer_is_looked_for(run: Run, verb: str) -> None:
    async def story(world: World) -> None:
        await world.tree()
        await behave(world, verb, "lost", times=1)
        await (world.create() if verb == "create" else world.revert(1) if verb == "revert" else world.delete(1))
        await world.finish()
        assert await world.states() == ["SUCCEEDED"]
        assert [row[:1] + row[2:] for row in await world.picture() if row[3]] == [
            (row[0], row[1], True) for row in await world.provider_picture() if row[2]
        ]

    run(story)


def test_an_answer_that_stays_lost_is_an_unknown_outcome(run: Run) -> None:
    async def story(world: World) -> None:
        a, b, *_ = await world.tree()
        before = await world.picture()
        await behave(world, "any", "lost", message="connection reset")
        operations = [(await world.revert(a)).operation_id]
        await world.finish()
        operations.append((await world.delete(b))[0].operation_id)
        operations.append((await world.create()).operation_id)
        await world.finish()
        for operation in operations:
            assert await outcome_of(world, operation) == (
                "FAILED",
                "OUTCOME_UNKNOWN",
                "the provider's answer was lost",
                "connection reset",
            )
        assert await world.picture() == [*before, ("new", "ERROR", None, False)]

    run(story)


def test_what_was_made_without_a_word_is_deleted_with_what_is_known_of_it(run: Run) -> None:
    async def story(world: World) -> None:
        await world.tree()
        await behave(world, "create", "lost", times=2)  # the answer, and that to the question what became of it
        outcome = await world.create()
        await world.finish()
        assert (await outcome_of(world, outcome.operation_id))[1] == "OUTCOME_UNKNOWN"
        assert ("new", "c", True) in await world.provider_picture()
        await behave(world, "create", "lost", times=1)
        for state in ("FAILED", "SUCCEEDED"):
            ((deleted,),) = [await world.delete(outcome.snapshot_id)]
            assert await claim(world.database, "has no driver", slots=1, providers=[], lease=1) == []
            await world.finish()
            assert (await world.operation(deleted.operation_id)).state.value == state
        assert [name for name, *_ in await world.provider_picture()] == ["a", "b", "c", "d"]
        assert [name for name, *_ in await world.picture()] == ["a", "b", "c", "d"]

    run(story)


def test_a_provider_that_hangs_is_given_up_at_the_deadline_and_the_next_may_go_on(run: Run) -> None:
    async def story(world: World) -> None:
        await world.machine()
        await behave(world, "create", "hang", times=1)
        hung = (await world.create(name="hung")).operation_id
        await world.create(name="next")
        await world.finish()
        assert (await outcome_of(world, hung))[:2] == ("FAILED", "OUTCOME_UNKNOWN")
        # What hung was made after all, so the next one stands on something that a refresh has yet to tell of.
        assert await world.picture() == [("hung", "ERROR", None, False), ("next", "READY", None, True)]
        assert await world.provider_picture() == [("hung", None, False), ("next", "hung", True)]

    run(story, replace(SETTINGS, operation_deadline=0.3, operation_lease=0.3))


def test_what_is_missing_on_the_provider(run: Run) -> None:
    async def story(world: World) -> None:
        a, b, c, _ = await world.tree()
        await world.execute("DELETE FROM simulated_snapshot WHERE ref IN ('a', 'c')")
        reverted = (await world.revert(a)).operation_id
        await world.finish()
        assert (await outcome_of(world, reverted))[:3] == ("FAILED", "NOT_FOUND", "the provider has no such snapshot")
        deleted = (await world.delete(c))[0].operation_id
        await world.finish()
        assert (await outcome_of(world, deleted))[:2] == ("SUCCEEDED", None)
        assert (await world.picture())[1] == ("b", "READY", "a", True)
        await world.simulation.drop_machine("m1")
        created = (await world.create()).operation_id
        deleted = (await world.delete(b))[0].operation_id
        await world.finish()
        assert (await outcome_of(world, created))[:3] == ("FAILED", "NOT_FOUND", "the provider has no such machine")
        assert (await outcome_of(world, deleted))[:2] == ("SUCCEEDED", None)

    run(story)


def test_a_mistake_of_ours_is_masked_and_logged(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def story(world: World) -> None:
        await world.machine()

        async def broken(*_: Any) -> None:
            raise RuntimeError("password=hunter2")

        world.driver.storage.begin = broken  # type: ignore[method-assign,assignment]
        operation = (await world.create()).operation_id
        with caplog.at_level(logging.ERROR):
            await world.finish()
        assert await outcome_of(world, operation) == (
            "FAILED",
            "INTERNAL",
            "the gateway made a mistake; look at the machine before you ask again",
            None,
        )
        assert "hunter2" in caplog.text
        assert await world.picture() == [("new", "ERROR", None, False)]

    run(story)


def test_a_refresh_is_tried_again_too(run: Run) -> None:
    async def story(world: World) -> None:
        await world.machine()
        calls = []

        async def refresh(machine_id: int) -> None:
            calls.append(machine_id)
            if len(calls) < 3:
                raise ProviderUnavailable("the provider does not answer")

        await world.operations.refresh_machine(world.caller, ORIGIN, 1, None)
        await world.finish(refresh=refresh)
        assert calls == [1, 1, 1]
        assert await world.states() == ["SUCCEEDED"]

    run(story)


def test_progress_is_shown(run: Run) -> None:
    async def story(world: World) -> None:
        await world.machine(latency_ms=600_000)
        operation = (await world.create()).operation_id

        async def shown() -> bool:
            row = await world.operation(operation)
            return (row.progress_percent, row.phase) == (0, "Copying the disks")

        async with world.working():
            await until(shown)
            await world.execute("UPDATE simulated_task SET done_at = started_at")
            await world.until_done()
        row = await world.operation(operation)
        assert (row.state.value, row.progress_percent, row.phase) == ("SUCCEEDED", 100, None)

    run(story)


def test_two_rows_for_one_snapshot_become_one(run: Run) -> None:
    """A refresh may meet a new snapshot on the provider before its operation has ended."""

    async def story(world: World) -> None:
        await world.machine(latency_ms=600_000)
        outcome = await world.create()

        async def handed_over() -> bool:
            return (await world.operation(outcome.operation_id)).task_ref is not None

        async with world.working(drivers={"sim": world.driver}):
            await until(handed_over)
            await world.execute("UPDATE simulated_task SET done_at = started_at")
            contents = await world.simulation.contents("m1")
            assert contents is not None
            ref = contents[1][0].ref
            if (await world.operation(outcome.operation_id)).state.value == "RUNNING":
                known = await world.snapshots()
                if known[outcome.snapshot_id].provider_ref is None:
                    await world.execute(
                        "INSERT INTO snapshot (tenant, machine_id, name, name_folded, state, memory, is_current,"
                        " created_at, provider_ref)"
                        f" SELECT tenant, 1, name, name, state, memory, is_current, created_at, '{ref}'"
                        f" FROM snapshot WHERE id = {outcome.snapshot_id} AND provider_ref IS NULL"
                    )
            await world.until_done()
        assert await world.picture() == [("new", "READY", None, True)]

    run(story)


def test_what_the_simulated_provider_has_done_stays_done_when_it_refuses_what_comes_next(run: Run) -> None:
    async def story(world: World) -> None:
        await world.tree()
        for token in ("first", "second"):
            task = SimulatedTask(
                ref=token,
                machine_ref="m1",
                token=token,
                verb="delete",
                argument='{"ref": "b"}',
                started_at=now(),
                done_at=now(),
            )
            with nullcontext() if token == "first" else pytest.raises(ProviderMissing):
                await world.simulation.begin(task, "b")
        assert [row.name for row in await world.rows(SimulatedSnapshot)] == ["a", "c", "d"]

    run(story)
