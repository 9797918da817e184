"""Properties of filters, sorts and pages, compared with a reference model in Python and with each other."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config import Settings
from tests.databases import SLOW_KINDS, Databases
from tests.examples import EXAMPLES
from tests.reads.reference_model import MACHINE_SORTS, SORTS, ReferenceModel, ordered
from tests.reads.strategies import Strategy, filters, sorts
from tests.reads.world import World, ids, populate
from tests.serving import Served, served
from tests.waiting import at_most


class PopulatedGateway(NamedTuple):
    gateway: Served
    world: World
    model: ReferenceModel
    # Made once, because Hypothesis analyzes each new strategy, which takes longer than the requests of a test.
    snapshot_filters: Strategy
    machine_filters: Strategy


@pytest.fixture(scope="module", params=SLOW_KINDS)
def populated(request: pytest.FixtureRequest, databases: Databases) -> Iterator[PopulatedGateway]:
    with served(Settings(database_url=databases.new(request.param), keep_gone=1e9)) as gateway:
        world = populate(gateway)
        strategies = filters(ids(world.snapshots), ids(world.machines))
        yield PopulatedGateway(gateway, world, ReferenceModel(world.snapshots), *strategies)


SNAPSHOTS = "query ($filter: SnapshotFilter) { snapshots(filter: $filter, first: 1000) { totalCount nodes { id } } }"
MACHINES = "query ($filter: MachineFilter) { machines(filter: $filter, first: 1000) { totalCount nodes { id } } }"


@given(data=st.data())
def test_snapshot_filters_match_the_model(populated: PopulatedGateway, data: st.DataObject) -> None:
    gateway, world, model, snapshot_filters, _ = populated
    value = data.draw(snapshot_filters)
    found = gateway.ask(SNAPSHOTS, filter=value)["snapshots"]
    expected = {row["id"] for row in world.snapshots if model.snapshot(row, value)}
    assert {node["id"] for node in found["nodes"]} == expected
    assert found["totalCount"] == len(expected)
    negated = gateway.ask(SNAPSHOTS, filter={"not": value})["snapshots"]
    assert negated["totalCount"] == len(world.snapshots) - len(expected)


@given(data=st.data())
def test_machine_filters_match_the_model(populated: PopulatedGateway, data: st.DataObject) -> None:
    gateway, world, model, _, machine_filters = populated
    value = data.draw(machine_filters)
    found = gateway.ask(MACHINES, filter=value)["machines"]
    expected = {row["id"] for row in world.machines if model.machine(row, value)}
    assert {node["id"] for node in found["nodes"]} == expected
    assert found["totalCount"] == len(expected)
    negated = gateway.ask(MACHINES, filter={"not": value})["machines"]
    assert negated["totalCount"] == len(world.machines) - len(expected)


ALL = """query ($sort: [SnapshotSort!], $first: Int, $last: Int, $after: String, $before: String) {
    snapshots(sort: $sort, first: $first, last: $last, after: $after, before: $before) {
        edges { cursor node { id } } pageInfo { hasNextPage hasPreviousPage startCursor endCursor } } }"""

snapshot_sorts = sorts(list(SORTS), {"NAME", "DESCRIPTION", "MACHINE_NAME"})


@given(sort=snapshot_sorts)
def test_snapshot_sorts_match_the_model(populated: PopulatedGateway, sort: list[dict[str, Any]]) -> None:
    found = populated.gateway.ask(ALL, sort=sort, first=1000)["snapshots"]
    assert [edge["node"]["id"] for edge in found["edges"]] == ids(ordered(populated.world.snapshots, sort, SORTS))


@given(sort=sorts(list(MACHINE_SORTS), {"NAME"}))
def test_machine_sorts_match_the_model(populated: PopulatedGateway, sort: list[dict[str, Any]]) -> None:
    query = "query ($sort: [MachineSort!]) { machines(sort: $sort) { nodes { id } } }"
    found = populated.gateway.ask(query, sort=sort)["machines"]
    assert ids(found["nodes"]) == ids(ordered(populated.world.machines, sort, MACHINE_SORTS))


@given(sort=snapshot_sorts, size=st.integers(1, 40), forward=st.booleans())
@settings(max_examples=max(8, EXAMPLES // 4))
def test_pagination_returns_each_row_once_with_exact_flags(
    populated: PopulatedGateway, sort: list[dict[str, Any]], size: int, forward: bool
) -> None:
    gateway, world = populated.gateway, populated.world
    expected = ids(ordered(world.snapshots, sort, SORTS))
    seen: list[str] = []
    cursor = None
    for _ in at_most(len(expected)):
        arguments = {"first": size, "after": cursor} if forward else {"last": size, "before": cursor}
        page = gateway.ask(ALL, sort=sort, **arguments)["snapshots"]
        found = [edge["node"]["id"] for edge in page["edges"]]
        seen = seen + found if forward else found + seen
        info = page["pageInfo"]
        assert info["startCursor"] == page["edges"][0]["cursor"]
        assert info["endCursor"] == page["edges"][-1]["cursor"]
        assert info["hasNextPage"] is (found[-1] != expected[-1])
        assert info["hasPreviousPage"] is (found[0] != expected[0])
        if not info["hasNextPage" if forward else "hasPreviousPage"]:
            break
        cursor = info["endCursor" if forward else "startCursor"]
    assert seen == expected


@given(data=st.data())
@settings(max_examples=max(8, EXAMPLES // 4))
def test_pages_between_two_cursors(populated: PopulatedGateway, data: st.DataObject) -> None:
    gateway, world = populated.gateway, populated.world
    sort = data.draw(snapshot_sorts)
    expected = ids(ordered(world.snapshots, sort, SORTS))
    edges = gateway.ask(ALL, sort=sort, first=1000)["snapshots"]["edges"]
    low, high = sorted(data.draw(st.lists(st.integers(0, len(edges) - 1), min_size=2, max_size=2)))
    size = data.draw(st.integers(0, 12))
    end = data.draw(st.sampled_from(["first", "last"]))
    page = gateway.ask(ALL, sort=sort, after=edges[low]["cursor"], before=edges[high]["cursor"], **{end: size})
    between = expected[low + 1 : high]
    found = [edge["node"]["id"] for edge in page["snapshots"]["edges"]]
    assert found == (between[:size] if end == "first" else between[len(between) - min(size, len(between)) :])
    info = page["snapshots"]["pageInfo"]
    if found:
        assert info["hasNextPage"] is True
        assert info["hasPreviousPage"] is True
    else:
        assert info["startCursor"] is None
        assert info["endCursor"] is None


PAGE = """snapshots(filter: $filter, sort: $sort, first: $first, last: $last, offset: $offset) {
    totalCount nodes { id parent { id } children(first: 2, sort: [{field: ID}]) { totalCount nodes { id } } }
    edges { cursor node { id } } pageInfo { hasNextPage hasPreviousPage } }"""
VARIABLES = "$filter: SnapshotFilter, $sort: [SnapshotSort!], $first: Int, $last: Int, $offset: Int"


@given(data=st.data())
def test_each_machine_has_its_own_page(populated: PopulatedGateway, data: st.DataObject) -> None:
    """Pages of many parents in one response equal those of each parent alone, and those of the model."""
    gateway, world, model, snapshot_filters, _ = populated
    value, sort = data.draw(snapshot_filters), data.draw(snapshot_sorts)
    end, size = data.draw(st.sampled_from(["first", "last"])), data.draw(st.integers(0, 8))
    offset = data.draw(st.integers(0, 5)) if end == "first" else 0
    variables = {"filter": value, "sort": sort, end: size, **({"offset": offset} if end == "first" else {})}
    listed = gateway.ask(f"query ({VARIABLES}) {{ machines(first: 50) {{ nodes {{ id {PAGE} }} }} }}", **variables)
    for node in listed["machines"]["nodes"]:
        own = [row for row in world.snapshots if row["machine"]["id"] == node["id"] and model.snapshot(row, value)]
        rows = ordered(own, sort, SORTS)
        page = rows[offset : offset + size] if end == "first" else rows[max(0, len(rows) - size) :]
        found = node["snapshots"]
        assert found["totalCount"] == len(rows)
        assert ids(found["nodes"]) == ids(page)
        assert [edge["node"]["id"] for edge in found["edges"]] == ids(page)
        skipped = min(offset, len(rows)) if end == "first" else len(rows) - len(page)
        assert found["pageInfo"]["hasPreviousPage"] is (skipped > 0)
        assert found["pageInfo"]["hasNextPage"] is (end == "first" and skipped + len(page) < len(rows))
        for row, shown in zip(page, found["nodes"], strict=True):
            children = ids(sorted((c for c in world.snapshots if c["parent"] == row["id"]), key=SORTS["ID"]))
            assert shown["parent"] == (None if row["parent"] is None else {"id": row["parent"]})
            assert shown["children"] == {"totalCount": len(children), "nodes": [{"id": id_} for id_ in children[:2]]}
    one = data.draw(st.sampled_from(listed["machines"]["nodes"]))
    alone = f"query ($id: ID!, {VARIABLES}) {{ node(id: $id) {{ ... on Machine {{ id {PAGE} }} }} }}"
    assert gateway.ask(alone, id=one["id"], **variables)["node"] == one


@pytest.mark.parametrize("kind", SLOW_KINDS)
@given(data=st.data())
@settings(max_examples=max(4, EXAMPLES // 10))
def test_pagination_during_inserts_and_deletes(databases: Databases, kind: str, data: st.DataObject) -> None:
    """No row is returned twice, the order holds, and every row that existed throughout is returned."""
    with served(Settings(database_url=databases.new(kind), keep_gone=1e9)) as gateway:
        world = populate(gateway)
        sort = data.draw(snapshot_sorts)
        forward = data.draw(st.booleans())
        existed_throughout = set(ids(world.snapshots))
        seen: list[str] = []
        cursor = None
        for _ in at_most(1_000):
            size = data.draw(st.integers(5, 30))
            arguments = {"first": size, "after": cursor} if forward else {"last": size, "before": cursor}
            page = gateway.ask(ALL, sort=sort, **arguments)["snapshots"]
            found = [edge["node"]["id"] for edge in page["edges"]]
            seen += found if forward else found[::-1]
            info = page["pageInfo"]
            if not info["hasNextPage" if forward else "hasPreviousPage"]:
                break
            cursor = info["endCursor" if forward else "startCursor"]
            existed_throughout -= _change(gateway, world, data.draw(st.integers(0, 4)))
        assert len(seen) == len(set(seen))
        assert existed_throughout <= set(seen)
        remaining = [row for row in world.snapshots if row["id"] in set(seen)]
        in_order = ids(ordered(remaining, sort, SORTS))
        assert [id_ for id_ in seen if id_ in set(in_order)] == (in_order if forward else in_order[::-1])


def _change(gateway: Served, world: World, count: int) -> set[str]:
    """Adds and removes snapshots. Returns the ids of the removed ones."""
    removed = set()

    async def change() -> None:
        for _ in range(count):
            await gateway.gateway.database.write(world.add_snapshot)
            leaf = await gateway.gateway.database.write(world.remove_leaf)
            if leaf is not None:
                removed.add(leaf["id"])

    gateway.run(change())
    return removed
