"""Updates when the provider fails: they are repeated, and end once, with the true outcome."""

from collections.abc import Callable
from typing import Any

import pytest

from gateway.drivers.base import UpdateCommand, Work
from gateway.drivers.simulator.driver import SimulatedDriver
from gateway.errors import (
    OutcomeUnknown,
    ProviderBusy,
    ProviderDenied,
    ProviderError,
    ProviderMissing,
    ProviderRefused,
    ProviderUnavailable,
)
from gateway.operations.commands.cancel_operation import CancelOperation
from tests.databases import SLOW_KINDS
from tests.operations.world import World
from tests.waiting import until_async

# What a provider responds does not depend on the database.
pytestmark = pytest.mark.parametrize("url", SLOW_KINDS, indirect=True)

Run = Callable[..., None]

OLD, NEW = ("b", None), ("B", "new")

BUSY = ProviderBusy("It is busy.")
DENIED = ProviderDenied("Not allowed.")
LOST = OutcomeUnknown("The response was lost.", provider_message="reset")
MISSING = ProviderMissing("The provider has no such snapshot.")
REFUSED = ProviderRefused("It refused.", provider_message="locked")
UNAVAILABLE = ProviderUnavailable("It does not answer.")


class ScriptedDriver(SimulatedDriver):
    """The simulated driver. Its updates raise `errors` in turn, OutcomeUnknown after their effect; then they succeed.

    The last error is raised without end if it is given as `forever`.
    """

    def __init__(self, world: World, *errors: ProviderError, forever: ProviderError | None = None) -> None:
        super().__init__("sim", world.simulation)
        self.sent = 0
        self._errors, self._forever = list(errors), forever

    async def update(self, work: Work, command: UpdateCommand) -> None:
        self.sent += 1
        error = self._errors.pop(0) if self._errors else self._forever
        if error is None or isinstance(error, OutcomeUnknown):
            await super().update(work, command)
        if error is not None:
            raise error


async def names(world: World) -> list[tuple[str, str | None]]:
    """Name and description of the snapshot `b`, in the inventory and at the provider."""
    contents = await world.simulation.contents("m1")
    assert contents is not None
    here = [(row.name, row.description) for row in (await world.snapshots()).values() if row.provider_ref == "b"]
    return here + [(row.name, row.description) for row in contents[1] if row.ref == "b"]


async def accept_update(world: World, driver: ScriptedDriver) -> int:
    """The number of an accepted update of `b`, to be executed by the driver."""
    _, b, *_ = await world.tree()
    world.drivers["sim"] = driver
    outcome = await world.update(b, name="B", description="new")
    assert outcome.operation_id is not None
    return outcome.operation_id


@pytest.mark.parametrize(
    ("errors", "state", "code", "expected"),
    [
        ([], "SUCCEEDED", None, [NEW, NEW]),
        ([LOST], "SUCCEEDED", None, [NEW, NEW]),
        ([BUSY, LOST, UNAVAILABLE, LOST], "SUCCEEDED", None, [NEW, NEW]),
        ([REFUSED], "FAILED", "PROVIDER_FAILED", [OLD, OLD]),
        ([DENIED], "FAILED", "PROVIDER_FAILED", [OLD, OLD]),
        ([BUSY, UNAVAILABLE, REFUSED], "FAILED", "PROVIDER_FAILED", [OLD, OLD]),
        ([LOST, REFUSED], "FAILED", "OUTCOME_UNKNOWN", [OLD, NEW]),
        ([LOST, UNAVAILABLE, DENIED], "FAILED", "OUTCOME_UNKNOWN", [OLD, NEW]),
        ([LOST, MISSING], "FAILED", "NOT_FOUND", [OLD, NEW]),
    ],
    ids=lambda value: ", ".join(type(each).__name__ for each in value) if isinstance(value, list) else None,
)
def test_update_ends_with_its_true_outcome(
    run: Run, errors: list[ProviderError], state: str, code: str | None, expected: list[Any]
) -> None:
    """A failure that is no unknown outcome is reported only if no attempt can have taken effect."""

    async def story(world: World) -> None:
        driver = ScriptedDriver(world, *errors)
        operation = await accept_update(world, driver)
        changed: list[str] = []
        await world.finish(on_machine_changed=lambda _provider, ref: changed.append(ref))
        row = await world.operation(operation)
        assert (row.state, row.error_code, row.attempt) == (state, code, driver.sent)
        assert driver.sent == len(errors) + (state == "SUCCEEDED")
        assert await names(world) == expected
        assert [one[1] for one in await world.picture()] == ["READY"] * 4
        assert changed == ["m1"] * len(errors)  # refreshed after each attempt that did not succeed

    run(story)


