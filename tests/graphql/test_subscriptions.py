"""Subscriptions over server-sent events and graphql-transport-ws: complete, in order, from the time of subscribing."""

from collections.abc import Iterator
from typing import Any

import pytest

from gateway.config import Settings
from tests.databases import SLOW_KINDS, Databases
from tests.graphql.client import (
    CANCEL,
    CREATE,
    DELETE,
    REFRESH,
    REVERT,
    await_final_state,
    await_running,
    execute_sql,
    mutate,
    set_latency,
    stalled,
)
from tests.graphql.subscription_clients import Subscribe, subscribe_by_sse, subscribe_by_websocket
from tests.serving import Served, served
from tests.waiting import at_most


@pytest.fixture(scope="module", params=SLOW_KINDS)
def gateway(request: pytest.FixtureRequest, databases: Databases) -> Iterator[Served]:
    settings = Settings(database_url=databases.new(request.param, demo=True), drain_timeout=0.1)
    with served(settings) as gateway:
        set_latency(gateway, 0)
        yield gateway


UPDATED = """subscription ($id: ID!) { operationUpdated(id: $id) {
    id kind state isDone snapshotId machine { id } snapshot { id state isCurrent } error { code providerMessage } } }"""


@pytest.mark.parametrize("subscribe", [subscribe_by_sse, subscribe_by_websocket])
def test_operation_updated_until_the_final_state(gateway: Served, subscribe: Subscribe) -> None:
    with stalled(gateway, "vm-11"):
        payload = mutate(gateway, CREATE, machineId="vm-11", name="subscribed")
        operation, snapshot = payload["operation"]["id"], payload["snapshot"]["id"]
        await_running(gateway, operation)
        with subscribe(gateway, UPDATED, id=operation) as bodies:
            first = next(bodies)["data"]["operationUpdated"]
            common = {
                "id": operation,
                "kind": "CREATE_SNAPSHOT",
                "snapshotId": snapshot,
                "machine": {"id": "vm-11"},
                "error": None,
            }
            running = {"state": "RUNNING", "isDone": False}
            assert first == common | running | {"snapshot": {"id": snapshot, "state": "CREATING", "isCurrent": False}}
            with stalled(gateway, "vm-11"):
                pass  # lets the work finish
            rest = [body["data"]["operationUpdated"] for body in bodies]
    last = {"state": "SUCCEEDED", "isDone": True, "snapshot": {"id": snapshot, "state": "READY", "isCurrent": True}}
    assert rest[-1] == common | last
    assert all(row == first for row in rest[:-1])
    with subscribe(gateway, UPDATED, id=operation) as bodies:
        assert [body["data"]["operationUpdated"] for body in bodies] == [common | last]
    (result,) = mutate(gateway, DELETE, ids=[snapshot])["results"]
    assert await_final_state(gateway, result["operation"]["id"]) == ("SUCCEEDED", None)


NO_OPERATOR = (
    "filter.state: An operator is missing, such as {eq: …}. If its value is a variable that may be omitted, pass the"
    " whole filter as one variable."
)


@pytest.mark.parametrize("subscribe", [subscribe_by_sse, subscribe_by_websocket])
@pytest.mark.parametrize(
    ("query", "variables", "error"),
    [
        (UPDATED, {"id": "operation-999999"}, ("NOT_FOUND", "Operation 'operation-999999' was not found.")),
        (UPDATED, {"id": "vm-11"}, ("NOT_FOUND", "Operation 'vm-11' was not found.")),
        (UPDATED, {"id": "x"}, (
            "BAD_USER_INPUT", "'x' is not an id. Ids look like vm-11, instance-201, snapshot-3 or operation-7.")),
        ("subscription ($id: ID!) { operationUpdated(id: $id) { machine { snapshots(first: 1001) { totalCount } } } }",
         {"id": "operation-1"}, ("BAD_USER_INPUT", "`first` must be between 0 and 1000, not 1001.")),
        ('subscription { operationChanged(filter: {state: {}}) { id } }', {}, (
            "BAD_USER_INPUT", NO_OPERATOR)),
        ('subscription { operationChanged(filter: {machineId: {eq: "11"}}) { id } }', {}, (
            "BAD_USER_INPUT",
            "filter.machineId.eq: '11' is not an id. Ids look like vm-11, instance-201, snapshot-3 or operation-7.")),
        ('subscription { snapshotChanged(machineId: "vm-999") { kind } }', {}, (
            "NOT_FOUND", "Machine 'vm-999' was not found.")),
        ('subscription { snapshotChanged(machineId: "vm-201") { kind } }', {}, (
            "NOT_FOUND", "Machine 'vm-201' was not found.")),
        ('subscription { snapshotChanged(machineId: "snapshot-3") { kind } }', {}, (
            "NOT_FOUND", "Machine 'snapshot-3' was not found.")),
        ('subscription { snapshotChanged(machineId: "") { kind } }', {}, (
            "BAD_USER_INPUT", "'' is not an id. Ids look like vm-11, instance-201, snapshot-3 or operation-7.")),
        ("subscription { nope }", {}, (
            "GRAPHQL_VALIDATION_FAILED", "Cannot query field 'nope' on type 'Subscription'.")),
        ("subscription { a: snapshotChanged { kind } b: snapshotChanged { kind } }", {}, (
            "GRAPHQL_VALIDATION_FAILED", "Anonymous Subscription must select only one top level field.")),
    ],
    ids=range(12),
)  # fmt: skip
def test_invalid_subscriptions(
    gateway: Served, subscribe: Subscribe, query: str, variables: dict[str, Any], error: tuple[str, str]
) -> None:
    with subscribe(gateway, query, **variables) as bodies:
        (body,) = bodies
    (found,) = body["errors"]
    assert (found["extensions"]["code"], found["message"]) == error
    assert "data" not in body or body["data"] is None


