"""Cost of a claim on PostgreSQL with current and with outdated statistics."""

import pytest

from gateway.columns import now
from gateway.models import MachineKind, Operation, OperationKind
from gateway.operations import leases
from gateway.store.database import Transaction
from gateway.store.statements import table_of
from tests.databases import Databases
from tests.operations.world import World, play
from tests.query_plans import PlanNode, explain

MACHINES, QUEUED = 40, 50

_COLUMNS = ", ".join(column.name for column in table_of(Operation).c if column.name != "id")
_MORE = (
    f"INSERT INTO operation ({_COLUMNS}) SELECT {_COLUMNS.replace('machine_id', 'n % {machines} + 1')}"
    " FROM operation, generate_series(1, {count}) n WHERE id = 1"
)


@pytest.mark.parametrize("analyzed", ["before the queues grew", "after"])
def test_claim_reads_each_unfinished_operation_at_most_twice(databases: Databases, analyzed: str) -> None:
    async def story(world: World) -> None:
        for number in range(MACHINES):
            await world.machine(f"m{number}")
        await world.create(1)
        await world.execute("UPDATE operation SET state = 'SUCCEEDED', finished_at = created_at")
        await world.execute(_MORE.format(machines=MACHINES, count=MACHINES))
        await world.execute("ANALYZE")
        await world.execute("UPDATE operation SET state = 'QUEUED', finished_at = NULL WHERE id = 1")
        await world.execute(_MORE.format(machines=MACHINES, count=MACHINES * QUEUED))
        if analyzed == "after":
            await world.execute("ANALYZE")
        plan = await world.database.write(explain_claim)
        assert plan[0].rows == 16
        assert max(node.processed for node in plan) <= 2 * MACHINES * QUEUED

    play(databases.new("postgresql"), story)


async def explain_claim(tx: Transaction) -> list[PlanNode]:
    claim = leases.CLAIM.compiled("postgresql")
    known = {"kinds": list(OperationKind), "machine_kinds": list(MachineKind)}
    values = {"new_owner": "me", "slots": 16, "providers": ["sim"], "lease": 1.0, "at": now(), **known}
    return await explain(tx, claim.sql, claim.parameters(values))
