"""Properties of filters, sorts and pages, against a model in Python and against themselves."""

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from gateway.config import Settings
from tests.databases import SLOW_KINDS, Databases
from tests.reads.model import MACHINE_SORTS, SORTS, Model, ordered
from tests.reads.strategies import filters, sorts
from tests.reads.world import World, ids, planted
from tests.serving import Served, served

EXAMPLES = int(os.environ.get("GATEWAY_TEST_EXAMPLES", "20"))

settings.register_profile(
    "gateway",
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="CI" not in os.environ,
    print_blob=True,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.differing_executors],
)
settings.load_profile("gateway")


class Planted(NamedTuple):
    gateway: Served
    world: World
    model: Model


@pytest.fixture(scope="module", params=SLOW_KINDS)
def planted_world(request: pytest.FixtureRequest, databases: Databases) -> Iterator[Planted]:
    with served(Settings(database_url=databases.new(request.param))) as gateway:
        world = planted(gateway)
        yield Planted(gateway, world, Model(world.snapshots))


SNAPSHOTS = "query ($filter: SnapshotFilter) { snapshots(filter: $filter, first: 1000) { totalCount nodes { id } } }"
MACHINES = "query ($filter: MachineFilter) { machines(filter: $filter, first: 1000) { totalCount nodes { id } } }"


@given(data=st.data())
def test_filters_of_snapshots_find_what_the_model_finds(planted_world: Planted, data: st.DataObject) -> None:
    gateway, world, model = planted_world
    snapshot_filters, _ = filters(ids(world.snapshots), ids(world.machines))
    value = data.draw(snapshot_filters)
    found = gateway.ask(SNAPSHOTS, filter=value)["snapshots"]
    expected = {row["id"] for row in world.snapshots if model.snapshot(row, value)}
    assert {node["id"] for node in found["nodes"]} == expected
    assert found["totalCount"] == len(expected)
    negated = gateway.ask(SNAPSHOTS, filter={"not": value})["snapshots"]
    assert negated["totalCount"] == len(world.snapshots) - len(expected)


@given(data=st.data())
def test_filters_of_machines_find_what_the_model_finds(planted_world: Planted, data: st.DataObject) -> None:
    gateway, world, model = planted_world
    _, machine_filters = filters(ids(world.snapshots), ids(world.machines))
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
def test_snapshots_sort_as_the_model_sorts(planted_world: Planted, sort: list[dict[str, Any]]) -> None:
    found = planted_world.gateway.ask(ALL, sort=sort, first=1000)["snapshots"]
    assert [edge["node"]["id"] for edge in found["edges"]] == ids(ordered(planted_world.world.snapshots, sort, SORTS))


@given(sort=sorts(list(MACHINE_SORTS), {"NAME"}))
def test_machines_sort_as_the_model_sorts(planted_world: Planted, sort: list[dict[str, Any]]) -> None:
    query = "query ($sort: [MachineSort!]) { machines(sort: $sort) { nodes { id } } }"
    found = planted_world.gateway.ask(query, sort=sort)["machines"]
    assert ids(found["nodes"]) == ids(ordered(planted_world.world.machines, sort, MACHINE_SORTS))


@given(sort=snapshot_sorts, size=st.integers(1, 40), forward=st.booleans())
@settings(max_examples=max(8, EXAMPLES // 4))
def test_walks_see_everything_once_and_know_where_they_are(
    planted_world: Planted, sort: list[dict[str, Any]], size: int, forward: bool
) -> None:
    gateway, world, _ = planted_world
    expected = ids(ordered(world.snapshots, sort, SORTS))
    seen: list[str] = []
    cursor = None
    while True:
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
def test_pages_between_two_cursors(planted_world: Planted, data: st.DataObject) -> None:
    gateway, world, _ = planted_world
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
def test_each_machine_has_its_own_page(planted_world: Planted, data: st.DataObject) -> None:
    """Pages of many parents in one answer are what each parent alone has, and what the model says."""
    gateway, world, model = planted_world
    snapshot_filters, _ = filters(ids(world.snapshots), ids(world.machines))
    value, sort = data.draw(snapshot_filters), data.draw(snapshot_sorts)
    end, size = data.draw(st.sampled_from(["first", "last"])), data.draw(st.integers(0, 8))
    offset = data.draw(st.integers(0, 5)) if end == "first" else 0
    variables = {"filter": value, "sort": sort, end: size, **({"offset": offset} if end == "first" else {})}
    together = gateway.ask(f"query ({VARIABLES}) {{ machines(first: 50) {{ nodes {{ id {PAGE} }} }} }}", **variables)
    for node in together["machines"]["nodes"]:
        mine = [row for row in world.snapshots if row["machine"]["id"] == node["id"] and model.snapshot(row, value)]
        rows = ordered(mine, sort, SORTS)
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
    one = data.draw(st.sampled_from(together["machines"]["nodes"]))
    alone = f"query ($id: ID!, {VARIABLES}) {{ node(id: $id) {{ ... on Machine {{ id {PAGE} }} }} }}"
    assert gateway.ask(alone, id=one["id"], **variables)["node"] == one


@pytest.mark.parametrize("kind", SLOW_KINDS)
@given(data=st.data())
@settings(max_examples=max(4, EXAMPLES // 10))
def test_walks_while_rows_come_and_go(databases: Databases, kind: str, data: st.DataObject) -> None:
    """Nothing is seen twice, order holds, and what was there all the time is seen."""
    with served(Settings(database_url=databases.new(kind))) as gateway:
        world = planted(gateway)
        sort = data.draw(snapshot_sorts)
        forward = data.draw(st.booleans())
        there_from_the_start = set(ids(world.snapshots))
        seen: list[str] = []
        cursor = None
        while True:
            size = data.draw(st.integers(5, 30))
            arguments = {"first": size, "after": cursor} if forward else {"last": size, "before": cursor}
            page = gateway.ask(ALL, sort=sort, **arguments)["snapshots"]
            found = [edge["node"]["id"] for edge in page["edges"]]
            seen += found if forward else found[::-1]
            info = page["pageInfo"]
            if not info["hasNextPage" if forward else "hasPreviousPage"]:
                break
            cursor = info["endCursor" if forward else "startCursor"]
            there_from_the_start -= _change(gateway, world, data.draw(st.integers(0, 4)))
        assert len(seen) == len(set(seen))
        assert there_from_the_start <= set(seen)
        still_there = [row for row in world.snapshots if row["id"] in set(seen)]
        in_order = ids(ordered(still_there, sort, SORTS))
        assert [id_ for id_ in seen if id_ in set(in_order)] == (in_order if forward else in_order[::-1])


def _change(gateway: Served, world: World, count: int) -> set[str]:
    """Adds and removes snapshots; what was removed."""
    removed = set()

    async def change() -> None:
        for _ in range(count):
            await gateway.gateway.database.write(world.add_snapshot)
            leaf = await gateway.gateway.database.write(world.remove_leaf)
            if leaf is not None:
                removed.add(leaf["id"])

    gateway.run(change())
    return removed
