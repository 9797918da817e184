"""Rows of other tenants and of machine kinds without the right to read them are never returned, counted or named.

Tested in its strongest form: a caller that may read one part of a database gets the same responses, byte for byte, as
from a database with only that part. There its role has all rights, so the two gateways execute different SQL.
"""

import random
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import httpx2
import pytest
from graphql import parse, validate
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.rest import regexes
from gateway.store.database import Transaction
from tests.databases import SLOW_KINDS, Databases
from tests.examples import EXAMPLES, SEED
from tests.graphql import client as graphql_client
from tests.graphql.subscription_clients import subscribe_by_sse
from tests.reads.world import Row
from tests.rights.strategies import KINDS as COLLECTIONS
from tests.rights.strategies import SCHEMA, GuessingQueries, mutations, pages, rest_requests
from tests.rights.views import View, Views, viewed
from tests.rights.world import FIRST_EVENT, World
from tests.serving import Served

HALF = EXAMPLES // 2  # each example is sent by five callers to two gateways


@pytest.fixture(scope="module", params=SLOW_KINDS)
def views(request: pytest.FixtureRequest, databases: Databases) -> Iterator[Views]:
    """Asserts at the end of the module that its tests have changed nothing."""
    with viewed(databases, request.param, World(SEED)) as views:
        before = [stored_rows(gateway) for gateway in views.gateways]
        yield views
        assert [stored_rows(gateway) for gateway in views.gateways] == before


def stored_rows(gateway: Served) -> dict[str, list[str]]:
    """All rows of the tables that requests read or write."""
    found = graphql_client.dump(gateway)
    return {name: found[name] for name in ("provider", "machine", "snapshot", "operation", "event", "idempotency_key")}


# ---- GraphQL: queries

_ROW = {
    "Snapshot": """id name isCurrent capabilities { supported reason } parent { id }
        machine { id snapshots(first: 1) { totalCount } currentSnapshot { id } }
        children(first: 2) { totalCount nodes { id } }""",
    "Machine": """id name capabilities { supported reason } snapshots(first: 2, filter: {memory: {eq: true}})
        { totalCount nodes { id } } operations(first: 2) { totalCount nodes { id } }""",
    "Operation": "id kind snapshotId snapshot { id } machine { id name }",
}
_LISTS = {
    "vms": "Machine", "instances": "Machine", "machines": "Machine", "snapshots": "Snapshot", "operations": "Operation",
}  # fmt: skip
_PAGE = "filter: $filter, sort: $sort, first: $first, last: $last, after: $after, before: $before, offset: $offset"


def list_query(name: str) -> str:
    """The query of a list with all relations of its nodes."""
    noun = _LISTS[name]
    return f"""query ($filter: {noun}Filter, $sort: [{noun}Sort!], $first: Int, $last: Int, $after: String,
        $before: String, $offset: Int) {{ {name}({_PAGE}) {{
        totalCount edges {{ cursor node {{ {_ROW[noun]} }} }}
        pageInfo {{ hasNextPage hasPreviousPage startCursor endCursor }} }} }}"""


def cursors(client: httpx2.Client, name: str, sort: Any) -> list[str]:
    """The cursors of all rows that the client finds in a list."""
    query = f"query ($sort: [{_LISTS[name]}Sort!]) {{ {name}(sort: $sort, first: 1000) {{ edges {{ cursor }} }} }}"
    body = client.post("/graphql", json={"query": query, "variables": {"sort": sort}}).json()
    return [edge["cursor"] for edge in body["data"][name]["edges"]]


def test_random_queries(views: Views) -> None:
    """The queries are generated from the schema, so they include new fields."""
    all_cursors = [cursor for other in views.others for name in _LISTS for cursor in cursors(other, name, None)]
    queries = GuessingQueries(views.world, all_cursors, SEED)
    executed = 0
    for _ in range(HALF):
        query, variables = queries.next()
        if validate(SCHEMA, parse(query)):
            continue  # fields that cannot be merged, which only validation detects
        for view in views.views:
            view.ask(query, **variables)
        executed += 1
    assert executed > HALF // 3


@given(data=st.data())
@settings(max_examples=HALF)
def test_random_lists(views: Views, data: st.DataObject) -> None:
    """The filters have ids of all rows, and the pages begin at cursors of rows that the caller may not read."""
    name = data.draw(st.sampled_from(sorted(_LISTS)))
    page = data.draw(pages(f"{_LISTS[name]}Sort", views.world))
    if "offset" not in page:
        known = [cursor for other in views.others for cursor in cursors(other, name, page["sort"])]
        for end in data.draw(st.sets(st.sampled_from(["after", "before"]))):
            page[end] = data.draw(st.sampled_from(known))
    for view in views.views:
        view.ask(list_query(name), **page)