def test_client_that_accepts_json_receives_request_errors_as_json(gateway: Served) -> None:
    headers = {"accept": "text/event-stream, application/json"}
    body = {"query": UPDATED, "variables": {"id": "operation-999999"}}
    answer = gateway.http.post("/graphql", json=body, headers=headers)
    assert answer.status_code == 400
    (error,) = answer.json()["errors"]
    assert error["message"] == "Operation 'operation-999999' was not found."
    assert error["path"] == ["operationUpdated"]
    assert error["extensions"] == {"code": "NOT_FOUND"}


CHANGED = """subscription ($filter: OperationFilter) { operationChanged(filter: $filter) {
    id kind state snapshotName machine { id } } }"""


@pytest.mark.parametrize("subscribe", [subscribe_by_sse, subscribe_by_websocket])
def test_operation_changed_with_a_filter(gateway: Served, subscribe: Subscribe) -> None:
    """Only the deletions on one machine are sent."""
    filter = {"machineId": {"eq": "vm-12"}, "kind": {"eq": "DELETE_SNAPSHOT"}}
    with subscribe(gateway, CHANGED, filter=filter) as bodies, stalled(gateway, "vm-12"):
        create = mutate(gateway, CREATE, machineId="vm-12", name="not subscribed")
        other = mutate(gateway, DELETE, ids=[leaf(gateway, "vm-13")])["results"][0]["operation"]["id"]
        assert await_final_state(gateway, other) == ("SUCCEEDED", None)
        delete = mutate(gateway, DELETE, ids=[leaf(gateway, "vm-12")])["results"][0]
        seen = next(bodies)["data"]["operationChanged"]
        assert seen == {
            "id": delete["operation"]["id"],
            "kind": "DELETE_SNAPSHOT",
            "state": "QUEUED",
            "snapshotName": delete["snapshot"]["name"],
            "machine": {"id": "vm-12"},
        }
        assert mutate(gateway, CANCEL, operationId=seen["id"])["errors"] == []
        assert next(bodies)["data"]["operationChanged"] == seen | {"state": "CANCELED"}
    assert await_final_state(gateway, create["operation"]["id"]) == ("SUCCEEDED", None)


def leaf(gateway: Served, machine: str) -> str:
    """The id of a READY snapshot of the machine without children."""
    query = (
        "query ($id: ID!) { node(id: $id) { ... on Machine { snapshots(filter: {state: {eq: READY}})"
        " { nodes { id children(first: 0) { totalCount } } } } } }"
    )
    nodes = gateway.ask(query, id=machine)["node"]["snapshots"]["nodes"]
    found: str = next(node["id"] for node in nodes if node["children"]["totalCount"] == 0)
    return found


SNAPSHOTS = """subscription ($machineId: ID) { snapshotChanged(machineId: $machineId) {
    kind snapshotId machine { id } snapshot { id name state } snapshotEdge { cursor node { id } }
    deletedSnapshotId } }"""


