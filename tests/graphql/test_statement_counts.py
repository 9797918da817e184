"""The number of SQL statements of a read: one per level of connections and relations, independent of the rows."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import NamedTuple

import pytest

from gateway.config import Settings
from gateway.models import (
    Machine,
    MachineKind,
    Operation,
    OperationKind,
    OperationState,
    PowerState,
    Provider,
    Snapshot,
    SnapshotState,
)
from gateway.store import database_url
from gateway.store.database import Transaction
from gateway.store.sqlite import SqliteDatabase
from gateway.store.statements import insert
from tests.databases import SLOW_KINDS, Databases
from tests.serving import Served, served

START = datetime(2026, 1, 1, tzinfo=UTC)

_PROVIDER = insert(Provider, "name", "tenant", "driver")
_MACHINE = insert(
    Machine,
    *("tenant", "kind", "name", "provider", "provider_ref", "power_state", "created_at", "updated_at", "observed_at"),
)
_SNAPSHOT = insert(
    Snapshot,
    *("tenant", "machine_id", "name", "state", "memory", "is_current", "created_at", "parent_id"),
)
_OPERATION = insert(
    Operation,
    *("tenant", "kind", "state", "machine_id", "machine_kind", "machine_name", "snapshot_id", "created_at"),
    *("token", "payload"),
)


def insert_machines(gateway: Served, machines: int) -> None:
    """Inserts machines, each with a chain of ten snapshots and the operations that created them."""

    async def plant(tx: Transaction) -> None:
        await tx.run(_PROVIDER, name="lab", tenant="default", driver="none")
        for number in range(machines):
            attributes = {"kind": MachineKind.VM, "name": f"m{number:02}", "power_state": PowerState.ON}
            times = dict.fromkeys(("created_at", "updated_at", "observed_at"), START)
            (machine,) = await tx.all(
                _MACHINE, tenant="default", provider="lab", provider_ref=f"r{number}", **attributes, **times
            )
            parent = None
            for place in range(10):
                made = {"state": SnapshotState.READY, "created_at": START + timedelta(hours=place)}
                (snapshot,) = await tx.all(
                    _SNAPSHOT,
                    **made,
                    tenant="default",
                    machine_id=machine.id,
                    name=f"s{place}",
                    memory=False,
                    is_current=place == 9,
                    parent_id=parent,
                )
                parent = snapshot.id
                await tx.first(
                    _OPERATION,
                    tenant="default",
                    kind=OperationKind.CREATE_SNAPSHOT,
                    state=OperationState.SUCCEEDED,
                    machine_id=machine.id,
                    machine_kind=MachineKind.VM,
                    machine_name=f"m{number:02}",
                    snapshot_id=snapshot.id,
                    created_at=made["created_at"],
                    token=f"{number}-{place}",
                    payload="{}",
                )

    gateway.run(gateway.gateway.database.write(plant))


class Worlds(NamedTuple):
    small: Served
    large: Served


@pytest.fixture(scope="module", params=SLOW_KINDS)
def worlds(request: pytest.FixtureRequest, databases: Databases) -> Iterator[Worlds]:
    """Gateways with two and with fifty machines.

    The time limit for reads on the event loop is raised, because otherwise a large read of SQLite is started on the
    event loop and then repeated in a thread.
    """
    small_one, large_one = (Settings(database_url=databases.new(request.param)) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database_url, "SqliteDatabase", partial(SqliteDatabase, inline_seconds=3_600.0))
        with served(small_one) as small, served(large_one) as large:
            insert_machines(small, 2)
            insert_machines(large, 50)
            yield Worlds(small, large)


def statement_count(gateway: Served, query: str) -> int:
    """The number of statements of the query: the minimum of 8 runs, because the worker and the feed send some too."""
    counts = []
    for _ in range(8):
        before = gateway.statements
        gateway.ask(query)
        counts.append(gateway.statements - before)
    return min(counts)


PAGE_INFO = "pageInfo { hasNextPage hasPreviousPage startCursor endCursor }"

EVERYTHING = """{ vms { nodes { currentSnapshot { parent { id } }
    snapshots { nodes { machine { id } } } operations { nodes { snapshot { id } } } } } }"""

QUERIES = [
    ("nothing stored", "{ viewer { name } __typename }", 0),
    ("one row", '{ vm(id: "vm-1") { id name powerState capabilities { action } } }', 1),
    ("one row by node", '{ node(id: "vm-1") { id __typename ... on Vm { name } } }', 1),
    ("rows of two types", '{ nodes(ids: ["vm-1", "vm-2", "snapshot-1", "operation-1", "x"]) { id __typename } }', 3),
    ("providers", "{ providers { name machineCount } }", 1),
    ("a list", "{ machines { nodes { id name } } }", 1),
    ("a list with cursors", "{ machines { edges { cursor node { id } } } }", 1),
    ("no rows of a list", "{ machines(first: 0) { nodes { id } } }", 0),
    ("only a count", "{ snapshots { totalCount } }", 1),
    ("only sums", "{ snapshots { totalBytes unknownSizeCount } }", 1),
    ("only sums and the count of a filter",
     '{ snapshots(filter: {name: {eq: "s1"}}) { totalBytes unknownSizeCount totalCount } }', 1),
    ("a capability", '{ machine(id: "vm-1") { id capability(action: DELETE) { supported } } }', 1),
    ("a list, its flags", f"{{ snapshots(first: 3) {{ {PAGE_INFO} nodes {{ id }} }} }}", 1),
    ("a list with a relation", "{ snapshots(first: 1000) { nodes { id machine { name } } } }", 2),
    ("a list with relations", "{ snapshots(first: 1000) { nodes { machine { name } parent { name } } } }", 3),
    ("two levels", "{ machines(first: 50) { nodes { name snapshots(first: 10) { nodes { id name } } } } }", 2),
    (
        "two levels with the machine's own count",
        "{ machines(first: 50) { nodes { snapshots(first: 10) { totalCount nodes { id } } } } }",
        2,
    ),
    (
        "two levels with a filtered count",
        '{ machines(first: 50) { nodes { snapshots(filter: {name: {eq: "s1"}}) { totalCount nodes { id } } } } }',
        3,
    ),
    (
        "two levels with sums",
        "{ machines { nodes { snapshots(first: 10) { totalBytes unknownSizeCount totalCount nodes { id } } } } }",
        3,
    ),
    (
        "two levels with sums and the count of a filter",
        '{ machines { nodes { snapshots(filter: {name: {eq: "s1"}}) { totalBytes totalCount nodes { id } } } } }',
        3,
    ),
    (
        "two levels with flags",
        f"{{ machines(first: 50) {{ nodes {{ snapshots(first: 5) {{ {PAGE_INFO} nodes {{ id }} }} }} }} }}",
        2,
    ),
    (
        "three levels",
        "{ machines(first: 50) { nodes { snapshots(first: 10) { nodes { children(first: 5) { nodes { id } } } } } } }",
        3,
    ),
    (
        "everything attributes a machine",
        EVERYTHING,
        7,
    ),
    ("two lists", "{ a: machines { nodes { id } } b: snapshots { nodes { id } } }", 2),
    (
        "two lists of one machine",
        "{ vms { nodes { a: snapshots(first: 1) { nodes { id } } b: snapshots(last: 1) { nodes { id } } } } }",
        3,
    ),
    ("a filter over machines", "{ snapshots(filter: {machine: {name: {eq: \"m00\"}}}) { nodes { id } } }", 1),
    ("a filter over snapshots", "{ machines(filter: {someSnapshot: {name: {eq: \"s1\"}}}) { nodes { id } } }", 1),
]  # fmt: skip


@pytest.mark.parametrize(("query", "count"), [case[1:] for case in QUERIES], ids=[case[0] for case in QUERIES])
def test_statement_count(worlds: Worlds, query: str, count: int) -> None:
    assert (statement_count(worlds.small, query), statement_count(worlds.large, query)) == (count, count)


@pytest.mark.parametrize("page", ["first: 100", "first: 3, offset: 2"])
def test_statement_count_of_a_page_with_sums(worlds: Worlds, page: str) -> None:
    """One statement on PostgreSQL, two on SQLite."""
    count = {"sqlite": 2, "postgresql": 1}[worlds.small.gateway.database.dialect]
    selected = f"totalBytes unknownSizeCount totalCount {PAGE_INFO} nodes {{ id }}"
    test_statement_count(worlds, f"{{ snapshots({page}) {{ {selected} }} }}", count)
    test_statement_count(worlds, f'{{ vm(id: "vm-1") {{ snapshots({page}) {{ {selected} }} }} }}', count + 1)


@pytest.mark.parametrize("page", ["first: 100", "first: 3, offset: 2"])
def test_statement_count_of_a_page_with_page_info_and_total(worlds: Worlds, page: str) -> None:
    """One statement on PostgreSQL, two on SQLite."""
    count = {"sqlite": 2, "postgresql": 1}[worlds.small.gateway.database.dialect]
    test_statement_count(worlds, f"{{ snapshots({page}) {{ totalCount {PAGE_INFO} nodes {{ id }} }} }}", count)


def test_result_of_two_levels_is_complete(worlds: Worlds) -> None:
    """The queries counted above return all rows: ten snapshots of each machine, newest first."""
    query = "{ machines(first: 50) { totalCount nodes { name snapshots(first: 10) { totalCount nodes { name } } } } }"
    snapshots = {"totalCount": 10, "nodes": [{"name": f"s{place}"} for place in reversed(range(10))]}
    assert worlds.large.ask(query)["machines"] == {
        "totalCount": 50,
        "nodes": [{"name": f"m{number:02}", "snapshots": snapshots} for number in range(50)],
    }
