"""Operations from acceptance to success, on the simulated provider."""

import asyncio
from collections.abc import Callable
from itertools import pairwise

from gateway.drivers.base import CreateCommand, ReportedSnapshot, Work
from gateway.drivers.simulator.driver import SimulatedDriver
from gateway.drivers.simulator.world import SimulatedWorld
from gateway.models import MachineKind
from tests.operations.world import World

Run = Callable[..., None]


def test_created_snapshot_is_as_the_provider_reported_it(run: Run) -> None:
    async def story(world: World) -> None:
        await world.tree()
        outcome = await world.create(name="  new ", description="why", memory=True)
        assert world.woken == 1
        accepted = (await world.snapshots())[outcome.snapshot_id]
        assert (accepted.name, accepted.state, accepted.parent_id, accepted.is_current) == (
            "new",
            "CREATING",
            None,
            False,
        )
        await world.finish()
        row = (await world.snapshots())[outcome.snapshot_id]
        assert await world.picture() == [
            ("a", "READY", None, False),
            ("b", "READY", "a", False),
            ("c", "READY", "b", False),
            ("d", "READY", "a", False),
            ("new", "READY", "c", True),
        ]
        assert row.provider_ref.startswith("snap-")
        assert row.provider_ref_folded == row.provider_ref
        assert row.memory
        assert row.size_bytes > 1 << 30
        assert (row.created_by, row.description) == ("local", "why")
        operation = await world.operation(outcome.operation_id)
        assert (operation.state, operation.error_code, operation.owner, operation.phase) == (
            "SUCCEEDED",
            None,
            None,
            None,
        )
        assert operation.created_at <= operation.started_at <= operation.finished_at
        assert await world.provider_picture() == [
            ("a", None, False),
            ("b", "a", False),
            ("c", "b", False),
            ("new", "c", True),
            ("d", "a", False),
        ]

    run(story)


def test_instance_has_no_snapshot_tree(run: Run) -> None:
    async def story(world: World) -> None:
        await world.machine(kind=MachineKind.INSTANCE)
        await world.create(name="one")
        await world.create(name="two")
        await world.finish()
        assert await world.picture() == [("one", "READY", None, False), ("two", "READY", None, False)]
        await world.delete(1)
        await world.finish()
        assert await world.picture() == [("two", "READY", None, False)]
        assert await world.provider_picture() == [("two", None, False)]

    run(story)


def test_revert_moves_current(run: Run) -> None:
    async def story(world: World) -> None:
        a, *_ = await world.tree()
        outcome = await world.revert(a)
        assert (await world.snapshots())[a].state == "REVERTING"
        await world.finish()
        assert await world.picture() == [
            ("a", "READY", None, True),
            ("b", "READY", "a", False),
            ("c", "READY", "b", False),
            ("d", "READY", "a", False),
        ]
        assert await world.states() == ["SUCCEEDED"]
        assert (await world.operation(outcome.operation_id)).snapshot_name == "a"
        await world.create()
        await world.finish()
        assert (await world.picture())[-1] == ("new", "READY", "a", True)

    run(story)


def test_delete_moves_children_and_current_to_the_parent(run: Run) -> None:
    async def story(world: World) -> None:
        a, b, c, d = await world.tree()
        await world.delete(c)
        await world.finish()
        assert await world.picture() == [
            ("a", "READY", None, False),
            ("b", "READY", "a", True),
            ("d", "READY", "a", False),
        ]
        await world.delete(a)
        await world.finish()
        assert await world.picture() == [("b", "READY", None, True), ("d", "READY", None, False)]
        assert await world.provider_picture() == [("b", None, True), ("d", None, False)]
        await world.delete(b, d)
        await world.finish()
        assert await world.picture() == await world.provider_picture() == []
        assert [row.snapshot_id for row in (await world.rows_of_operations())] == [c, a, b, d]

    run(story)


def test_subtree_is_deleted_leaves_first(run: Run) -> None:
    async def story(world: World) -> None:
        a, b, c, d = await world.tree()
        outcomes = await world.delete(a, with_descendants=True)
        assert [(o.snapshot_id, o.is_descendant) for o in outcomes] == [(a, False), (c, True), (b, True), (d, True)]
        assert [row.snapshot_id for row in await world.rows_of_operations()] == [c, b, d, a]
        await world.finish()
        assert await world.picture() == await world.provider_picture() == []

    run(story)


