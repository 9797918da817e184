"""Failures of a provider, and the outcome of the operations."""

import logging
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from gateway.columns import now, timestamp_text
from gateway.drivers.base import CreateCommand, ReportedSnapshot, Work
from gateway.drivers.simulator.driver import SimulatedDriver
from gateway.drivers.simulator.tables import SimulatedSnapshot, TaskRow
from gateway.errors import ProviderMissing, ProviderRefused, ProviderUnavailable
from gateway.models import SnapshotState
from tests.databases import SLOW_KINDS
from tests.operations.world import SETTINGS, World
from tests.waiting import until_async

# What a provider responds does not depend on the database.
pytestmark = pytest.mark.parametrize("url", SLOW_KINDS, indirect=True)

Run = Callable[..., None]


async def recorded_outcome(world: World, operation: int | None) -> tuple[str, str | None, str | None, str | None]:
    row = await world.operation(operation)
    assert (row.owner, row.lease_until, row.phase) == (None, None, None)
    return row.state.value, row.error_code, row.error_message, row.error_provider_message


async def set_fault(world: World, on: str, kind: str, **more: Any) -> None:
    await world.simulation.set_behavior("m1", fault={"on": on, "kind": kind} | more)


def test_failed_create_leaves_a_deletable_error_snapshot(run: Run) -> None:
    async def story(world: World) -> None:
        await world.tree()
        await set_fault(world, "create", "refuse", message="disk full", times=1)
        outcome = await world.create()
        await world.finish()
        assert (await world.picture())[-1] == ("new", "ERROR", None, False)
        assert await recorded_outcome(world, outcome.operation_id) == (
            "FAILED",
            "PROVIDER_FAILED",
            "The provider reported an error.",
            "disk full",
        )
        await set_fault(world, "any", "hang")  # the provider is not called
        await world.delete(outcome.snapshot_id)
        await world.finish()
        assert await world.states() == ["FAILED", "SUCCEEDED"]
        assert [row[0] for row in await world.picture()] == ["a", "b", "c", "d"]

    run(story)


@pytest.mark.parametrize("state", [SnapshotState.READY, SnapshotState.ERROR])
def test_failed_delete_restores_the_snapshot(run: Run, state: SnapshotState) -> None:
    async def story(world: World) -> None:
        await world.machine()
        snapshot = await world.snapshot(1, "s", state=state)
        await set_fault(world, "delete", "refuse")
        await world.delete(snapshot)
        assert (await world.picture())[0][1] == "DELETING"
        await world.finish()
        assert await world.picture() == [("s", state.value, None, False)]
        assert await world.states() == ["FAILED"]

    run(story)


def test_failed_revert_restores_the_snapshot(run: Run) -> None:
    async def story(world: World) -> None:
        a, *_ = await world.tree()
        before = await world.picture()
        await set_fault(world, "revert", "refuse")
        await world.revert(a)
        await world.finish()
        assert await world.picture() == before
        assert await world.states() == ["FAILED"]

    run(story)


@pytest.mark.parametrize("kind", ["unavailable", "busy"])
def test_unavailable_provider_is_retried_while_the_queue_waits(run: Run, kind: str) -> None:
    async def story(world: World) -> None:
        await world.machine()
        await set_fault(world, "create", kind, times=2)
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


def test_unavailable_provider_fails_the_operation_at_its_deadline(run: Run) -> None:
    async def story(world: World) -> None:
        await world.machine()
        await set_fault(world, "create", "unavailable")
        operation = (await world.create()).operation_id
        await world.finish()
        assert (await recorded_outcome(world, operation))[:3] == (
            "FAILED",
            "PROVIDER_UNAVAILABLE",
            "The provider does not answer.",
        )
        assert await world.picture() == [("new", "ERROR", None, False)]

    run(story, replace(SETTINGS, operation_deadline=0.2))


