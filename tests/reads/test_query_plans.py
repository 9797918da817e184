"""Query plans of important reads on both databases: they use an index, and do not sort or number whole tables."""

import asyncio
import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest

from gateway.config import Settings
from gateway.inventory.imports.importer import import_file
from gateway.store.postgres import PostgresTransaction
from gateway.store.sqlite import SqliteTransaction
from tests.databases import SLOW_KINDS, Databases
from tests.make_dump import write_dump
from tests.serving import Served, served

MACHINES, SNAPSHOTS, BIG = 150, 12_000, 9_000
FEW = 1_500  # rows that a plan may sort or number: a page of each machine on a page, and a margin
TABLES = ("machine", "snapshot", "operation")

Statements = list[tuple[str, Sequence[Any]]]
World = tuple[Served, Callable[[str, str, Sequence[Any]], list[str]], str]

FIELDS = "id name description state memory isCurrent sizeBytes createdAt"
PAGE_INFO = "pageInfo { hasNextPage hasPreviousPage startCursor endCursor }"
BIG_MACHINE = 'vm(id: "vm-100000")'

READS = {
    "one machine and its newest": f"""{{ vm(id: "vm-100007") {{ name
        snapshots(first: 20) {{ nodes {{ {FIELDS} }} }} }} }}""",
    "with its count": f"{{ {BIG_MACHINE} {{ snapshots(first: 20) {{ totalCount nodes {{ id }} {PAGE_INFO} }} }} }}",
    "fifty machines with ten each": "{ vms(first: 50) { nodes { name snapshots(first: 10) { nodes { id } } } } }",
    "deep in the big machine": f"{{ {BIG_MACHINE} {{ snapshots(first: 20, after: $after) {{ nodes {{ id }} }} }} }}",
    "before a cursor": f"""{{ {BIG_MACHINE} {{
        snapshots(last: 20, before: $after) {{ nodes {{ id }} {PAGE_INFO} }} }} }}""",
    "a case-insensitive prefix": f"""{{ {BIG_MACHINE} {{ snapshots(first: 20,
        filter: {{name: {{startsWith: "BEFORE", ignoreCase: true}}}}, sort: [{{field: NAME, ignoreCase: true}}])
        {{ nodes {{ id }} }} }} }}""",
    "a thousand rows": f"{{ {BIG_MACHINE} {{ snapshots(first: 1000) {{ nodes {{ {FIELDS} }} }} }} }}",
    "the newest of the fleet": "{ snapshots(first: 20) { nodes { id machine { name } } } }",
    "by name in the fleet": "{ snapshots(first: 20, sort: [{field: NAME, ignoreCase: true}]) { nodes { id } } }",
    "the fleet's machines": "{ machines(first: 20) { nodes { name currentSnapshot { id } } } }",
    "one snapshot": """{ snapshot(id: "snapshot-100500") {
        name machine { name } parent { id } children { nodes { id } } } }""",
    "the last operations": f"""{{ operations(first: 20) {{ nodes {{ id }} }}
        {BIG_MACHINE} {{ operations(first: 5) {{ nodes {{ id }} }} }} }}""",
}


