"""An operation or a driver command that the code does not handle changes nothing, least of all by deleting a snapshot.

The rule tests (`tests/rules/test_dispatch.py`) find a kind that was forgotten in a table. These tests show what happens
if it was forgotten all the same.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import pytest

from gateway.drivers.base import Driver, DriverCommand, Matrix, Work
from gateway.drivers.simulator.driver import SimulatedDriver
from gateway.errors import Unsupported
from gateway.models import MachineKind, OperationKind, SnapshotAction
from gateway.operations import processes, worker
from gateway.operations.claims import Interrupted
from gateway.operations.execution import Execution
from gateway.operations.operation_kinds import OPERATION_TYPES
from gateway.operations.processes import Processes
from gateway.operations.service import Operations
from gateway.version import VERSION
from tests.operations.world import World

Run = Callable[..., None]

MADE_UP = cast("OperationKind", "ARCHIVE_SNAPSHOT")  # as if a kind had been added to the enum and forgotten elsewhere
WITHOUT_UPDATE = {kind: type_ for kind, type_ in OPERATION_TYPES.items() if kind is not OperationKind.UPDATE_SNAPSHOT}


async def picture(world: World) -> Any:
    """The snapshots in the inventory and at the provider, with their descriptions."""
    contents = await world.simulation.contents("m1")
    return await world.picture(), contents and contents[1]


def test_operation_of_an_unhandled_kind_deletes_nothing(run: Run) -> None:
    """Neither the row nor the provider's snapshot, whether the work is executed or its failure is recorded."""

    async def story(world: World) -> None:
        a, *_ = await world.tree()
        await world.delete(a)
        (claimed,) = await world.claim("me")
        before = await picture(world)
        claimed.row = claimed.row._replace(kind=MADE_UP)
        with pytest.raises(Interrupted):  # the failure cannot be recorded either
            await Execution(world.drivers, world.settings, world.record_refresh).run(claimed)
        assert await picture(world) == before

    run(story)


def test_operation_of_a_kind_without_an_entry_is_left_alone(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process of an older version: the operation waits, and those of other machines are executed."""
    monkeypatch.setattr(worker, "OPERATION_TYPES", WITHOUT_UPDATE)

    async def story(world: World) -> None:
        a, *_ = await world.tree()
        await world.machine("m2")
        updated = (await world.update(a, name="other")).operation_id
        before = await picture(world)
        other = (await world.create(2)).operation_id
        async with world.working():
            await world.until_state(other, "SUCCEEDED")
        row = await world.operation(updated)
        assert (row.state, row.attempt, row.owner) == ("QUEUED", 0, None)
        assert [one for one in (await picture(world))[0] if one[0] != "new"] == before[0]
        assert (await picture(world))[1] == before[1]

    run(story)


def test_kind_without_an_entry_is_not_accepted(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process does not register a kind that it has no entry for, so no process accepts it."""
    monkeypatch.setattr(processes, "OPERATION_TYPES", WITHOUT_UPDATE)

    async def story(world: World) -> None:
        a, *_ = await world.tree()
        registered = Processes(world.database, "me", 600.0)
        await registered.start()
        world.operations = Operations(
            world.database,
            world.drivers,
            world.settings,
            wake=lambda: None,
            refusals=world.refusals,
            refuse_kind=registered.refusal,
        )
        before = await world.everything()
        with pytest.raises(Unsupported) as refused:
            await world.update(a, name="other")
        assert refused.value.message == (
            f"A gateway process of version {VERSION} is still running, which cannot execute UPDATE_SNAPSHOT."
            " Retry when the upgrade is complete."
        )
        assert await world.everything() == before
        await world.delete(a)

    run(story)


class ForgetfulDriver(SimulatedDriver):
    """A driver without an `update`, whose matrix has the action nevertheless."""

    update = Driver.update


def test_action_that_the_driver_has_not_implemented_fails_and_changes_nothing(run: Run) -> None:
    async def story(world: World) -> None:
        a, *_ = await world.tree()
        before = await picture(world)
        world.drivers["sim"] = ForgetfulDriver("sim", world.simulation)
        operation = (await world.update(a, name="other", description="new")).operation_id
        await world.finish()
        row = await world.operation(operation)
        assert (row.state, row.error_code, row.error_message) == (
            "FAILED",
            "PROVIDER_FAILED",
            "The driver of the machine's provider does not support this action.",
        )
        assert await picture(world) == before

    run(story)


@dataclass(frozen=True, slots=True)
class ArchiveCommand:
    """A command of the port that was added to the union and forgotten in `Driver.run`."""

    machine_ref: str
    snapshot_ref: str


def test_command_that_the_port_does_not_dispatch_changes_nothing(run: Run) -> None:
    async def story(world: World) -> None:
        await world.tree()
        before = await picture(world)
        with pytest.raises(AssertionError):
            await world.driver.run(Work("token"), cast("DriverCommand", ArchiveCommand("m1", "a")))
        assert await picture(world) == before

    run(story)


class CreatingDriver(SimulatedDriver):
    """A driver that implements all actions, and declares one."""

    def matrix(self, kind: MachineKind) -> Matrix:
        return Matrix({SnapshotAction.CREATE})


def test_driver_supports_no_action_that_it_does_not_declare(run: Run) -> None:
    async def story(world: World) -> None:
        a, *_ = await world.tree()

        world.drivers["sim"] = CreatingDriver("sim", world.simulation)
        before = await world.everything()
        for command in (world.update(a, name="other"), world.revert(a)):
            with pytest.raises(Unsupported) as refused:
                await command
            assert refused.value.message == "The driver of the machine's provider does not support this action."
        (outcome,) = await world.delete(a)
        assert outcome.refusal.code == "UNSUPPORTED"
        assert await world.everything() == before

    run(story)
