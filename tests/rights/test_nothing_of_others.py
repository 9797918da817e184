"""Nothing of another tenant's, and nothing of a kind that may not be read, is seen, counted, reached or named.

Held in its strongest form: whoever may see a part of a database is answered, to the byte, as where there is only that
part. Which roles narrow in the one, allow everything in the other, so the two are also told by different SQL.
"""

import os
import random
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

import httpx2
import pytest
from graphql import parse, validate
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.rest import regexes
from gateway.store.database import Transaction
from tests.databases import SLOW_KINDS, Databases
from tests.graphql import asking
from tests.graphql.following import by_sse
from tests.reads import test_laws  # noqa: F401 - loads the profile that bounds the examples
from tests.rights.strategies import KINDS as COLLECTIONS
from tests.rights.strategies import SCHEMA, Curious, pages, rest_requests, wishes
from tests.rights.views import View, Views, viewed
from tests.rights.world import FIRST_EVENT, World
from tests.serving import Served

HALF = int(os.environ.get("GATEWAY_TEST_EXAMPLES", "20")) // 2  # each is asked by five, at two gateways
SEED = int(os.environ.get("GATEWAY_TEST_SEED", "1"))


@pytest.fixture(scope="module", params=SLOW_KINDS)
def views(request: pytest.FixtureRequest, databases: Databases) -> Iterator[Views]:
    """Whatever is asked by a test of the module changes nothing, and at the end that is looked at."""
    with viewed(databases, request.param, World(SEED)) as views:
        before = [inventory(gateway) for gateway in views.gateways]
        yield views
        assert [inventory(gateway) for gateway in views.gateways] == before


def inventory(gateway: Served) -> dict[str, list[str]]:
    """Every row of what there is to be seen and done, keys and events included."""
    found = asking.dump(gateway)
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


def a_list(name: str) -> str:
    """The query of a list, whole with all that hangs from it."""
    noun = _LISTS[name]
    return f"""query ($filter: {noun}Filter, $sort: [{noun}Sort!], $first: Int, $last: Int, $after: String,
        $before: String, $offset: Int) {{ {name}({_PAGE}) {{
        totalCount edges {{ cursor node {{ {_ROW[noun]} }} }}
        pageInfo {{ hasNextPage hasPreviousPage startCursor endCursor }} }} }}"""


def cursors(client: httpx2.Client, name: str, sort: Any) -> list[str]:
    """Of everything that somebody sees in a list."""
    query = f"query ($sort: [{_LISTS[name]}Sort!]) {{ {name}(sort: $sort, first: 1000) {{ edges {{ cursor }} }} }}"
    answer = client.post("/graphql", json={"query": query, "variables": {"sort": sort}}).json()
    return [edge["cursor"] for edge in answer["data"][name]["edges"]]


def test_random_queries(views: Views) -> None:
    """Walked out of the schema, so that a new field is among them."""
    places = [cursor for other in views.others for name in _LISTS for cursor in cursors(other, name, None)]
    queries = Curious(views.world, places, SEED)
    asked = 0
    for _ in range(HALF):
        query, variables = queries.next()
        if validate(SCHEMA, parse(query)):
            continue  # fields that cannot be merged, which only the validator can tell
        for view in views.views:
            view.ask(query, **variables)
        asked += 1
    assert asked > HALF // 3


@given(data=st.data())
@settings(max_examples=HALF)
def test_random_lists(views: Views, data: st.DataObject) -> None:
    """Their filters name anything, and their pages begin at places that only others could know."""
    name = data.draw(st.sampled_from(sorted(_LISTS)))
    page = data.draw(pages(f"{_LISTS[name]}Sort", views.world))
    if "offset" not in page:
        known = [cursor for other in views.others for cursor in cursors(other, name, page["sort"])]
        for end in data.draw(st.sets(st.sampled_from(["after", "before"]))):
            page[end] = data.draw(st.sampled_from(known))
    for view in views.views:
        view.ask(a_list(name), **page)


def test_there_is_something_to_be_seen(views: Views) -> None:
    """What is held to be equal is not empty."""
    counts = {
        view.seen.name: [view.ask(a_list(name))["data"][name]["totalCount"] for name in _LISTS] for view in views.views
    }
    everything = counts.pop("everything-acme")
    assert min(everything) > 5
    for name, seen in counts.items():
        expected = {"vms-acme": [everything[0], 0], "instances-acme": [0, everything[1]]}.get(name, [0, 0])
        assert seen[:2] == expected
        assert seen[2] == sum(expected)
    assert counts["vms-acme"][3] + counts["instances-acme"][3] == everything[3]
    assert counts["vms-acme"][4] + counts["instances-acme"][4] == everything[4]


# ---- GraphQL: mutations and subscriptions

_MUTATIONS = {
    "createSnapshot": asking.CREATE,
    "createSnapshots": asking.CREATE_SEVERAL,
    "revertVmSnapshot": asking.REVERT,
    "deleteSnapshots": asking.DELETE,
    "refreshMachine": asking.REFRESH,
    "cancelOperation": asking.CANCEL,
}


@given(data=st.data())
def test_random_wishes(views: Views, data: st.DataObject) -> None:
    name, wish = data.draw(wishes(views.world))
    for view in views.views:
        view.ask(_MUTATIONS[name], input=wish)


