"""Commands with many targets: a constant number of statements, rows found by key, one event per change."""

from collections.abc import Callable
from functools import partial
from types import ModuleType

import pytest

from gateway.operations import admission, effects, service, statements
from gateway.operations.admission import TotalLimit
from gateway.operations.commands import cancel_operation, create_snapshot, delete_snapshots
from gateway.operations.commands.cancel_operation import CancelOperation
from gateway.store.database import Transaction
from gateway.store.statements import Statement
from tests.databases import Databases
from tests.operations.world import World, play, refusals
from tests.query_plans import PlanNode, explain
from tests.serving import Clock

Run = Callable[..., None]

MODULES = (cancel_operation, create_snapshot, delete_snapshots, effects, admission, statements)


async def machines(world: World, number: int) -> list[int]:
    return [await world.machine(f"m{place}") for place in range(number)]


def test_number_of_statements_does_not_grow_with_the_targets(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "TotalLimit", partial(TotalLimit, clock=lambda: 0.0))  # no count becomes old

    async def story(world: World) -> None:
        several = await machines(world, 20)
        snapshots = [
            await world.snapshot(machine, f"{machine}-{place}", machine_ref=f"m{number}")
            for number, machine in enumerate(several)
            for place in range(3)
        ]

        async def statements_of_command(command: object) -> int:
            before = world.database.statement_count
            outcomes = await command  # type: ignore[misc]
            assert refusals(outcomes) == [None] * len(outcomes)
            return world.database.statement_count - before

        async def create_on(numbers: list[int]) -> int:
            return await statements_of_command(world.create_several(numbers))

        await create_on(several[:1])  # the first one counts all unfinished operations
        assert await create_on(several[:1]) == await create_on(several)
        assert await statements_of_command(world.delete(*snapshots[:2])) == await statements_of_command(
            world.delete(*snapshots[2:])
        )

        before = world.database.statement_count
        await world.delete(snapshots[0])
        one, before = world.database.statement_count - before, world.database.statement_count
        outcomes = await world.delete(*snapshots, 9_999)  # each conflict names the operation that causes it
        assert world.database.statement_count - before == one
        operations = {row.snapshot_id: row.id for row in await world.rows_of_operations() if row.snapshot_id}
        conflicts = [
            outcome.refusal.conflict.id for outcome in outcomes[:-1] if outcome.refusal and outcome.refusal.conflict
        ]
        assert conflicts == [operations[number] for number in snapshots]

    run(story)


def test_operations_are_queued_in_the_order_of_the_request(run: Run) -> None:
    async def story(world: World) -> None:
        a, b, c, d = await world.tree()
        outcomes = await world.delete(d, a, c, b)
        assert [outcome.operation_id for outcome in outcomes] == [1, 2, 3, 4]
        assert [row.snapshot_id for row in await world.rows_of_operations()] == [d, a, c, b]

    run(story)


def test_each_change_writes_one_event(run: Run) -> None:
    async def story(world: World) -> None:
        a, b, _, _ = await world.tree()
        await world.execute("DELETE FROM event")
        await world.delete(a, b)
        expected = [("snapshot", "UPDATED", a), ("snapshot", "UPDATED", b)]
        expected += [("operation", "CREATED", 1), ("operation", "CREATED", 2)]
        assert await events(world) == expected
        # Neither changes a published column: a heartbeat, and values that stay the same.
        await world.execute("UPDATE operation SET lease_until = created_at")
        await world.execute("UPDATE snapshot SET state = state, observed_at = created_at")
        assert await events(world) == expected
        await world.execute("DELETE FROM event")
        await world.execute("UPDATE snapshot SET parent_id = NULL, name = name || '!'")
        assert await events(world) == [("snapshot", "UPDATED", number) for number in sorted(await world.snapshots())]
        await world.execute("DELETE FROM event")
        rest = sorted(await world.snapshots())
        await world.execute("DELETE FROM snapshot")
        assert sorted(await events(world)) == [("snapshot", "DELETED", number) for number in rest]

    run(story)


async def events(world: World) -> list[tuple[str, str, int]]:
    sql = "SELECT noun, change, subject_id FROM event ORDER BY id"
    return [tuple(row) for row in await world.database.read(lambda tx: tx.rows(sql), single=True)]


def test_queue_space_is_available_again_after_an_operation_has_ended(run: Run) -> None:
    async def story(world: World) -> None:
        await machines(world, 4)
        small = world.with_settings(operation_queue_total=2)
        assert refusals(await small.create_several([1, 2, 3])) == [None, None, ("LIMIT_EXCEEDED", "machineIds/2")]
        await small.accept(CancelOperation(operation=1))
        assert refusals(await small.create_several([3, 4])) == [None, ("LIMIT_EXCEEDED", "machineIds/1")]

    run(story)


def test_total_is_counted_again_when_the_count_is_old(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Operations of other processes are counted when the last count is old, or when the limit seems to be reached."""
    clock = Clock()
    monkeypatch.setattr(service, "TotalLimit", partial(TotalLimit, clock=clock))

    async def story(world: World) -> None:
        await machines(world, 3)
        here, there = (world.with_settings(operation_queue_total=3) for _ in range(2))
        await here.create(1)
        await there.create(2)
        await there.create(3)
        clock.advance(1.1)
        assert refusals(await here.create_several([1])) == [("LIMIT_EXCEEDED", "machineIds/0")]

    run(story)


def statements_of(module: ModuleType) -> list[tuple[str, str]]:
    return [
        (f"{module.__name__}.{name}", value.compiled("sqlite").sql)
        for name, value in vars(module).items()
        if isinstance(value, Statement)
    ]


def test_rows_are_found_by_primary_key(databases: Databases) -> None:
    """SQLite has no statistics. It must not choose an index on the tenant to find a few rows."""
    named = [statement for module in MODULES for statement in statements_of(module)]

    async def explain_all(tx: Transaction) -> list[tuple[str, PlanNode]]:
        return [(name, node) for name, sql in named for node in await explain(tx, sql, [None] * sql.count("?"))]

    async def story(world: World) -> None:
        assert [
            (name, node.detail)
            for name, node in await world.database.read(explain_all)
            if "(tenant=?)" in node.detail or (node.kind == "SCAN" and node.table in ("machine", "snapshot"))
        ] == []

    play(databases.new("sqlite"), story)