def test_the_compared_responses_are_not_empty(views: Views) -> None:
    counts = {
        view.scope.name: [view.ask(list_query(name))["data"][name]["totalCount"] for name in _LISTS]
        for view in views.views
    }
    everything = counts.pop("everything-acme")
    assert min(everything) > 5
    for name, found in counts.items():
        expected = {"vms-acme": [everything[0], 0], "instances-acme": [0, everything[1]]}.get(name, [0, 0])
        assert found[:2] == expected
        assert found[2] == sum(expected)
    assert counts["vms-acme"][3] + counts["instances-acme"][3] == everything[3]
    assert counts["vms-acme"][4] + counts["instances-acme"][4] == everything[4]


# ---- GraphQL: mutations and subscriptions

_MUTATIONS = {
    "createSnapshot": graphql_client.CREATE,
    "createSnapshots": graphql_client.CREATE_SEVERAL,
    "revertVmSnapshot": graphql_client.REVERT,
    "deleteSnapshots": graphql_client.DELETE,
    "updateSnapshot": graphql_client.UPDATE,
    "refreshMachine": graphql_client.REFRESH,
    "refreshProvider": graphql_client.REFRESH_PROVIDER,
    "cancelOperation": graphql_client.CANCEL,
}


@given(data=st.data())
def test_random_mutations(views: Views, data: st.DataObject) -> None:
    name, input_ = data.draw(mutations(views.world))
    for view in views.views:
        view.ask(_MUTATIONS[name], input=input_)


UPDATED = "subscription ($id: ID!) { operationUpdated(id: $id) { id state machine { id } snapshot { id name } } }"


@given(data=st.data())
def test_subscriptions_to_operations(views: Views, data: st.DataObject) -> None:
    id_ = data.draw(st.sampled_from(views.world.ids("operations")))
    body = {"query": UPDATED, "variables": {"id": id_}}
    for view in views.views:
        view.same("POST", "/graphql", json=body, headers={"accept": "text/event-stream"})


class Subscriber(NamedTuple):
    """The argument of `subscribe_by_sse`."""

    http: httpx2.Client


CHANGED = """subscription ($machineId: ID) { snapshotChanged(machineId: $machineId) { kind snapshotId machine { id }
    snapshot { id name machine { id } } snapshotEdge { cursor } deletedSnapshotId } }"""


def receive(client: httpx2.Client, last: str, members: dict[str, Any]) -> list[Any]:
    """The events of a subscription to all snapshots, up to an event of the snapshot `last`."""
    found = []
    with subscribe_by_sse(Subscriber(client), CHANGED, members=members) as bodies:
        for body in bodies:
            assert "errors" not in body, body
            found.append(body)
            if body["data"]["snapshotChanged"]["snapshotId"] == last:
                return found
    raise AssertionError("The stream has ended.")


@given(data=st.data())
def test_resumed_subscriptions(views: Views, data: st.DataObject) -> None:
    view = data.draw(st.sampled_from([view for view in views.views if view.scope.parts]))
    last = views.world.last_event(view.scope.parts)
    readable = [row["id"] for row in views.world.events if row["part"] in view.scope.parts and row["id"] < last["id"]]
    after = data.draw(st.sampled_from([FIRST_EVENT, *readable]))
    received = [
        receive(client, last["public_id"], {"extensions": {"lastEventId": f"{transaction}-{after}"}})
        for client, transaction in ((view.mixed, _transaction(views)), (view.alone, 0))
    ]
    for body in [*received[0], *received[1]]:
        body["extensions"]["eventId"] = body["extensions"]["eventId"].partition("-")[2]
    assert received[0] == received[1]


def _transaction(views: Views) -> int:
    return 0 if views.gateways[0].gateway.database.dialect == "sqlite" else 1


# ---- REST


@given(data=st.data())
@settings(max_examples=HALF)
def test_random_rest_requests(views: Views, data: st.DataObject) -> None:
    method, path, request = data.draw(rest_requests(views.world))
    for view in views.views:
        if _has_no_right(view, path) and method != "OPTIONS" and not _has_no_such_action(path, request):
            response = view.mixed.request(method, f"/api{path}", **request)
            assert response.status_code == 403
            assert response.json()["error"]["message"].endswith(" is forbidden")
        elif path == "/tasks":
            view.same_rows(f"/api{path}", **request)
        else:
            view.same(method, f"/api{path}", **request)