def test_message_of_a_refusal_after_an_unknown_outcome(run: Run) -> None:
    async def story(world: World) -> None:
        operation = await accept_update(world, ScriptedDriver(world, LOST, REFUSED))
        await world.finish()
        row = await world.operation(operation)
        assert (row.error_message, row.error_provider_message) == (
            "An earlier attempt may have taken effect. The last one failed: It refused.",
            "locked",
        )

    run(story)


@pytest.mark.parametrize(
    ("errors", "forever", "code", "expected"),
    [
        ([], UNAVAILABLE, "PROVIDER_UNAVAILABLE", [OLD, OLD]),
        ([], LOST, "OUTCOME_UNKNOWN", [OLD, NEW]),
        ([LOST], UNAVAILABLE, "OUTCOME_UNKNOWN", [OLD, NEW]),
        ([UNAVAILABLE], LOST, "OUTCOME_UNKNOWN", [OLD, NEW]),
    ],
    ids=["unavailable", "lost", "lost, unavailable", "unavailable, lost"],
)
def test_deadline(run: Run, errors: list[ProviderError], forever: ProviderError, code: str, expected: Any) -> None:
    async def story(world: World) -> None:
        driver = ScriptedDriver(world, *errors, forever=forever)
        operation = await accept_update(world, driver)
        async with world.working():
            await until_async(lambda: driver.sent > 1)
            await world.execute("UPDATE operation SET started_at = '2020-01-01T00:00:00.000000Z'")
            await world.until_done()
        row = await world.operation(operation)
        assert (row.state, row.error_code, row.error_message) == ("FAILED", code, forever.message)
        assert await names(world) == expected

    run(story)


@pytest.mark.parametrize(
    ("error", "state", "expected"),
    [(UNAVAILABLE, "CANCELED", [OLD, OLD]), (LOST, "SUCCEEDED", [NEW, NEW])],
    ids=["unavailable", "lost"],
)
def test_cancellation_while_it_waits_for_a_retry(
    run: Run, error: ProviderError, state: str, expected: list[Any]
) -> None:
    """It is canceled if no attempt can have taken effect. Otherwise it is repeated, which makes its outcome certain."""

    async def story(world: World) -> None:
        operation = await accept_update(world, ScriptedDriver(world, error))

        async def is_waiting() -> bool:
            return (await world.operation(operation)).retry_at is not None

        async with world.working(first_retry_delay=600.0):
            await until_async(is_waiting)
            await world.accept(CancelOperation(operation=operation))
            await world.until_done()
        assert (await world.operation(operation)).state == state
        assert await names(world) == expected

    run(story)


def test_row_that_a_refresh_has_deleted(run: Run) -> None:
    """The provider executed the update, and the snapshot was deleted there before the end was recorded."""

    async def story(world: World) -> None:
        class DeletingDriver(ScriptedDriver):
            async def update(self, work: Work, command: UpdateCommand) -> None:
                await super().update(work, command)
                await world.execute("UPDATE snapshot SET parent_id = 1 WHERE parent_id = 2")
                await world.execute("DELETE FROM snapshot WHERE provider_ref = 'b'")

        operation = await accept_update(world, DeletingDriver(world))
        await world.finish()
        assert (await world.operation(operation)).state == "SUCCEEDED"
        assert [name for name, *_ in await world.picture()] == ["a", "c", "d"]

    run(story)