@pytest.mark.parametrize("verb", ["create", "revert", "delete"])
def test_lost_response_is_recovered(run: Run, verb: str) -> None:
    async def story(world: World) -> None:
        await world.tree()
        await set_fault(world, verb, "lost", times=1)
        await (world.create() if verb == "create" else world.revert(1) if verb == "revert" else world.delete(1))
        await world.finish()
        assert await world.states() == ["SUCCEEDED"]
        assert [row[:1] + row[2:] for row in await world.picture() if row[3]] == [
            (row[0], row[1], True) for row in await world.provider_picture() if row[2]
        ]

    run(story)


def test_unrecoverable_response_is_an_unknown_outcome(run: Run) -> None:
    async def story(world: World) -> None:
        a, b, *_ = await world.tree()
        before = await world.picture()
        await set_fault(world, "any", "lost", message="connection reset")
        operations = [(await world.revert(a)).operation_id]
        await world.finish()
        operations.append((await world.delete(b))[0].operation_id)
        operations.append((await world.create()).operation_id)
        await world.finish()
        for operation in operations:
            assert await recorded_outcome(world, operation) == (
                "FAILED",
                "OUTCOME_UNKNOWN",
                "The provider's response was lost.",
                "connection reset",
            )
        assert await world.picture() == [*before, ("new", "ERROR", None, False)]

    run(story)


def test_snapshot_of_an_unknown_outcome_is_deleted_on_the_provider(run: Run) -> None:
    async def story(world: World) -> None:
        await world.tree()
        await set_fault(world, "create", "lost", times=2)  # the response to the create and the one to recover
        outcome = await world.create()
        await world.finish()
        assert (await recorded_outcome(world, outcome.operation_id))[1] == "OUTCOME_UNKNOWN"
        assert ("new", "c", True) in await world.provider_picture()
        await set_fault(world, "create", "lost", times=1)
        for state in ("FAILED", "SUCCEEDED"):
            ((deleted,),) = [await world.delete(outcome.snapshot_id)]
            assert await world.claim("has no driver", providers=[], lease=1.0) == []
            await world.finish()
            assert (await world.operation(deleted.operation_id)).state.value == state
        assert [name for name, *_ in await world.provider_picture()] == ["a", "b", "c", "d"]
        assert [name for name, *_ in await world.picture()] == ["a", "b", "c", "d"]

    run(story)


def test_hanging_provider_fails_the_operation_at_its_deadline_and_the_next_one_runs(run: Run) -> None:
    async def story(world: World) -> None:
        await world.machine()
        await set_fault(world, "create", "hang", times=1)
        hung = (await world.create(name="hung")).operation_id
        await world.create(name="next")
        await world.finish()
        assert (await recorded_outcome(world, hung))[:2] == ("FAILED", "OUTCOME_UNKNOWN")
        # The provider has created "hung" after all; the inventory lists it as its parent after the next refresh.
        assert await world.picture() == [("hung", "ERROR", None, False), ("next", "READY", None, True)]
        assert await world.provider_picture() == [("hung", None, False), ("next", "hung", True)]

    # No shorter lease: it would expire when the machine is busy, and the next claim finds that the provider is done.
    run(story, replace(SETTINGS, operation_deadline=0.3, operation_lease=1.5))


def test_objects_missing_on_the_provider(run: Run) -> None:
    async def story(world: World) -> None:
        a, b, c, _ = await world.tree()
        await world.execute("DELETE FROM simulated_snapshot WHERE ref IN ('a', 'c')")
        reverted = (await world.revert(a)).operation_id
        await world.finish()
        assert (await recorded_outcome(world, reverted))[:3] == (
            "FAILED",
            "NOT_FOUND",
            "The provider has no such snapshot.",
        )
        deleted = (await world.delete(c))[0].operation_id
        await world.finish()
        assert (await recorded_outcome(world, deleted))[:2] == ("SUCCEEDED", None)
        assert (await world.picture())[1] == ("b", "READY", "a", True)
        await world.simulation.drop_machine("m1")
        created = (await world.create()).operation_id
        deleted = (await world.delete(b))[0].operation_id
        await world.finish()
        assert (await recorded_outcome(world, created))[:3] == (
            "FAILED",
            "NOT_FOUND",
            "The provider has no such machine.",
        )
        assert (await recorded_outcome(world, deleted))[:2] == ("SUCCEEDED", None)

    run(story)