def test_the_limit_of_regular_expressions_counts_readable_rows(views: Views, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that the caller may not read do not count towards the limit."""
    params = {"filter[]": "snapshots.name=~/test/", "expand": "resources", "attributes": "id"}
    for view in views.views[:2]:
        readable = view.ask("{ snapshots { totalCount } }")["data"]["snapshots"]["totalCount"]
        for limit, status in ((readable, 200), (readable - 1, 400)):
            monkeypatch.setattr(regexes, "MAX_ROWS", limit)
            assert view.same("GET", "/api/vms", params=params).status_code == status


def _has_no_right(view: View, path: str) -> bool:
    """Whether the role has no rights on this kind, which REST reports before all other errors, as ManageIQ does."""
    kind = COLLECTIONS.get(path.split("/")[1])
    unreadable = {"vms": "INSTANCE", "instances": "VM"}.get(view.scope.role)
    return kind is not None and (view.scope.role == "unprivileged" or kind == unreadable)


def _has_no_such_action(path: str, request: dict[str, Any]) -> bool:
    """Whether the request reverts an Instance, an action that does not exist for any caller."""
    action: str = request.get("json", {}).get("action", "")
    return path.startswith("/instances") and action == "revert"


# ---- changes


@pytest.mark.parametrize("kind", SLOW_KINDS)
def test_live_subscriptions(databases: Databases, kind: str) -> None:
    """All snapshots change in one order. Each subscriber receives only the events of readable ones."""
    world = World(SEED)
    order = random.Random(SEED).sample(world.snapshots, len(world.snapshots))
    with viewed(databases, kind, world) as views, ExitStack() as stack:
        subscribed = [view for view in views.views if view.scope.parts]
        streams = [
            [stack.enter_context(subscribe_by_sse(Subscriber(client), CHANGED)) for client in (view.mixed, view.alone)]
            for view in subscribed
        ]
        for gateway in views.gateways:
            gateway.run(gateway.gateway.database.write(lambda tx: _change(tx, [row["id"] for row in order])))
        for view, both in zip(subscribed, streams, strict=True):
            readable = [row["public_id"] for row in order if row["part"] in view.scope.parts]
            one, other = ([next(stream) for _ in readable] for stream in both)
            for body in [*one, *other]:
                del body["extensions"]
            assert one == other
            assert [body["data"]["snapshotChanged"]["snapshotId"] for body in one] == readable


MACHINE_CHANGED = """subscription { machineChanged(filter: {host: {eq: "esx-1"}}) { kind machineId deletedMachineId
    machine { id name description snapshots(first: 1) { totalCount nodes { id } } } } }"""


@pytest.mark.parametrize("kind", SLOW_KINDS)
def test_live_subscriptions_to_machines(databases: Databases, kind: str) -> None:
    """First all machines match the filter, some of which did before, and then none, in one order."""
    world = World(SEED)
    order = random.Random(SEED).sample(world.machines, len(world.machines))
    with viewed(databases, kind, world) as views, ExitStack() as stack:
        subscribed = [view for view in views.views if view.scope.parts]
        streams = [
            [
                stack.enter_context(subscribe_by_sse(Subscriber(client), MACHINE_CHANGED))
                for client in (view.mixed, view.alone)
            ]
            for view in subscribed
        ]
        for host, change in (("esx-1", {"CREATED", "UPDATED"}), ("esx-9", {"REMOVED"})):
            for gateway in views.gateways:
                gateway.run(gateway.gateway.database.write(partial(_move, order, host)))
            for view, both in zip(subscribed, streams, strict=True):
                readable = [row["public_id"] for row in order if row["part"] in view.scope.parts]
                one, other = ([next(stream) for _ in readable] for stream in both)
                for body in [*one, *other]:
                    del body["extensions"]
                assert one == other
                assert [body["data"]["machineChanged"]["machineId"] for body in one] == readable
                assert {body["data"]["machineChanged"]["kind"] for body in one} <= change


async def _move(machines: list[Row], host: str, tx: Transaction) -> None:
    for row in machines:
        await tx.rows(f"UPDATE machine SET host = '{host}', description = 'moved' WHERE id = {row['id']}")


async def _change(tx: Transaction, numbers: list[int]) -> None:
    for number in numbers:
        await tx.rows(f"UPDATE snapshot SET description = 'changed' WHERE id = {number}")