@pytest.mark.parametrize("subscribe", [subscribe_by_sse, subscribe_by_websocket])
@pytest.mark.parametrize("fleet", [False, True], ids=["machine", "fleet"])
def test_snapshot_changed(gateway: Served, subscribe: Subscribe, fleet: bool) -> None:
    """CREATED; UPDATED when it becomes READY, is reverted to and is being deleted; DELETED. No other machines."""
    machine = "vm-15"
    with subscribe(gateway, SNAPSHOTS, machineId=None if fleet else machine) as bodies:
        if not fleet:
            elsewhere = mutate(gateway, CREATE, machineId="vm-38", name="elsewhere")
            assert await_final_state(gateway, elsewhere["operation"]["id"]) == ("SUCCEEDED", None)
        payload = mutate(gateway, CREATE, machineId=machine, name="watched")
        snapshot = payload["snapshot"]["id"]
        assert await_final_state(gateway, payload["operation"]["id"]) == ("SUCCEEDED", None)
        revert = mutate(gateway, REVERT, snapshotId=snapshot)
        assert await_final_state(gateway, revert["operation"]["id"]) == ("SUCCEEDED", None)
        delete = mutate(gateway, DELETE, ids=[snapshot])["results"][0]
        assert await_final_state(gateway, delete["operation"]["id"]) == ("SUCCEEDED", None)
        mine = []
        for body in bodies:
            change = body["data"]["snapshotChanged"]
            assert change["machine"] == {"id": machine}
            if change["snapshotId"] == snapshot:
                mine.append(change)
                if change["kind"] == "DELETED":
                    break
    assert mine[-1] == {
        "kind": "DELETED",
        "snapshotId": snapshot,
        "machine": {"id": machine},
        "snapshot": None,
        "snapshotEdge": None,
        "deletedSnapshotId": snapshot,
    }
    for change in mine[:-1]:
        assert change["deletedSnapshotId"] is None
        assert change["snapshot"]["name"] == "watched"
        assert change["snapshotEdge"]["node"] == {"id": snapshot}
    kinds = [change["kind"] for change in mine]
    assert kinds[0] == "CREATED"
    assert kinds[1:] == ["UPDATED"] * (len(kinds) - 2) + ["DELETED"]


def test_every_state_of_a_snapshot_is_sent(gateway: Served) -> None:
    """The work is stalled at each step, so that every state is observed."""
    with subscribe_by_sse(gateway, SNAPSHOTS, machineId="vm-18") as bodies:

        def expect(kind: str, state: str | None, *, after: str | None = None) -> None:
            """Waits for a change. Before it, a change with the state `after` may be sent repeatedly."""
            for _ in at_most(1_000):
                change = next(bodies)["data"]["snapshotChanged"]
                if change["snapshotId"] != snapshot:
                    continue
                found = change["snapshot"] and change["snapshot"]["state"]
                if (change["kind"], found) == (kind, state):
                    break
                assert (change["kind"], found) == ("UPDATED", after)

        with stalled(gateway, "vm-18"):
            payload = mutate(gateway, CREATE, machineId="vm-18", name="watched")
            snapshot = payload["snapshot"]["id"]
            expect("CREATED", "CREATING")
        expect("UPDATED", "READY", after="CREATING")
        assert await_final_state(gateway, payload["operation"]["id"]) == ("SUCCEEDED", None)
        with stalled(gateway, "vm-18"):
            operation = mutate(gateway, REVERT, snapshotId=snapshot)["operation"]["id"]
            expect("UPDATED", "REVERTING", after="READY")
        expect("UPDATED", "READY", after="REVERTING")
        assert await_final_state(gateway, operation) == ("SUCCEEDED", None)
        with stalled(gateway, "vm-18"):
            operation = mutate(gateway, DELETE, ids=[snapshot])["results"][0]["operation"]["id"]
            expect("UPDATED", "DELETING", after="READY")
        expect("DELETED", None, after="DELETING")
        assert await_final_state(gateway, operation) == ("SUCCEEDED", None)


def test_snapshot_deleted_on_the_provider(gateway: Served) -> None:
    query = "subscription { snapshotChanged { kind deletedSnapshotId machine { id } } }"
    with subscribe_by_sse(gateway, query) as bodies:
        execute_sql(gateway, "DELETE FROM simulated_snapshot WHERE ref = 'snapshot-1565'")
        mutate(gateway, REFRESH, machineId="instance-221")
        change = {"kind": "DELETED", "deletedSnapshotId": "snapshot-565", "machine": {"id": "instance-221"}}
        assert next(bodies)["data"] == {"snapshotChanged": change}
