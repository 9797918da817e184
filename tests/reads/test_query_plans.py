"""Query plans of important reads on both databases: they use an index, and do not sort or number whole tables."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psycopg
import pytest

from gateway.config import Settings
from gateway.inventory.imports.importer import import_files
from gateway.store.database import Transaction
from gateway.store.postgres import PostgresTransaction
from gateway.store.sqlite import SqliteTransaction
from tests.databases import SLOW_KINDS, Databases
from tests.make_dump import write_dump
from tests.query_plans import PlanNode, explain
from tests.serving import Served, served

MACHINES, SNAPSHOTS, BIG = 150, 12_000, 9_000
FEW = 1_500  # rows that a plan may sort or number: a page of each machine on a page, and a margin
TABLES = ("machine", "snapshot", "operation")

Statements = list[tuple[str, Sequence[Any]]]

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
) -> Iterator[Served]:
    """A gateway with a fleet large enough to affect query plans."""
    url = databases.new(request.param)
    dump = tmp_path_factory.mktemp("dump") / "vms.json"
    with dump.open("w", encoding="utf-8") as out:
        write_dump(out, MACHINES, SNAPSHOTS, BIG)
    import_files(url, [dump], tenant="default", provider="manageiq", report=lambda _: None)
    if request.param == "postgresql":
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("ANALYZE")
    with served(Settings(database_url=url)) as gateway:
        yield gateway


def _sqlite_faults(plan: list[PlanNode]) -> Iterator[str]:
    nested = any(node.depth for node in plan)
    for node in plan:
        if node.kind == "SCAN" and node.table in {*TABLES, "t", "s"}:
            yield node.detail
        # An outermost sort above subqueries sorts their pages. Any other sort sorts a whole set.
        if "FOR ORDER BY" in node.detail and (node.depth or not nested):
            yield node.detail


def _postgresql_faults(plan: list[PlanNode]) -> Iterator[str]:
    for node in plan:
        if node.kind == "Seq Scan" and node.table in TABLES and node.processed > FEW:
            yield f"scans {node.table}"
        if node.kind in {"Sort", "Incremental Sort", "WindowAgg"} and node.rows > FEW:
            yield f"{node.kind} of {node.rows} rows"


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


def plans(world: Served, recorded: Statements, query: str, **variables: Any) -> dict[str, list[PlanNode]]:
    """The query plans of a query's statements, by statement."""
    recorded.clear()
    world.ask(query, **variables)
    # Statements that SQLAlchemy wrote, such as those of the worker and the change feed, have several lines.
    selects = [(sql, values) for sql, values in recorded if sql.startswith("SELECT") and "\n" not in sql]
    assert selects

    async def explain_all(tx: Transaction) -> dict[str, list[PlanNode]]:
        return {sql: await explain(tx, sql, values) for sql, values in selects}

    return world.run(world.gateway.database.read(explain_all))


def faults(world: Served, recorded: Statements, query: str, **variables: Any) -> dict[str, list[str]]:
    """The faults of the query plans of a query's statements, by statement."""
    found = _sqlite_faults if world.gateway.database.dialect == "sqlite" else _postgresql_faults
    explained = plans(world, recorded, query, **variables)
    return {sql: wrong for sql, plan in explained.items() if (wrong := list(found(plan)))}


@pytest.mark.parametrize("query", READS.values(), ids=READS.keys())
def test_rows_are_found_by_an_index(world: Served, recorded: Statements, query: str) -> None:
    if "$after" not in query:
        assert faults(world, recorded, query) == {}
        return
    deep = f"{{ {BIG_MACHINE} {{ snapshots(first: 1, offset: 8000) {{ pageInfo {{ endCursor }} }} }} }}"
    after = world.ask(deep)["vm"]["snapshots"]["pageInfo"]["endCursor"]
    assert faults(world, recorded, f"query ($after: String) {query}", after=after) == {}


def test_a_sort_without_an_index_is_detected(world: Served, recorded: Statements) -> None:
    assert faults(world, recorded, "{ snapshots(first: 20, sort: [{field: SIZE_BYTES}]) { nodes { id } } }")


@pytest.mark.parametrize("subject", ["machine", "operation"])
def test_audit_entries_of_a_subject_are_found_by_its_index(world: Served, recorded: Statements, subject: str) -> None:
    """SQLite has no statistics, and yet must prefer that index to the index of all entries by time."""
    query = "query ($filter: AuditEntryFilter) { auditEntries(filter: $filter, first: 20) { nodes { id } } }"
    id_ = {"machine": "vm-100007", "operation": "operation-7"}[subject]
    filter_ = {f"{subject}Id": {"eq": id_}}
    assert faults(world, recorded, query, filter=filter_) == {}
    if world.gateway.database.dialect == "sqlite":
        explained = plans(world, recorded, query, filter=filter_)
        ((node,),) = [plan for sql, plan in explained.items() if "audit_entry" in sql]
        assert f"INDEX ix_audit_entry_{subject} (tenant=? AND {subject}_id=?)" in node.detail
