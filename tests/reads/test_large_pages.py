"""Large pages are rendered in slices: the response is that of small pages, and the transaction pauses in between."""

from collections.abc import Iterator
from typing import Any

import pytest

from gateway.config import Settings
from gateway.reads.rendering import SLICE_ROWS
from gateway.store.postgres import PostgresTransaction
from gateway.store.sqlite import SqliteTransaction
from tests.databases import KINDS, Databases
from tests.rest.world import Rest, rest_served

MACHINES, SNAPSHOTS = 4, 450  # and each machine has that many snapshots, a chain of parents
TRANSACTIONS: dict[str, Any] = {"sqlite": SqliteTransaction, "postgresql": PostgresTransaction}

FIELDS = "id name state createdAt parent { id name } machine { id capabilities { action supported } }"
_PAGE = f"nodes {{ {FIELDS} }} pageInfo {{ endCursor hasNextPage startCursor }}"
ONE = f"query ($n: Int, $a: String) {{ vms(first: 1) {{ nodes {{ snapshots(first: $n, after: $a) {{ {_PAGE} }} }} }} }}"
_EDGES = f"edges {{ cursor node {{ {FIELDS} }} }} nodes {{ id }} pageInfo {{ endCursor }}"
ALL = f"query ($n: Int, $a: String) {{ snapshots(first: $n, after: $a) {{ {_EDGES} }} }}"
NESTED = "query ($n: Int) { vms { nodes { id snapshots(first: $n) { totalCount nodes { id name parent { id } } } } } }"


@pytest.fixture(scope="module", params=KINDS)
def large(request: pytest.FixtureRequest, databases: Databases) -> Iterator[Rest]:
    with rest_served(Settings(database_url=databases.new(request.param), keep_gone=1e9)) as rest:
        rest.sql("INSERT INTO provider (name, tenant, driver) VALUES ('lab', 'default', 'none')")
        time = "'2026-01-01T00:00:00.000000Z'"
        for machine in range(1, MACHINES + 1):
            rest.sql(
                "INSERT INTO machine (id, tenant, kind, name, name_folded, provider, provider_folded, provider_ref,"
                " provider_ref_folded, power_state, created_at, updated_at, observed_at, imported)"
                f" VALUES ({machine}, 'default', 'VM', 'm', 'm', 'lab', 'lab', 'r', 'r', 'ON', {time}, {time}, {time},"
                " TRUE)"
            )
            first = 1_000 * machine
            rows = ", ".join(
                f"({number}, 'default', {machine}, 's', 's', 'READY', FALSE, FALSE, {time},"
                f" {number - 1 if number > first else 'NULL'})"
                for number in range(first, first + SNAPSHOTS)
            )
            rest.sql(
                "INSERT INTO snapshot (id, tenant, machine_id, name, name_folded, state, memory, is_current,"
                f" created_at, parent_id) VALUES {rows}"
            )
        yield rest


@pytest.fixture
def pauses(large: Rest, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Has an item for each pause."""
    found: list[str] = []
    transaction = TRANSACTIONS[large.gateway.gateway.database.dialect]
    pause = transaction.pause

    async def recorded(self: Any, ahead: float = 0.0) -> None:
        found.append("pause")
        await pause(self, ahead)

    monkeypatch.setattr(transaction, "pause", recorded)
    return found


def in_small_pages(rest: Rest, query: str, path: list[Any], key: str) -> list[Any]:
    """All items of a list, in pages that are rendered at once."""
    items: list[Any] = []
    after = None
    for _ in range(MACHINES * SNAPSHOTS // SLICE_ROWS + 2):
        page: Any = rest.gateway.ask(query, n=SLICE_ROWS, a=after)
        for step in path:
            page = page[step]
        if not page[key]:
            break
        items += page[key]
        after = page["pageInfo"]["endCursor"]
    return items


def test_a_large_page_below_a_row(large: Rest, pauses: list[str]) -> None:
    found = large.gateway.ask(ONE, n=1_000)["vms"]["nodes"][0]["snapshots"]
    assert len(pauses) >= 2
    expected = in_small_pages(large, ONE, ["vms", "nodes", 0, "snapshots"], "nodes")
    assert len(expected) == SNAPSHOTS
    assert found["nodes"] == expected
    assert found["pageInfo"]["hasNextPage"] is False


def test_a_large_page_of_all_rows(large: Rest, pauses: list[str]) -> None:
    found = large.gateway.ask(ALL, n=1_000)["snapshots"]
    assert len(pauses) >= 2
    expected = in_small_pages(large, ALL, ["snapshots"], "edges")
    assert len(expected) == MACHINES * SNAPSHOTS
    assert found["edges"] == expected[:1_000]
    assert [node["id"] for node in found["nodes"]] == [edge["node"]["id"] for edge in expected[:1_000]]
    assert found["pageInfo"] == {"endCursor": expected[999]["cursor"]}


def test_pages_of_several_rows(large: Rest, pauses: list[str]) -> None:
    """Few rows each, but many together."""
    found = large.gateway.ask(NESTED, n=SLICE_ROWS)["vms"]["nodes"]
    assert len(pauses) >= MACHINES // 2
    for machine, node in enumerate(found, 1):
        newest = [f"snapshot-{1_000 * machine + SNAPSHOTS - 1 - number}" for number in range(SLICE_ROWS)]
        assert [snapshot["id"] for snapshot in node["snapshots"]["nodes"]] == newest
        assert [snapshot["parent"]["id"] for snapshot in node["snapshots"]["nodes"][:-1]] == newest[1:]


def test_small_pages_are_rendered_at_once(large: Rest, pauses: list[str]) -> None:
    large.gateway.ask(ONE, n=SLICE_ROWS)
    assert pauses == []


def test_embedded_lists_of_rest(large: Rest, pauses: list[str]) -> None:
    rows = large.get("/vms", expand="resources,snapshots", attributes="id", sort_by="id")["resources"]
    assert len(pauses) >= MACHINES
    assert [len(row["snapshots"]) for row in rows] == [SNAPSHOTS] * MACHINES
    one = large.get(f"/vms/{MACHINES}/snapshots", expand="resources", limit=3, offset=100)["resources"]
    assert rows[-1]["snapshots"][100:103] == one