def test_refresh_gets_the_machine(run: Run) -> None:
    async def story(world: World) -> None:
        machine = await world.machine()
        await world.refresh(machine)
        await world.finish()
        assert world.refreshed == [machine]
        assert await world.states() == ["SUCCEEDED"]

    run(story)


def test_operations_of_a_machine_run_in_order(run: Run) -> None:
    async def story(world: World) -> None:
        await world.machine(latency_ms=5)
        await world.machine("m2", latency_ms=5)
        for number in range(6):
            await world.create(1 + number % 2, name=f"s{number}")
        await world.finish()
        assert [row[:3] for row in await world.picture()] == [
            ("s0", "READY", None),
            ("s1", "READY", None),
            ("s2", "READY", "s0"),
            ("s3", "READY", "s1"),
            ("s4", "READY", "s2"),
            ("s5", "READY", "s3"),
        ]
        rows = await world.rows_of_operations()
        for machine in (1, 2):
            mine = [row for row in rows if row.machine_id == machine]
            assert all(one.finished_at <= two.started_at for one, two in pairwise(mine))

    run(story)


class CountingDriver(SimulatedDriver):
    """Counts concurrent creates, and lets none of them end before there have been two."""

    def __init__(self, storage: SimulatedWorld) -> None:
        super().__init__("sim", storage)
        self.running = self.most = 0
        self.two = asyncio.Event()

    async def create(self, work: Work, command: CreateCommand) -> ReportedSnapshot:
        self.running += 1
        self.most = max(self.most, self.running)
        if self.running == 2:
            self.two.set()
        await self.two.wait()
        try:
            return await super().create(work, command)
        finally:
            self.running -= 1


def test_limit_of_a_provider(run: Run) -> None:
    async def story(world: World) -> None:
        driver = CountingDriver(world.simulation)
        for number in range(6):
            await world.create(await world.machine(f"m{number}"))
        await world.finish(drivers={"sim": driver}, limits={"sim": 2})
        assert await world.states() == ["SUCCEEDED"] * 6
        assert driver.most == 2

    run(story)


class HangingDriver(SimulatedDriver):
    """Accepts calls and never returns."""

    async def create(self, work: Work, command: CreateCommand) -> ReportedSnapshot:
        await asyncio.Event().wait()
        return await super().create(work, command)


def test_hanging_provider_uses_no_slots_of_other_providers(run: Run) -> None:
    async def story(first: World) -> None:
        world = first.with_settings(operation_slots=1, drain_timeout=0.0)
        for name, kind in (("hung-1", HangingDriver), ("hung-2", HangingDriver), ("working", SimulatedDriver)):
            world.drivers[name] = kind(name, world.simulation)
            await world.provider(name)
        machines = {name: await world.machine(name, provider=name) for name in world.drivers}
        outcomes = {name: await world.create(machine) for name, machine in machines.items()}
        async with world.working(limits={"hung-1": 1, "hung-2": 1, "working": 1}):
            for name in ("working", "sim"):
                await world.until_state(outcomes[name].operation_id, "SUCCEEDED")
            for name in ("hung-1", "hung-2"):
                await world.until_state(outcomes[name].operation_id, "RUNNING")

    run(story)


def test_machine_is_reported_as_changed_after_a_revert_and_after_a_failure(run: Run) -> None:
    async def story(world: World) -> None:
        a, *_ = await world.tree()
        changed: list[tuple[str, str]] = []
        await world.create()
        await world.finish(on_machine_changed=lambda *place: changed.append(place))
        assert changed == []
        await world.revert(a)
        await world.finish(on_machine_changed=lambda *place: changed.append(place))
        assert changed == [("sim", "m1")]
        await world.simulation.set_behavior("m1", None, {"on": "create", "kind": "refuse"})
        await world.create()
        await world.finish(on_machine_changed=lambda *place: changed.append(place))
        assert changed == [("sim", "m1")] * 2

    run(story)