@pytest.fixture(scope="module", params=SLOW_KINDS)
def world(
    request: pytest.FixtureRequest, databases: Databases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """A gateway with a fleet large enough to affect query plans, a function that explains statements, and the URL."""
    url = databases.new(request.param)
    dump = tmp_path_factory.mktemp("dump") / "vms.json"
    with dump.open("w", encoding="utf-8") as out:
        write_dump(out, MACHINES, SNAPSHOTS, BIG)
    import_file(url, dump, tenant="default", provider="manageiq", report=lambda _: None)
    if request.param == "postgresql":
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("ANALYZE")
    with served(Settings(database_url=url)) as gateway:
        yield gateway, (_sqlite if request.param == "sqlite" else _postgresql), url


def _sqlite(url: str, sql: str, values: Sequence[Any]) -> list[str]:
    """The faults of a statement's query plan."""
    with sqlite3.connect(Path(url.removeprefix("sqlite:///"))) as connection:
        rows = connection.execute(f"EXPLAIN QUERY PLAN {sql}", values).fetchall()
    faults = [detail for *_, detail in rows if detail.startswith("SCAN") and detail.split()[1] in {*TABLES, "t", "s"}]
    # An outermost sort above subqueries sorts their pages. Any other sort sorts a whole set.
    nested = any(parent for _, parent, *_ in rows)
    return faults + [text for _, parent, _, text in rows if "FOR ORDER BY" in text and (parent or not nested)]


def _postgresql(url: str, sql: str, values: Sequence[Any]) -> list[str]:
    async def explain() -> Any:
        connection = await asyncpg.connect(url)
        try:
            return json.loads(await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", *values))
        finally:
            await connection.close()

    return list(_faults(asyncio.run(explain())[0]["Plan"]))


def _faults(node: dict[str, Any]) -> Iterator[str]:
    rows = node["Actual Rows"] * node["Actual Loops"]
    kind, table = node["Node Type"], node.get("Relation Name")
    if kind == "Seq Scan" and table in TABLES and rows + node.get("Rows Removed by Filter", 0) > FEW:
        yield f"scans {table}"
    if kind in {"Sort", "Incremental Sort", "WindowAgg"} and rows > FEW:
        yield f"{kind} of {rows} rows"
    for child in node.get("Plans", ()):
        yield from _faults(child)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Statements:
    """Records the statements that are sent from now on, except those of the worker and the change feed."""
    statements: Statements = []

    def record(transaction: Any) -> None:
        send: Callable[..., Any] = transaction.rows

        async def rows(self: Any, sql: str, parameters: Sequence[Any] = ()) -> Any:
            statements.append((sql, parameters))
            return await send(self, sql, parameters)

        monkeypatch.setattr(transaction, "rows", rows)

    record(SqliteTransaction)
    record(PostgresTransaction)
    return statements


def faults(world: World, recorded: Statements, query: str, **variables: Any) -> dict[str, list[str]]:
    """The faults of the query plans of a query's statements, by statement."""
    gateway, explain, url = world
    recorded.clear()
    gateway.ask(query, **variables)
    # Statements that SQLAlchemy wrote, such as those of the worker and the change feed, have several lines.
    selects = [(sql, values) for sql, values in recorded if sql.startswith("SELECT") and "\n" not in sql]
    assert selects
    return {sql: wrong for sql, values in selects if (wrong := explain(url, sql, values))}


@pytest.mark.parametrize("query", READS.values(), ids=READS.keys())
def test_rows_are_found_by_an_index(world: World, recorded: Statements, query: str) -> None:
    if "$after" not in query:
        assert faults(world, recorded, query) == {}
        return
    deep = f"{{ {BIG_MACHINE} {{ snapshots(first: 1, offset: 8000) {{ pageInfo {{ endCursor }} }} }} }}"
    after = world[0].ask(deep)["vm"]["snapshots"]["pageInfo"]["endCursor"]
    assert faults(world, recorded, f"query ($after: String) {query}", after=after) == {}


def test_a_sort_without_an_index_is_detected(world: World, recorded: Statements) -> None:
    assert faults(world, recorded, "{ snapshots(first: 20, sort: [{field: SIZE_BYTES}]) { nodes { id } } }")


@pytest.mark.parametrize("subject", ["machine", "operation"])
def test_audit_entries_of_a_subject_are_found_by_its_index(world: World, recorded: Statements, subject: str) -> None:
    """SQLite has no statistics, and yet must prefer that index to the index of all entries by time."""
    query = "query ($filter: AuditEntryFilter) { auditEntries(filter: $filter, first: 20) { nodes { id } } }"
    id_ = {"machine": "vm-100007", "operation": "operation-7"}[subject]
    assert faults(world, recorded, query, filter={f"{subject}Id": {"eq": id_}}) == {}
    if world[0].gateway.database.dialect == "sqlite":
        ((sql, values),) = [(sql, values) for sql, values in recorded if "audit_entry" in sql]
        with sqlite3.connect(Path(world[2].removeprefix("sqlite:///"))) as connection:
            ((*_, detail),) = connection.execute(f"EXPLAIN QUERY PLAN {sql}", values).fetchall()
        assert f"INDEX ix_audit_entry_{subject} (tenant=? AND {subject}_id=?)" in detail
