"""Cancellation: at once while queued, requested while running, refused after the end."""

from collections.abc import Callable
from typing import Any

import pytest

from gateway.access.caller import Caller
from gateway.errors import Conflict, Forbidden, NotFound
from gateway.models import MachineKind, SnapshotAction, SnapshotState
from gateway.operations.commands.cancel_operation import CancelOperation
from tests.operations.world import World
from tests.waiting import until_async

Run = Callable[..., None]

READ, CREATE = ((action, MachineKind.VM) for action in (SnapshotAction.READ, SnapshotAction.CREATE))


async def cancel(world: World, operation: int | None, caller: Caller | None = None) -> Any:
    assert operation is not None
    return await world.accept(CancelOperation(operation=operation), caller)


def test_queued_operation_is_canceled_and_undone_at_once(run: Run) -> None:
    async def story(world: World) -> None:
        a, *_ = await world.tree()
        broken = await world.snapshot(1, "broken", state=SnapshotState.ERROR)
        before = await world.picture()
        reverting = (await world.revert(a)).operation_id
        creating = (await world.create()).operation_id
        deleting = [o.operation_id for o in await world.delete(2, broken)]
        refreshing = (await world.refresh()).operation_id
        for number in (creating, *deleting, reverting, refreshing):
            outcome = await cancel(world, number)
            assert outcome.operation_id == number
        assert await world.picture() == before
        assert await world.states() == ["CANCELED"] * 5
        assert all(
            row.finished_at and row.cancel_requested_at and not row.started_at
            for row in await world.rows_of_operations()
        )
        await world.finish()
        assert await world.picture() == before

    run(story)


def test_refusals_of_cancel(run: Run) -> None:
    async def story(world: World) -> None:
        await world.machine()
        operation = (await world.create()).operation_id
        before = await world.everything()
        with pytest.raises(NotFound) as missing:
            await cancel(world, 99)
        assert (missing.value.message, missing.value.path) == (
            "Operation 'operation-99' was not found.",
            ("operationId",),
        )
        with pytest.raises(NotFound):
            await cancel(world, operation, Caller("stranger", "elsewhere"))
        with pytest.raises(NotFound):
            await cancel(world, operation, Caller("blind", "default", rights=frozenset({CREATE})))
        with pytest.raises(Forbidden) as forbidden:
            await cancel(world, operation, Caller("reader", "default", rights=frozenset({READ})))
        assert forbidden.value.message == "Canceling operation-1 requires the right vm:create."
        assert await world.everything() == before
        await world.finish()
        with pytest.raises(Conflict) as late:
            await cancel(world, operation)
        assert late.value.message == "Operation 'operation-1' has already ended in state SUCCEEDED."

    run(story)


@pytest.mark.parametrize("verb", ["create", "delete"])
def test_provider_cancels_running_operation(run: Run, verb: str) -> None:
    async def story(world: World) -> None:
        a, *_ = await world.tree()
        await world.simulation.set_behavior("m1", latency_ms=600_000)
        before = await world.picture(), await world.provider_picture()
        operation = ((await world.create()) if verb == "create" else (await world.delete(a))[0]).operation_id

        async def has_task() -> bool:
            return (await world.operation(operation)).task_ref is not None

        async with world.working() as worker:
            await until_async(has_task)
            await cancel(world, operation)
            requested_at = (await world.operation(operation)).cancel_requested_at
            worker.wake()
            await cancel_again(world, operation)
            await world.until_done()
        row = await world.operation(operation)
        assert (row.state, row.cancel_requested_at, row.error_code) == ("CANCELED", requested_at, None)
        assert (await world.picture(), await world.provider_picture()) == before

    run(story)


async def cancel_again(world: World, operation: int | None) -> None:
    try:
        await cancel(world, operation)
    except Conflict:
        assert (await world.operation(operation)).state == "CANCELED"


def test_revert_cannot_be_canceled_and_succeeds(run: Run) -> None:
    async def story(world: World) -> None:
        a, *_ = await world.tree()
        await world.simulation.set_behavior("m1", latency_ms=600_000)
        operation = (await world.revert(a)).operation_id

        async def has_task() -> bool:
            return (await world.operation(operation)).task_ref is not None

        async with world.working():
            await until_async(has_task)
            await cancel(world, operation)
            await world.execute("UPDATE simulated_task SET done_at = started_at")
            await world.until_done()
        assert (await world.picture())[0] == ("a", "READY", None, True)
        assert await world.states() == ["SUCCEEDED"]

    run(story)


def test_operation_waiting_for_retry_is_canceled(run: Run) -> None:
    async def story(world: World) -> None:
        await world.machine()
        await world.simulation.set_behavior("m1", fault={"on": "create", "kind": "unavailable"})
        operation = (await world.create()).operation_id

        async def is_waiting() -> bool:
            return (await world.operation(operation)).retry_at is not None

        async with world.working(first_retry_delay=600.0):
            await until_async(is_waiting)
            row = await world.operation(operation)
            assert (row.state, row.phase, row.dispatched) == (
                "RUNNING",
                "Waiting: The provider does not answer.",
                False,
            )
            await cancel(world, operation)
            await world.until_done()
        assert await world.states() == ["CANCELED"]
        assert await world.picture() == []

    run(story)
