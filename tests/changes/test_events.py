"""Which writes are events of the change feed: all changes of published columns, and nothing else."""

from collections.abc import Callable
from datetime import datetime

import pytest
import sqlalchemy as sa
from sqlmodel import SQLModel

from gateway.columns import now
from gateway.models import MachineKind, Operation, OperationKind, OperationState
from gateway.store.change_triggers import published_columns
from gateway.store.statements import insert
from tests.operations.world import Story, World

Run = Callable[[Story], None]
Event = tuple[str, str, int | None, str | None, int, str | None]

EVENTS = "SELECT noun, change, machine_id, machine_kind, subject_id, subject_name FROM event ORDER BY id"
# New values of columns, as SQL, where the type of the column does not allow an arbitrary one.
VALUES = {
    "machine.provider": "'other'",
    "machine.power_state": "'SUSPENDED'",
    "machine.kind": "'INSTANCE'",
    "snapshot.machine_id": "2",
    "snapshot.parent_id": "2",
    "snapshot.state": "'ERROR'",
    "operation.state": "'CANCELED'",
    "operation.machine_kind": "'INSTANCE'",
    "operation.kind": "'DELETE_SNAPSHOT'",
}
MOMENT = "'2026-01-02T00:00:00.000000Z'"


async def events(world: World) -> list[Event]:
    """The events since the last call."""
    rows = await world.database.read(lambda tx: tx.rows(EVENTS))
    await world.execute("DELETE FROM event")
    return [(row[0], row[1], row[2], row[3], row[4], row[5]) for row in rows]


async def populate(world: World) -> None:
    """Two providers, two machines, two snapshots of the first one, and an operation that has ended."""
    await world.provider()
    await world.provider("other")
    machine = await world.machine()
    await world.machine("m2")
    await world.snapshot(machine, "a")
    await world.snapshot(machine, "b")
    values = {
        "tenant": "default",
        "kind": OperationKind.REFRESH_MACHINE,
        "state": OperationState.SUCCEEDED,
        "machine_id": machine,
        "machine_kind": MachineKind.VM,
        "machine_name": "m1",
        "created_at": now(),
        "token": "token",
        "payload": "{}",
    }
    await world.database.write(lambda tx: tx.all(insert(Operation, *values), **values))


def test_rows_that_are_inserted_and_deleted(run: Run) -> None:
    """An operation is deleted by housekeeping only, which is no event. The last column identifies a provider."""

    async def story(world: World) -> None:
        await populate(world)
        assert await events(world) == [
            ("provider", "CREATED", None, None, 0, "sim"),
            ("provider", "CREATED", None, None, 0, "other"),
            ("machine", "CREATED", 1, "VM", 1, None),
            ("machine", "CREATED", 2, "VM", 2, None),
            ("snapshot", "CREATED", 1, None, 1, None),
            ("snapshot", "CREATED", 1, None, 2, None),
            ("operation", "CREATED", 1, None, 1, None),
        ]
        for table in ("operation", "snapshot", "machine", "provider"):
            await world.execute(f"DELETE FROM {table}")
        found = await events(world)
        assert sorted(found, key=lambda event: (event[0], event[4], event[5] or "")) == [
            ("machine", "DELETED", 1, "VM", 1, None),
            ("machine", "DELETED", 2, "VM", 2, None),
            ("provider", "DELETED", None, None, 0, "other"),
            ("provider", "DELETED", None, None, 0, "sim"),
            ("snapshot", "DELETED", 1, None, 1, None),
            ("snapshot", "DELETED", 1, None, 2, None),
        ]

    run(story)


@pytest.mark.parametrize("noun", ["provider", "machine", "snapshot", "operation"])
def test_updates_of_each_column(run: Run, noun: str) -> None:
    """An event if a published column has another value; not for another column, nor for the same value again."""
    table = SQLModel.metadata.tables[noun]
    key = "name = 'sim'" if noun == "provider" else "id = 1"
    published = published_columns(table)

    async def story(world: World) -> None:
        await populate(world)
        await events(world)
        for column in table.columns:
            if column.primary_key:
                continue
            await world.execute(f"UPDATE {noun} SET {column.name} = {new_value(column)} WHERE {key}")
            found = await events(world)
            assert [event[:2] for event in found] == [(noun, "UPDATED")] * (column.name in published), column
            await world.execute(f"UPDATE {noun} SET {column.name} = {column.name} WHERE {key}")
            assert await events(world) == [], column

    run(story)


def new_value(column: sa.Column[object]) -> str:
    """A value, as SQL, that no row has."""
    if (value := VALUES.get(f"{column.table.name}.{column.name}")) is not None:
        return value
    type_ = column.type.impl_instance if isinstance(column.type, sa.TypeDecorator) else column.type
    if type_.python_type is datetime:
        return MOMENT.replace("2026", "2030")
    if type_.python_type is bool:
        return f"NOT {column.name}"
    return "7" if type_.python_type is int else "'new'"


def test_a_statement_that_changes_many_rows(run: Run) -> None:
    """One event for each changed row; those of snapshots in the order of the rows."""

    async def story(world: World) -> None:
        await populate(world)
        await events(world)
        for noun in ("machine", "snapshot"):
            await world.execute(f"UPDATE {noun} SET name = CASE id WHEN 2 THEN 'new' ELSE name END")
            assert [(event[0], event[1], event[4]) for event in await events(world)] == [(noun, "UPDATED", 2)]
            await world.execute(f"UPDATE {noun} SET name = 'newer'")
            subjects = [event[4] for event in await events(world)]
            assert (subjects if noun == "snapshot" else sorted(subjects)) == [1, 2]
        await world.execute("UPDATE provider SET problem = 'unreachable'")
        assert {event[5] for event in await events(world)} == {"sim", "other"}

    run(story)


def test_what_a_machine_counts_is_no_event_of_its_own(run: Run) -> None:
    """The events of its snapshots name the machine."""

    async def story(world: World) -> None:
        await populate(world)
        await events(world)
        await world.snapshot(2, "c", machine_ref="m2")
        await world.execute("DELETE FROM snapshot WHERE id = 3")
        assert await events(world) == [
            ("snapshot", "CREATED", 2, None, 3, None),
            ("snapshot", "DELETED", 2, None, 3, None),
        ]

    run(story)
