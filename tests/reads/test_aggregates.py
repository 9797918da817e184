"""`totalBytes` and `unknownSizeCount` of lists of snapshots, compared with a reference model in Python."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config import Settings
from tests.databases import SLOW_KINDS, Databases
from tests.examples import EXAMPLES
from tests.reads.reference_model import ReferenceModel
from tests.reads.strategies import filters
from tests.reads.world import Row, World, ids, populate
from tests.serving import Served, served

LARGEST = 2**63 - 1


class PopulatedGateway(NamedTuple):
    gateway: Served
    world: World
    model: ReferenceModel


@pytest.fixture(scope="module", params=SLOW_KINDS)
def populated(request: pytest.FixtureRequest, databases: Databases) -> Iterator[PopulatedGateway]:
    with served(Settings(database_url=databases.new(request.param), keep_gone=1e9)) as gateway:
        world = populate(gateway)
        yield PopulatedGateway(gateway, world, ReferenceModel(world.snapshots))


def expected(rows: Sequence[Row]) -> dict[str, Any]:
    """The aggregates of these snapshots, and their number."""
    sizes = [row["size_bytes"] for row in rows]
    known = [size for size in sizes if size is not None]
    return {
        "totalBytes": str(min(sum(known), LARGEST)),
        "unknownSizeCount": len(sizes) - len(known),
        "totalCount": len(sizes),
    }


AGGREGATES = "totalBytes unknownSizeCount totalCount"
QUERY = f"""query ($filter: SnapshotFilter, $machine: ID!) {{
    all: snapshots(filter: $filter, first: 0) {{ {AGGREGATES} }}
    page: snapshots(filter: $filter, first: 2, offset: 1) {{
        nodes {{ id }} pageInfo {{ hasPreviousPage hasNextPage }} {AGGREGATES} again: totalBytes }}
    unfiltered: snapshots {{ {AGGREGATES} nodes {{ children(filter: $filter) {{ {AGGREGATES} }} }} }}
    machines {{ nodes {{ id snapshots(filter: $filter, first: 1) {{ {AGGREGATES} nodes {{ id }} }}
        unfiltered: snapshots(first: 0) {{ {AGGREGATES} }} }} }}
    machine(id: $machine) {{ id snapshots(filter: $filter, first: 1) {{ {AGGREGATES} nodes {{ id }} }}
        unfiltered: snapshots(first: 0) {{ {AGGREGATES} }} }} }}"""


@given(data=st.data())
@settings(max_examples=max(8, EXAMPLES // 2))
def test_aggregates_are_those_of_all_that_match(populated: PopulatedGateway, data: st.DataObject) -> None:
    gateway, world, model = populated
    snapshot_filters, _ = filters(ids(world.snapshots), ids(world.machines))
    value, one = data.draw(snapshot_filters), data.draw(st.sampled_from(ids(world.machines)))
    found = gateway.ask(QUERY, filter=value, machine=one)
    rows = [row for row in world.snapshots if model.snapshot(row, value)]
    assert found["all"] == expected(rows)
    page = found["page"]
    assert page.pop("again") == page["totalBytes"]
    assert page.pop("pageInfo") == {"hasPreviousPage": bool(rows), "hasNextPage": len(rows) > 3}
    assert len(page.pop("nodes")) == min(2, max(0, len(rows) - 1))
    assert page == expected(rows)
    children = found["unfiltered"].pop("nodes")
    assert found["unfiltered"] == expected(world.snapshots)
    newest = sorted(world.snapshots, key=lambda row: (row["created_at"], row["number"]), reverse=True)
    assert [child["children"] for child in children] == [
        expected([row for row in rows if row["parent_id"] == parent["number"]]) for parent in newest[:50]
    ]
    for machine in [*found["machines"]["nodes"], found["machine"]]:
        own = [row for row in world.snapshots if row["machine"]["id"] == machine["id"]]
        matching = [row for row in own if model.snapshot(row, value)]
        assert len(machine["snapshots"].pop("nodes")) == min(1, len(matching))
        assert machine["snapshots"] == expected(matching)
        assert machine["unfiltered"] == expected(own)
    assert found["machine"]["id"] == one


@pytest.mark.parametrize(
    ("sizes", "total"),
    [
        ((), 0),
        ((None,), 0),
        ((2**62, 2**62 - 1), LARGEST),
        ((2**62, 2**62), LARGEST),
        ((LARGEST,) * 5, LARGEST),
        ((2**53 + 1, 2**32, 1, 0), 2**53 + 2**32 + 2),
    ],
)
@pytest.mark.parametrize("kind", SLOW_KINDS)
def test_sums_are_exact_and_end_at_the_largest_number(
    databases: Databases, kind: str, sizes: Sequence[int | None], total: int
) -> None:
    with served(Settings(database_url=databases.new(kind))) as gateway:
        world = populate(gateway)
        machine = world.machines[-1]  # it has no snapshots yet
        values = ", ".join(
            f"('default', {machine['number']}, 'big', 'big', 'READY', FALSE, FALSE,"
            f" {'NULL' if size is None else size}, '2026-01-01T00:00:00.000000Z')"
            for size in sizes
        )
        columns = "tenant, machine_id, name, name_folded, state, memory, is_current, size_bytes, created_at"
        if sizes:
            gateway.run(
                gateway.gateway.database.write(lambda tx: tx.rows(f"INSERT INTO snapshot ({columns}) VALUES {values}"))
            )
        query = """query ($id: ID!) { snapshots(filter: {name: {eq: "big"}}) { totalBytes }
            machine(id: $id) { snapshots { totalBytes } } machines { nodes { id snapshots { totalBytes } } } }"""
        found = gateway.ask(query, id=machine["id"])
        shown = {"totalBytes": str(total)}
        assert found["machine"]["snapshots"] == found["snapshots"] == shown
        assert [row["snapshots"] for row in found["machines"]["nodes"] if row["id"] == machine["id"]] == [shown]
