"""What a claim costs on PostgreSQL, which plans by what it has counted, and that may be long ago."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.columns import now
from gateway.models import Operation
from gateway.operations import leases
from gateway.store.database import Transaction
from tests.databases import Databases
from tests.operations.world import World, play

MACHINES, QUEUED = 40, 50

_COLUMNS = ", ".join(column.key for column in Operation.__table__.c if column.key != "id")  # type: ignore[attr-defined]
_MORE = (
    f"INSERT INTO operation ({_COLUMNS}) SELECT {_COLUMNS.replace('machine_id', 'n % {machines} + 1')}"
    " FROM operation, generate_series(1, {count}) n WHERE id = 1"
)


@pytest.mark.parametrize("counted", ["before the queues grew", "since"])
def test_it_looks_at_each_unfinished_operation_a_few_times(databases: Databases, counted: str) -> None:
    async def story(world: World) -> None:
        for number in range(MACHINES):
            await world.machine(f"m{number}")
        await world.create(1)
        await world.execute("UPDATE operation SET state = 'SUCCEEDED', finished_at = created_at")
        await world.execute(_MORE.format(machines=MACHINES, count=MACHINES))
        await world.execute("ANALYZE")
        await world.execute("UPDATE operation SET state = 'QUEUED', finished_at = NULL WHERE id = 1")
        await world.execute(_MORE.format(machines=MACHINES, count=MACHINES * QUEUED))
        if counted == "since":
            await world.execute("ANALYZE")
        plan = await world.database.write(explain_claim)
        assert plan["Actual Rows"] == 16
        assert max(looks(plan)) <= 2 * MACHINES * QUEUED

    play(databases.new("postgresql"), story)


async def explain_claim(tx: Transaction) -> dict[str, Any]:
    claim = leases.CLAIM.compiled("postgresql")
    values = {"new_owner": "me", "slots": 16, "providers": ["sim"], "lease": 1.0, "at": now()}
    ((explained,),) = await tx.rows(f"EXPLAIN (ANALYZE, FORMAT JSON) {claim.sql}", claim.parameters(values))
    plan: dict[str, Any] = json.loads(explained)[0]["Plan"]
    return plan


def looks(node: dict[str, Any]) -> Iterator[int]:
    """How many rows each step of a plan has had in its hands."""
    removed = sum(rows for name, rows in node.items() if name.startswith("Rows Removed"))
    yield (node["Actual Rows"] + removed) * node["Actual Loops"]
    for child in node.get("Plans", ()):
        yield from looks(child)