def test_internal_error_is_masked_and_logged(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def story(world: World) -> None:
        await world.machine()

        async def broken(*_: Any) -> None:
            raise RuntimeError("password=hunter2")

        world.driver.storage.begin = broken  # type: ignore[method-assign,assignment]
        operation = (await world.create()).operation_id
        with caplog.at_level(logging.ERROR):
            await world.finish()
        assert await recorded_outcome(world, operation) == (
            "FAILED",
            "INTERNAL",
            "Internal error. The operation may have taken effect; check the machine before retrying.",
            None,
        )
        assert "hunter2" in caplog.text
        assert await world.picture() == [("new", "ERROR", None, False)]

    run(story)


def test_refresh_is_retried(run: Run) -> None:
    async def story(world: World) -> None:
        await world.machine()
        calls = []

        async def refresh(machine_id: int) -> None:
            calls.append(machine_id)
            if len(calls) < 3:
                raise ProviderUnavailable("The provider does not answer.")

        await world.refresh()
        await world.finish(refresh=refresh)
        assert calls == [1, 1, 1]
        assert await world.states() == ["SUCCEEDED"]

    run(story)


def test_progress_is_recorded(run: Run) -> None:
    async def story(world: World) -> None:
        await world.machine(latency_ms=600_000)
        operation = (await world.create()).operation_id

        async def is_recorded() -> bool:
            row = await world.operation(operation)
            return (row.progress_percent, row.phase) == (0, "Copying the disks")

        async with world.working():
            await until_async(is_recorded)
            await world.execute("UPDATE simulated_task SET done_at = started_at")
            await world.until_done()
        row = await world.operation(operation)
        assert (row.state.value, row.progress_percent, row.phase) == ("SUCCEEDED", 100, None)

    run(story)


@pytest.mark.parametrize(("reported", "recorded"), [(-71_169, 0), (-1, 0), (42, 42), (101, 100), (10**12, 100)])
def test_progress_that_a_provider_cannot_have_is_limited(run: Run, reported: int, recorded: int) -> None:
    async def story(world: World) -> None:
        found: list[int | None] = []

        class Reporting(SimulatedDriver):
            async def create(self, work: Work, command: CreateCommand) -> ReportedSnapshot:
                await work.progress(reported, "Copying the disks")
                found.extend(row.progress_percent for row in await world.rows_of_operations())
                return await super().create(work, command)

        await world.machine()
        await world.create()
        await world.finish(drivers={"sim": Reporting("sim", world.simulation)})
        assert found == [recorded]

    run(story)


def test_texts_that_no_database_stores_are_replaced(run: Run) -> None:
    """And long ones are truncated: a provider may report anything as the phase, or as its message."""
    odd = "\0\ud800" + "x" * 10_000

    async def story(world: World) -> None:
        found: list[str | None] = []

        class Reporting(SimulatedDriver):
            async def create(self, work: Work, command: CreateCommand) -> ReportedSnapshot:
                await work.progress(None, odd)
                found.extend(row.phase for row in await world.rows_of_operations())
                raise ProviderRefused(f"The provider said {odd}", provider_message=odd)

        await world.machine()
        outcome = await world.create()
        await world.finish(drivers={"sim": Reporting("sim", world.simulation)})
        assert found == ["\ufffd\ufffd" + "x" * 998]
        assert await recorded_outcome(world, outcome.operation_id) == (
            "FAILED",
            "PROVIDER_FAILED",
            "The provider said \ufffd\ufffd" + "x" * 980,
            "\ufffd\ufffd" + "x" * 3_998,
        )

    run(story)


@pytest.mark.parametrize("task_ref", ["task\0", "\ud800", "x" * 65_537])
def test_a_task_whose_ref_cannot_be_stored_is_looked_for(run: Run, task_ref: str) -> None:
    async def story(world: World) -> None:
        class Reporting(SimulatedDriver):
            async def create(self, work: Work, command: CreateCommand) -> ReportedSnapshot:
                await super().create(work, command)
                await work.checkpoint(task_ref)
                raise AssertionError

        await world.machine()
        await world.create()
        await world.finish(drivers={"sim": Reporting("sim", world.simulation)})
        assert await world.picture() == [("new", "READY", None, True)]
        assert await world.states() == ["SUCCEEDED"]

    run(story)


@pytest.mark.parametrize("size", [2**63, -1, 1.5, "7"])
def test_size_that_cannot_be_stored_is_unknown(run: Run, size: Any) -> None:
    async def story(world: World) -> None:
        class Reporting(SimulatedDriver):
            async def create(self, work: Work, command: CreateCommand) -> ReportedSnapshot:
                return replace(await super().create(work, command), size_bytes=size)

        await world.machine()
        await world.create()
        await world.finish(drivers={"sim": Reporting("sim", world.simulation)})
        assert await world.states() == ["SUCCEEDED"]
        assert [row.size_bytes for row in (await world.snapshots()).values()] == [None]

    run(story)


def test_progress_after_the_clock_was_set_back(run: Run) -> None:
    """The provider began the task an hour ahead of the gateway's clock, so that more than the whole task remains."""

    async def story(world: World) -> None:
        await world.machine(latency_ms=600_000)
        operation = (await world.create()).operation_id
        later = f"'{timestamp_text(now() + timedelta(hours=3))}'"

        async def has_phase() -> bool:
            return bool((await world.operation(operation)).phase == "Copying the disks")

        async def has_progressed() -> bool:
            return bool((await world.operation(operation)).progress_percent != 50)

        async with world.working():
            await until_async(has_phase)
            await world.execute("UPDATE operation SET progress_percent = 50")
            await world.execute(f"UPDATE simulated_task SET done_at = {later}")
            await until_async(has_progressed)
            assert (await world.operation(operation)).progress_percent == 0
            await world.execute("UPDATE simulated_task SET done_at = started_at")
            await world.until_done()

    run(story, replace(SETTINGS, operation_lease=3.0))  # with each renewal, the progress is written


def test_deadline_after_the_clock_was_set_back(run: Run) -> None:
    """The operation was started before: an hour ahead of the present clock."""

    async def story(world: World) -> None:
        await world.machine()
        await set_fault(world, "create", "hang")
        operation = (await world.create()).operation_id
        later = f"'{timestamp_text(now() + timedelta(hours=1))}'"
        await world.execute(f"UPDATE operation SET started_at = {later}")
        await world.finish()
        assert (await recorded_outcome(world, operation))[:2] == ("FAILED", "OUTCOME_UNKNOWN")

    run(story, replace(SETTINGS, operation_deadline=0.3, operation_lease=1.5))


def test_snapshot_found_by_a_refresh_before_the_end_of_its_create(run: Run) -> None:
    """A refresh can insert a row for the new snapshot before its operation has ended. The two rows become one."""

    async def story(world: World) -> None:
        class ListedDriver(SimulatedDriver):
            async def create(self, work: Work, command: CreateCommand) -> ReportedSnapshot:
                reported = await super().create(work, command)
                await world.execute(
                    "INSERT INTO snapshot (tenant, machine_id, name, name_folded, state, memory, is_current,"
                    " created_at, provider_ref)"
                    f" SELECT tenant, 1, name, name, 'READY', memory, is_current, created_at, '{reported.ref}'"
                    " FROM snapshot"
                )
                assert [row[:2] for row in await world.picture()] == [("new", "CREATING"), ("new", "READY")]
                return reported

        await world.machine()
        world.drivers["sim"] = ListedDriver("sim", world.simulation)
        outcome = await world.create()
        await world.finish()
        assert await world.picture() == [("new", "READY", None, True)]
        assert list(await world.snapshots()) == [outcome.snapshot_id]

    run(story)


def test_simulated_provider_keeps_earlier_work_when_it_refuses_the_next(run: Run) -> None:
    async def story(world: World) -> None:
        await world.tree()
        for token in ("first", "second"):
            task = TaskRow(
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
