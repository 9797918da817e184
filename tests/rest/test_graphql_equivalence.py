"""REST and GraphQL return the same rows for equivalent requests, and send the same number of statements.

There is one exception. For a filtered list and its unfiltered count, GraphQL selects two lists of one machine, which
PostgreSQL does not load together with the machine. REST selects one list, which it does, and takes the unfiltered
count from the machine's counter. So on PostgreSQL REST sends one statement less.
"""

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import Settings
from tests.databases import SLOW_KINDS, Databases
from tests.reads.world import World, populate
from tests.rest.strategies import Request, across, machine_pairs, requests, snapshot_pairs, texts
from tests.rest.world import Rest, rest_served
from tests.statement_counts import count_statements_by_request


class PopulatedGateway(NamedTuple):
    rest: Rest
    world: World
    vm: int  # the number of a Vm with many snapshots


@pytest.fixture(scope="module", params=SLOW_KINDS)
def world(request: pytest.FixtureRequest, databases: Databases) -> Iterator[PopulatedGateway]:
    with rest_served(Settings(database_url=databases.new(request.param))) as rest:
        found = populate(rest.gateway)
        # No text has several lines, in which Ruby's anchors would match elsewhere.
        yield PopulatedGateway(rest, found, next(row["number"] for row in found.machines if row["kind"] == "VM"))


SNAPSHOTS = "query ($id: ID!, $filter: SnapshotFilter) { vm(id: $id) { snapshots(filter: $filter) { nodes { id } } } }"
MACHINES = "query ($filter: MachineFilter) { vms(filter: $filter) { nodes { id } } }"


def numbers(nodes: list[dict[str, str]]) -> list[str]:
    return [node["id"].rpartition("-")[2] for node in nodes]


@cache  # Hypothesis analyzes each new strategy, which takes longer than the test
def snapshot_requests(*snapshot_ids: int) -> st.SearchStrategy[Request]:
    machine = across("vm_or_template", "machine", texts("name", "name"))
    return requests(st.one_of(snapshot_pairs(snapshot_ids), machine))


@given(data=st.data())
def test_snapshot_filters_equal_graphql(world: PopulatedGateway, data: st.DataObject) -> None:
    own = (row["number"] for row in world.world.snapshots if row["machine"]["number"] == world.vm)
    filters, equivalent = data.draw(snapshot_requests(*own))
    expected = world.rest.gateway.ask(SNAPSHOTS, id=f"vm-{world.vm}", filter=equivalent)["vm"]["snapshots"]["nodes"]
    assert world.rest.ids(f"/vms/{world.vm}/snapshots", filter=filters) == numbers(expected)


@given(request=requests(machine_pairs(snapshot_pairs([1, 2, 3]))))
def test_machine_filters_equal_graphql(world: PopulatedGateway, request: Request) -> None:
    filters, equivalent = request
    expected = world.rest.gateway.ask(MACHINES, filter=equivalent)["vms"]["nodes"]
    assert world.rest.ids("/vms", filter=filters) == numbers(expected)


QUERIES = [
    (
        "/vms/11/snapshots?expand=resources&filter[]=name='test*'&sort_by=name&limit=2&offset=1",
        """{ vm(id: "vm-11") { all: snapshots(first: 0) { totalCount }
        snapshots(filter: {name: {like: "test*"}}, sort: [{field: NAME}], first: 2, offset: 1)
        { totalCount nodes { id name description sizeBytes capabilities { action } } } } }""",
    ),
    (
        "/vms/11/snapshots?expand=resources",
        '{ vm(id: "vm-11") { snapshots(first: 1000) { totalCount nodes { id name capabilities { action } } } } }',
    ),
    (
        "/vms?expand=resources,snapshots&limit=5",
        "{ vms(first: 5) { totalCount nodes { id name snapshots(first: 1000) { nodes { id name } } } } }",
    ),
    (
        "/vms?filter[]=host.name=esx-01",
        """{ vms(first: 1000, filter: {host: {eq: "esx-01"}}) { totalCount nodes { id } }
        all: vms(first: 0) { totalCount } }""",
    ),
    ("/tasks?limit=3&expand=resources", "{ operations(first: 3) { totalCount nodes { id state } } }"),
    ("/tasks/1", '{ operation(id: "operation-1") { id state } }'),
    ("/vms/11", '{ vm(id: "vm-11") { id name } }'),
]


@pytest.mark.parametrize(("path", "query"), QUERIES)
def test_statement_counts_equal_graphql(
    shared_both: Rest, monkeypatch: pytest.MonkeyPatch, path: str, query: str
) -> None:
    counts = count_statements_by_request(shared_both.gateway, monkeypatch)
    shared_both.http.get(shared_both.root + path, headers={"x-request-id": "rest"}).raise_for_status()
    answer = shared_both.http.post("/graphql", json={"query": query}, headers={"x-request-id": "graphql"})
    assert "errors" not in answer.json()
    saved = "all: snapshots(" in query and shared_both.gateway.gateway.database.dialect == "postgresql"
    assert counts["rest"] == counts["graphql"] - saved > 0
