"""Query plans, as the databases report them: SQLite before a statement runs, PostgreSQL after it has run it."""

import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from gateway.store.database import Transaction


class PlanNode(NamedTuple):
    """One node of a query plan. Nodes come in the order of the plan, the outermost first."""

    kind: str  # on SQLite the first word of `detail`, such as SCAN; on PostgreSQL such as Seq Scan
    table: str  # on SQLite the second word, which for SCAN is a table or its alias; on PostgreSQL a table or empty
    detail: str  # on SQLite the text of the node, on PostgreSQL the same as `kind`
    depth: int  # 0 for the outermost nodes
    rows: int = 0  # that the node returned, over all its loops; 0 on SQLite, which runs nothing
    processed: int = 0  # the same, with the rows that a filter removed


async def explain(tx: Transaction, sql: str, parameters: Sequence[Any] = ()) -> list[PlanNode]:
    """The plan of a statement in the dialect of the transaction. On PostgreSQL the statement takes effect."""
    if tx.dialect == "sqlite":
        return list(_sqlite_nodes(await tx.rows(f"EXPLAIN QUERY PLAN {sql}", parameters)))
    ((plan,),) = await tx.rows(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", parameters)
    return list(_postgresql_nodes(json.loads(plan)[0]["Plan"], 0))


def _sqlite_nodes(rows: Sequence[Sequence[Any]]) -> Iterator[PlanNode]:
    depths = {0: -1}  # by the number of the node
    for number, parent, _, detail in rows:
        depths[number] = depths[parent] + 1
        kind, _, rest = detail.partition(" ")
        yield PlanNode(kind, rest.partition(" ")[0], detail, depths[number])


def _postgresql_nodes(node: dict[str, Any], depth: int) -> Iterator[PlanNode]:
    kind, rows = node["Node Type"], node["Actual Rows"]
    removed = sum(number for name, number in node.items() if name.startswith("Rows Removed"))
    rows_and_removed = (round(number * node["Actual Loops"]) for number in (rows, rows + removed))
    yield PlanNode(kind, node.get("Relation Name", ""), kind, depth, *rows_and_removed)
    for child in node.get("Plans", ()):
        yield from _postgresql_nodes(child, depth + 1)