UPDATED = "subscription ($id: ID!) { operationUpdated(id: $id) { id state machine { id } snapshot { id name } } }"


@given(data=st.data())
def test_operations_that_are_followed(views: Views, data: st.DataObject) -> None:
    id_ = data.draw(st.sampled_from(views.world.ids("operations")))
    body = {"query": UPDATED, "variables": {"id": id_}}
    for view in views.views:
        view.same("POST", "/graphql", json=body, headers={"accept": "text/event-stream"})


class Subscriber(NamedTuple):
    """As `by_sse` wants one."""

    http: httpx2.Client


CHANGED = """subscription ($machineId: ID) { snapshotChanged(machineId: $machineId) { kind snapshotId machine { id }
    snapshot { id name machine { id } } snapshotEdge { cursor } deletedSnapshotId } }"""


def told(client: httpx2.Client, last: str, members: dict[str, Any]) -> list[Any]:
    """What a subscriber of all snapshots is told, up to a change of the snapshot `last`."""
    found = []
    with by_sse(Subscriber(client), CHANGED, members=members) as bodies:
        for body in bodies:
            assert "errors" not in body, body
            found.append(body)
            if body["data"]["snapshotChanged"]["snapshotId"] == last:
                return found
    raise AssertionError("the stream has ended")


@given(data=st.data())
def test_changes_that_were_missed(views: Views, data: st.DataObject) -> None:
    view = data.draw(st.sampled_from([view for view in views.views if view.seen.parts]))
    last = views.world.last_event(view.seen.parts)
    mine = [row["id"] for row in views.world.events if row["part"] in view.seen.parts and row["id"] < last["id"]]
    after = data.draw(st.sampled_from([FIRST_EVENT, *mine]))
    answers = [
        told(client, last["shown_id"], {"extensions": {"lastEventId": f"{transaction}-{after}"}})
        for client, transaction in ((view.mixed, _transaction(views)), (view.alone, 0))
    ]
    for body in [*answers[0], *answers[1]]:
        body["extensions"]["eventId"] = body["extensions"]["eventId"].partition("-")[2]
    assert answers[0] == answers[1]


def _transaction(views: Views) -> int:
    return 0 if views.gateways[0].gateway.database.dialect == "sqlite" else 1


# ---- REST


@given(data=st.data())
@settings(max_examples=HALF)
def test_random_requests_of_rest(views: Views, data: st.DataObject) -> None:
    method, path, request = data.draw(rest_requests(views.world))
    for view in views.views:
        if _is_closed(view, path) and method != "OPTIONS" and not _is_no_action(path, request):
            answer = view.mixed.request(method, f"/api{path}", **request)
            assert answer.status_code == 403
            assert answer.json()["error"]["message"].endswith(" is forbidden")
        else:
            view.same(method, f"/api{path}", **request)


def test_the_work_of_regular_expressions_is_counted_of_what_is_seen(
    views: Views, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit, as low as what is seen, is not reached by what is not."""
    params = {"filter[]": "snapshots.name=~/test/", "expand": "resources", "attributes": "id"}
    for view in views.views[:2]:
        seen = view.ask("{ snapshots { totalCount } }")["data"]["snapshots"]["totalCount"]
        for limit, status in ((seen, 200), (seen - 1, 400)):
            monkeypatch.setattr(regexes, "MOST_ROWS", limit)
            assert view.same("GET", "/api/vms", params=params).status_code == status


def _is_closed(view: View, path: str) -> bool:
    """Whether the role has no rights on this kind at all, which ManageIQ's clients are told before anything else."""
    kind = COLLECTIONS.get(path.split("/")[1])
    closed = {"vms": "INSTANCE", "instances": "VM"}.get(view.seen.role)
    return kind is not None and (view.seen.role == "blind" or kind == closed)


def _is_no_action(path: str, request: dict[str, Any]) -> bool:
    """There is no such thing as to revert an Instance, whoever asks."""
    action: str = request.get("json", {}).get("action", "")
    return path.startswith("/instances") and action == "revert"


# ---- changes


@pytest.mark.parametrize("kind", SLOW_KINDS)
def test_changes_that_go_on(databases: Databases, kind: str) -> None:
    """Everything changes, in one order; each is told of theirs alone."""
    world = World(SEED)
    order = random.Random(SEED).sample(world.snapshots, len(world.snapshots))
    with viewed(databases, kind, world) as views, ExitStack() as stack:
        watching = [view for view in views.views if view.seen.parts]
        streams = [
            [stack.enter_context(by_sse(Subscriber(client), CHANGED)) for client in (view.mixed, view.alone)]
            for view in watching
        ]
        for gateway in views.gateways:
            gateway.run(gateway.gateway.database.write(lambda tx: _change(tx, [row["id"] for row in order])))
        for view, both in zip(watching, streams, strict=True):
            mine = [row["shown_id"] for row in order if row["part"] in view.seen.parts]
            one, other = ([next(stream) for _ in mine] for stream in both)
            for body in [*one, *other]:
                del body["extensions"]
            assert one == other
            assert [body["data"]["snapshotChanged"]["snapshotId"] for body in one] == mine


async def _change(tx: Transaction, numbers: list[int]) -> None:
    for number in numbers:
        await tx.rows(f"UPDATE snapshot SET description = 'changed' WHERE id = {number}")
