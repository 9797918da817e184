"""Housekeeping deletes expired rows and nothing else."""

from collections.abc import Callable

from gateway.models import IdempotencyKey, Operation, Snapshot
from gateway.operations.housekeeping import sweep
from gateway.store.statements import table_of
from tests.operations.world import World

Run = Callable[..., None]
LONG_AGO = "'2020-01-01T00:00:00.000000Z'"
COPIED = ", ".join(column.name for column in table_of(Operation).c if column.name not in ("id", "finished_at"))


def test_expired_operations_keys_and_events_are_deleted(run: Run) -> None:
    async def story(world: World) -> None:
        await world.tree()
        await world.create(key="old")
        await world.create(key="new")
        await world.finish()
        await world.create(name="waiting")
        await world.execute(f"UPDATE operation SET finished_at = {LONG_AGO} WHERE id = 1")
        await world.execute(f"UPDATE operation SET created_at = {LONG_AGO}")
        await world.execute(f"UPDATE idempotency_key SET created_at = {LONG_AGO} WHERE key = 'old'")
        await world.execute(f"UPDATE event SET at = {LONG_AGO} WHERE id <= 5")
        await sweep(world.database, world.settings)
        assert [row.id for row in await world.rows(Operation)] == [2, 3]
        assert [row.key for row in await world.rows(IdempotencyKey)] == ["new"]
        rows = await world.database.read(lambda tx: tx.rows("SELECT min(id) FROM event"))
        assert rows[0][0] == 6
        assert len(await world.rows(Snapshot)) == 7

    run(story)


def test_more_than_one_batch_is_deleted(run: Run) -> None:
    async def story(world: World) -> None:
        await world.machine()
        await world.create()
        await world.finish()
        await world.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1200)"
            f" INSERT INTO operation (finished_at, {COPIED}) SELECT {LONG_AGO}, {COPIED} FROM operation, n"
        )
        await world.execute(f"UPDATE operation SET finished_at = {LONG_AGO}")
        await world.execute(f"UPDATE event SET at = {LONG_AGO}")
        await sweep(world.database, world.settings)
        assert await world.rows(Operation) == []
        assert len(await world.database.read(lambda tx: tx.rows("SELECT 1 FROM event"))) == 1  # the last one

    run(story)


def test_events_are_deleted_in_order(run: Run) -> None:
    """If an event exists, all later ones do too, also when the clock was set back in between."""

    async def story(world: World) -> None:
        await world.tree()
        before = await _events(world)
        kept = before[2]
        await world.execute(f"UPDATE event SET at = {LONG_AGO} WHERE id <> {kept}")
        await sweep(world.database, world.settings)
        assert await _events(world) == before[2:]

    run(story)


async def _events(world: World) -> list[int]:
    rows = await world.database.read(lambda tx: tx.rows("SELECT id FROM event ORDER BY xid, id"))
    return [row[0] for row in rows]


def test_expired_machines_are_deleted_with_their_snapshots(run: Run) -> None:
    async def story(world: World) -> None:
        await world.tree()
        await world.machine("m2")
        await world.machine("m3")
        await world.machine("m4")
        kept = await world.snapshot(2, "kept", machine_ref="m2")
        await world.create(3)
        await world.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1200)"
            " INSERT INTO snapshot (tenant, machine_id, name, name_folded, state, memory, is_current, created_at,"
            " parent_id)"
            " SELECT tenant, 1, 'n', 'n', state, memory, is_current, created_at, 1 FROM snapshot, n WHERE id = 2"
        )
        await world.execute("UPDATE snapshot SET parent_id = id + 1 WHERE machine_id = 1 AND id BETWEEN 100 AND 1100")
        await world.execute(f"UPDATE machine SET gone_at = {LONG_AGO} WHERE id IN (1, 3)")
        await world.execute("UPDATE machine SET gone_at = updated_at WHERE id = 2")
        await sweep(world.database, world.settings)
        rows = await world.database.read(lambda tx: tx.rows("SELECT id, snapshot_count FROM machine ORDER BY id"))
        assert [tuple(row) for row in rows] == [(2, 1), (3, 1), (4, 0)]
        assert [row.id for row in await world.rows(Snapshot)] == [kept, kept + 1]

    run(story)
