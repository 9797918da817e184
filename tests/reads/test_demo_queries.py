"""The queries of the README and other simple ones, on the demo data."""

from tests.graphql.client import set_latency
from tests.serving import Served

PAGE = """
query ($after: String) { vm(id: "vm-11") { name snapshots(
    filter: {name: {like: "test*"}}, sort: [{field: CREATED_AT, direction: DESC}], first: 2, after: $after
) { totalCount edges { cursor node { id name memory isCurrent parent { id } } } pageInfo { hasNextPage endCursor } } } }
"""


def test_a_machine_and_two_pages_of_its_snapshots(demo: Served) -> None:
    first = demo.ask(PAGE)["vm"]
    assert first["name"] == "web-01"
    assert first["snapshots"]["totalCount"] == 3
    assert [edge["node"]["id"] for edge in first["snapshots"]["edges"]] == ["snapshot-5", "snapshot-4"]
    assert first["snapshots"]["pageInfo"]["hasNextPage"] is True
    assert first["snapshots"]["pageInfo"]["endCursor"] == first["snapshots"]["edges"][-1]["cursor"]
    second = demo.ask(PAGE, after=first["snapshots"]["pageInfo"]["endCursor"])["vm"]["snapshots"]
    assert [edge["node"] for edge in second["edges"]] == [
        {"id": "snapshot-3", "name": "test-base", "memory": False, "isCurrent": False, "parent": None}
    ]
    assert second["totalCount"] == 3
    assert second["pageInfo"]["hasNextPage"] is False


def test_a_created_snapshot_becomes_current(demo: Served) -> None:
    set_latency(demo, 0)
    created = demo.ask(
        'mutation { createSnapshot(input: {machineId: "vm-11", name: "  by hand "}) {'
        " operation { id state } snapshot { id name state } errors { code } } }"
    )["createSnapshot"]
    assert created["errors"] == []
    assert created["snapshot"]["name"] == "by hand"
    operation = demo.await_operation(created["operation"]["id"])
    assert operation["state"] == "SUCCEEDED"
    assert operation["snapshotId"] == created["snapshot"]["id"]
    vm = demo.ask('{ vm(id: "vm-11") { currentSnapshot { id parent { id } } } }')["vm"]
    assert vm["currentSnapshot"] == {"id": created["snapshot"]["id"], "parent": {"id": "snapshot-4"}}
