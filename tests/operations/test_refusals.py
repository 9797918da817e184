"""Refused commands: code, path and message of the refusal; nothing is written."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from gateway.access.caller import Caller
from gateway.errors import InvalidInput, NotFound, Reference, Refusal
from gateway.models import MachineKind, PowerState, SnapshotAction, SnapshotState
from gateway.operations.commands.base import MachineId
from gateway.operations.commands.refresh_machine import RefreshMachine
from tests.databases import SLOW_KINDS, Databases
from tests.operations.world import World, refusals

Run = Callable[..., None]
STRANGER = Caller("stranger", "elsewhere")
NO_RIGHTS = Caller("no-rights", "default", (), frozenset())
READER = Caller("reader", "default", ("reader",), frozenset({(SnapshotAction.READ, MachineKind.VM)}))


@pytest.fixture(params=SLOW_KINDS)  # the checks do not depend on the database
def url(request: pytest.FixtureRequest, databases: Databases) -> str:
    """URL of a migrated, empty database."""
    return databases.new(request.param)


async def refused(world: World, command: Awaitable[Any]) -> tuple[str, str, str]:
    """Code, path and message of the refusal that `command` raises. Checks that no row was changed."""
    before = await world.everything()
    with pytest.raises(Refusal) as caught:
        await command
    assert await world.everything() == before
    assert world.woken == 0
    return caught.value.code.value, "/".join(caught.value.path), caught.value.message


INVALID_TEXT: list[tuple[dict[str, Any], str, str]] = [
    ({"name": ""}, "name", "The name is blank. It must have 1 to 255 characters."),
    ({"name": " \t\n"}, "name", "The name is blank. It must have 1 to 255 characters."),
    ({"name": "x" * 256}, "name", "The name has 256 characters; at most 255 are allowed."),
    ({"name": "a\0b"}, "name", "The name contains a NUL character."),
    ({"name": "a\ud800"}, "name", "The name contains a lone surrogate, which is half of a character."),
    ({"description": "x" * 4001}, "description", "The description has 4001 characters; at most 4000 are allowed."),
    ({"description": "\0"}, "description", "The description contains a NUL character."),
    ({"key": ""}, "idempotencyKey", "The idempotency key has 0 characters; it must have 1 to 255."),
    ({"key": "k" * 256}, "idempotencyKey", "The idempotency key has 256 characters; it must have 1 to 255."),
    (
        {"key": "\udfff"},
        "idempotencyKey",
        "The idempotency key contains a lone surrogate, which is half of a character.",
    ),
]


def test_invalid_text(run: Run) -> None:
    async def story(world: World) -> None:
        await world.machine()
        for changes, path, message in INVALID_TEXT:
            assert await refused(world, world.create(**changes)) == ("INVALID", path, message)

    run(story)


def test_longest_name_and_blank_description_are_accepted(run: Run) -> None:
    async def story(world: World) -> None:
        await world.machine()
        await world.create(name=" " + "ß" * 255 + " ", description="  ", key="k" * 255)
        row = (await world.snapshots())[1]
        assert (row.name, row.name_folded, row.description) == ("ß" * 255, "ss" * 255, "  ")

    run(story)


def test_refusals_of_create(run: Run) -> None:
    async def story(world: World) -> None:
        machine = await world.machine(power_state=PowerState.OFF)
        await world.provider("file", driver="none")
        imported = await world.machine("m2", provider="file")
        instance = await world.machine("i1", MachineKind.INSTANCE)
        gone = await world.machine("m3")
        await world.execute(f"UPDATE machine SET gone_at = created_at WHERE id = {gone}")
        where = "machineId"
        assert await refused(world, world.create(99)) == ("NOT_FOUND", where, "Machine 99 was not found.")
        as_instance = MachineId(MachineKind.INSTANCE, machine)
        no_instance = ("NOT_FOUND", where, f"Machine 'instance-{machine}' was not found.")
        assert await refused(world, world.create(as_instance)) == no_instance
        assert (await refused(world, world.create(machine, caller=STRANGER)))[0] == "NOT_FOUND"
        malformed = InvalidInput("'x' is not an id")
        assert await refused(world, world.create(malformed)) == ("INVALID", where, "'x' is not an id")
        forbidden = ("FORBIDDEN", where, "Creating snapshots of Vms requires the right vm:create.")
        assert await refused(world, world.create(machine, caller=READER)) == forbidden
        unsupported = await refused(world, world.create(imported))
        assert unsupported[:2] == ("UNSUPPORTED", where)
        assert "No driver is configured for provider 'file'" in unsupported[2]
        assert (await refused(world, world.create(gone)))[0] == "UNSUPPORTED"
        template = await world.machine("m4")
        await world.execute(f"UPDATE machine SET obstacle = 'it is a template' WHERE id = {template}")
        blocked = ("UNSUPPORTED", where, "it is a template")
        assert await refused(world, world.create(template)) == blocked
        assert await refused(world, world.create(template, memory=True)) == blocked
        off = ("UNSUPPORTED", where, "The machine is off, so it has no memory to save.")
        assert await refused(world, world.create(machine, memory=True)) == off
        cloud = ("UNSUPPORTED", where, "This cloud does not save the memory of instances.")
        assert await refused(world, world.create(instance, memory=True)) == cloud

    run(story)


def test_refusals_of_revert(run: Run) -> None:
    async def story(world: World) -> None:
        a, *_ = await world.tree()
        instance = await world.machine("i1", MachineKind.INSTANCE)
        image = await world.snapshot(instance, "image", machine_ref="i1")
        broken = await world.snapshot(1, "broken", state=SnapshotState.ERROR, ref=None)
        where = "snapshotId"
        missing = ("NOT_FOUND", where, "Snapshot 'snapshot-99' was not found.")
        assert await refused(world, world.revert(99)) == missing
        assert (await refused(world, world.revert(a, caller=STRANGER)))[0] == "NOT_FOUND"
        forbidden = ("FORBIDDEN", where, "Reverting Vms requires the right vm:revert.")
        assert await refused(world, world.revert(a, caller=READER)) == forbidden
        message = "Only Vms can be reverted to a snapshot, not Instances."
        assert await refused(world, world.revert(image)) == ("UNSUPPORTED", where, message)
        assert (await refused(world, world.revert(broken)))[0] == "UNSUPPORTED"
        dry = await refused(world, world.revert(image, dry_run=True))
        assert dry[0] == "UNSUPPORTED"
        assert (await world.revert(a, dry_run=True)).operation_id is None

    run(story)


def test_busy_machine_is_not_reverted(run: Run) -> None:
    async def story(world: World) -> None:
        a, _, c, _ = await world.tree()
        operation = (await world.create()).operation_id
        world.woken = 0
        with pytest.raises(Refusal) as caught:
            await world.revert(a)
        assert caught.value.conflict == Reference("operation", operation)
        assert await refused(world, world.revert(a)) == (
            "CONFLICT",
            "snapshotId",
            f"Machine 'vm-1' has an unfinished operation: operation-{operation}.",
        )
        await world.finish()
        await world.delete(c)
        world.woken = 0
        assert await refused(world, world.revert(c)) == (
            "CONFLICT",
            "snapshotId",
            "The snapshot is being deleted. Wait for operation-2.",
        )

    run(story)


def test_delete_of_a_busy_snapshot_is_a_conflict(run: Run) -> None:
    async def story(world: World) -> None:
        a, b, *_ = await world.tree()
        await world.revert(b)
        new = (await world.create()).snapshot_id
        await world.delete(a)
        before = await world.everything()
        outcomes = await world.delete(new, a, b)
        assert refusals(outcomes) == [("CONFLICT", "ids/0"), ("CONFLICT", "ids/1"), ("CONFLICT", "ids/2")]
        assert [(o.refusal.message, o.refusal.conflict) for o in outcomes] == [
            ("The snapshot is still being created. Wait for operation-2.", Reference("operation", 2)),
            ("The snapshot is being deleted. Wait for operation-3.", Reference("operation", 3)),
            ("The machine is being reverted to the snapshot. Wait for operation-1.", Reference("operation", 1)),
        ]
        assert await world.everything() == before

    run(story)


def test_outcomes_of_delete_are_in_the_order_of_the_request(run: Run) -> None:
    async def story(world: World) -> None:
        _, b, c, d = await world.tree()
        malformed, other = InvalidInput("'x' is not an id"), NotFound("Snapshot 'vm-1' was not found.")
        outcomes = await world.delete(c, malformed, 99, c, other, d)
        assert refusals(outcomes) == [
            None,
            ("INVALID", "ids/1"),
            ("NOT_FOUND", "ids/2"),
            None,
            ("NOT_FOUND", "ids/4"),
            None,
        ]
        assert [o.operation_id for o in outcomes] == [1, None, None, 1, None, 2]
        assert [row.snapshot_id for row in await world.rows_of_operations()] == [c, d]
        assert await world.states() == ["QUEUED", "QUEUED"]
        assert (await world.snapshots())[b].state == "READY"

    run(story)


@pytest.mark.parametrize("count", [0, 101])
def test_too_few_or_too_many_ids(run: Run, count: int) -> None:
    async def story(world: World) -> None:
        await world.machine()
        message = f"Argument 'ids' has {count} ids; it must have 1 to 100."
        assert await refused(world, world.delete(*[1] * count)) == ("INVALID", "ids", message)
        many = world.create_several([1] * count)
        message = f"Argument 'machineIds' has {count} ids; it must have 1 to 100."
        assert await refused(world, many) == ("INVALID", "machineIds", message)

    run(story)


def test_all_or_nothing(run: Run) -> None:
    async def story(world: World) -> None:
        a, b, c, d = await world.tree()
        before = await world.everything()
        outcomes = await world.delete(b, 99, d, with_descendants=True, all_or_nothing=True, key="k")
        assert refusals(outcomes) == [
            ("ABORTED", "ids/0"),
            ("NOT_FOUND", "ids/1"),
            ("ABORTED", "ids/2"),
            ("ABORTED", "ids/0"),
        ]
        assert [o.snapshot_id for o in outcomes] == [b, None, d, c]
        assert await world.everything() == before
        outcomes = await world.delete(a, b, all_or_nothing=True)
        assert [o.operation_id for o in outcomes] == [1, 2]

    run(story)


def test_dry_run_decides_and_changes_nothing(run: Run) -> None:
    async def story(world: World) -> None:
        a, b, c, d = await world.tree()
        before = await world.everything()
        outcomes = await world.delete(a, 99, with_descendants=True, dry_run=True, key="k")
        assert [(o.snapshot_id, o.operation_id, o.is_descendant) for o in outcomes] == [
            (a, None, False),
            (None, None, False),
            (c, None, True),
            (b, None, True),
            (d, None, True),
        ]
        assert refusals(outcomes) == [None, ("NOT_FOUND", "ids/1"), None, None, None]
        assert await world.everything() == before

    run(story)


def test_too_many_descendants(run: Run) -> None:
    async def story(world: World) -> None:
        await world.machine()
        top = await world.snapshot(1, "top", ref="top")
        await world.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)"
            " INSERT INTO snapshot (tenant, machine_id, name, name_folded, state, memory, is_current, created_at,"
            " parent_id, provider_ref)"
            f" SELECT tenant, 1, 'n', 'n', state, memory, is_current, created_at, {top}, name || i"
            " FROM snapshot, n"
        )
        refusal = await refused(world, world.delete(top, with_descendants=True))
        assert refusal == (
            "LIMIT_EXCEEDED",
            "ids",
            "The snapshots and their descendants are more than 1000, the limit of one request.",
        )
        await world.execute("DELETE FROM snapshot WHERE id = (SELECT max(id) FROM snapshot)")
        larger = World(world.database, replace(world.settings, operation_queue_per_machine=1000))
        assert len(await larger.delete(top, with_descendants=True, dry_run=True)) == 1000

    run(story)


def test_queue_limits(run: Run) -> None:
    async def story(world: World) -> None:
        a, b, c, d = await world.tree()
        await world.machine("m2")
        small = world.with_settings(operation_queue_per_machine=2)
        outcomes = await small.delete(a, b, c)
        assert refusals(outcomes) == [None, None, ("LIMIT_EXCEEDED", "ids/2")]
        small.woken = 0
        full = (
            "LIMIT_EXCEEDED",
            "machineId",
            "Machine 'vm-1' has 2 unfinished operations, which is the limit. Retry later.",
        )
        assert await refused(small, small.create()) == full
        assert await refused(small, small.refresh()) == full
        smaller = world.with_settings(operation_queue_total=2)
        full = (
            "LIMIT_EXCEEDED",
            "machineId",
            "The gateway has 2 unfinished operations, which is the limit. Retry later.",
        )
        assert await refused(smaller, smaller.create(2)) == full
        assert (await world.snapshots())[d].state == "READY"

    run(story)


def test_create_on_several_machines(run: Run) -> None:
    async def story(world: World) -> None:
        one, two = await world.machine("m1"), await world.machine("m2")
        await world.provider("file", driver="none")
        imported = await world.machine("m3", provider="file")
        outcomes = await world.create_several([two, 99, one, imported, two])
        assert refusals(outcomes) == [None, ("NOT_FOUND", "machineIds/1"), None, ("UNSUPPORTED", "machineIds/3"), None]
        assert [(o.machine_id, o.operation_id, o.snapshot_id) for o in outcomes] == [
            (two, 1, 1),
            (None, None, None),
            (one, 2, 2),
            (imported, None, None),
            (two, 1, 1),
        ]
        assert await world.picture() == [("n", "CREATING", None, False), ("n", "CREATING", None, False)]

    run(story)


def test_refusals_of_refresh(run: Run) -> None:
    async def story(world: World) -> None:
        await world.provider("file", driver="none")
        imported = await world.machine("m3", provider="file")

        def refresh(caller: Caller, machine: int) -> Awaitable[Any]:
            return world.accept(RefreshMachine(machine=machine), caller)

        where = "machineId"
        assert (await refused(world, refresh(world.caller, 9)))[:2] == ("NOT_FOUND", where)
        assert (await refused(world, refresh(world.caller, imported)))[:2] == ("UNSUPPORTED", where)
        assert (await refused(world, refresh(STRANGER, imported)))[:2] == ("NOT_FOUND", where)
        assert (await refused(world, refresh(NO_RIGHTS, imported)))[:2] == ("NOT_FOUND", where)
        rights = "one of the rights vm:create, vm:revert, vm:delete, vm:update"
        forbidden = ("FORBIDDEN", where, f"Refreshing Vms requires {rights}.")
        assert await refused(world, refresh(READER, imported)) == forbidden

    run(story)


def test_snapshot_of_a_failed_create_can_be_deleted_without_a_driver(run: Run) -> None:
    async def story(world: World) -> None:
        await world.provider("file", driver="none")
        machine = await world.machine("m1", provider="file")
        left = await world.snapshot(machine, "left", state=SnapshotState.ERROR, ref=None)
        real = await world.snapshot(machine, "real", state=SnapshotState.ERROR)
        await world.execute("UPDATE machine SET gone_at = created_at")
        outcomes = await world.delete(left, real)
        assert refusals(outcomes) == [None, ("UNSUPPORTED", "ids/1")]
        await world.finish(drivers={})
        assert await world.picture() == [("real", "ERROR", None, False)]
        assert await world.states() == ["SUCCEEDED"]

    run(story)
