"""What is followed, over server-sent events and graphql-transport-ws: all of it, in order, from the right moment."""

from collections.abc import Iterator
from typing import Any

import pytest

from gateway.config import Settings
from tests.databases import KINDS, Databases
from tests.graphql.asking import (
    CANCEL,
    CREATE,
    DELETE,
    REFRESH,
    REVERT,
    await_work,
    ended,
    execute,
    held,
    latency,
    wish,
)
from tests.graphql.following import Follow, by_sse, by_websocket
from tests.serving import Served, served


@pytest.fixture(scope="module", params=KINDS)
def gateway(request: pytest.FixtureRequest, databases: Databases) -> Iterator[Served]:
    settings = Settings(database_url=databases.new(request.param), drain_timeout=0.1)
    with served(settings, demo=True) as gateway:
        latency(gateway, 0)
        yield gateway


UPDATED = """subscription ($id: ID!) { operationUpdated(id: $id) {
    id kind state isDone snapshotId machine { id } snapshot { id state isCurrent } error { code providerMessage } } }"""


@pytest.mark.parametrize("following", [by_sse, by_websocket])
def test_an_operation_to_its_end(gateway: Served, following: Follow) -> None:
    with held(gateway, "vm-11"):
        payload = wish(gateway, CREATE, machineId="vm-11", name="followed")
        operation, snapshot = payload["operation"]["id"], payload["snapshot"]["id"]
        await_work(gateway, operation)
        with following(gateway, UPDATED, id=operation) as bodies:
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
            with held(gateway, "vm-11"):
                pass  # and let go
            rest = [body["data"]["operationUpdated"] for body in bodies]
    last = {"state": "SUCCEEDED", "isDone": True, "snapshot": {"id": snapshot, "state": "READY", "isCurrent": True}}
    assert rest[-1] == common | last
    assert all(row == first for row in rest[:-1])
    with following(gateway, UPDATED, id=operation) as bodies:
        assert [body["data"]["operationUpdated"] for body in bodies] == [common | last]
    (result,) = wish(gateway, DELETE, ids=[snapshot])["results"]
    assert ended(gateway, result["operation"]["id"]) == ("SUCCEEDED", None)


NO_OPERATOR = (
    "filter.state: an operator is missing, such as {eq: …}; a variable that was left out leaves none: pass the whole"
    " filter as one variable"
)


@pytest.mark.parametrize("following", [by_sse, by_websocket])
@pytest.mark.parametrize(
    ("query", "variables", "error"),
    [
        (UPDATED, {"id": "operation-999999"}, ("NOT_FOUND", "there is no operation operation-999999")),
        (UPDATED, {"id": "vm-11"}, ("NOT_FOUND", "there is no operation vm-11")),
        (UPDATED, {"id": "x"}, (
            "BAD_USER_INPUT", "'x' is not an id: ids read like vm-11, instance-201, snapshot-3 or operation-7")),
        ("subscription ($id: ID!) { operationUpdated(id: $id) { machine { snapshots(first: 1001) { totalCount } } } }",
         {"id": "operation-1"}, ("BAD_USER_INPUT", "first must be between 0 and 1000, not 1001")),
        ('subscription { operationChanged(filter: {state: {}}) { id } }', {}, (
            "BAD_USER_INPUT", NO_OPERATOR)),
        ('subscription { operationChanged(filter: {machineId: {eq: "11"}}) { id } }', {}, (
            "BAD_USER_INPUT",
            "filter.machineId.eq: '11' is not an id: ids read like vm-11, instance-201, snapshot-3 or operation-7")),
        ('subscription { snapshotChanged(machineId: "vm-999") { kind } }', {}, (
            "NOT_FOUND", "there is no machine vm-999")),
        ('subscription { snapshotChanged(machineId: "vm-201") { kind } }', {}, (
            "NOT_FOUND", "there is no machine vm-201")),
        ('subscription { snapshotChanged(machineId: "snapshot-3") { kind } }', {}, (
            "NOT_FOUND", "there is no machine snapshot-3")),
        ('subscription { snapshotChanged(machineId: "") { kind } }', {}, (
            "BAD_USER_INPUT", "'' is not an id: ids read like vm-11, instance-201, snapshot-3 or operation-7")),
        ("subscription { nope }", {}, (
            "GRAPHQL_VALIDATION_FAILED", "Cannot query field 'nope' on type 'Subscription'.")),
        ("subscription { a: snapshotChanged { kind } b: snapshotChanged { kind } }", {}, (
            "GRAPHQL_VALIDATION_FAILED", "Anonymous Subscription must select only one top level field.")),
    ],
    ids=range(12),
)  # fmt: skip
def test_what_cannot_be_followed(
    gateway: Served, following: Follow, query: str, variables: dict[str, Any], error: tuple[str, str]
) -> None:
    with following(gateway, query, **variables) as bodies:
        (body,) = bodies
    (found,) = body["errors"]
    assert (found["extensions"]["code"], found["message"]) == error
    assert "data" not in body or body["data"] is None


def test_a_client_that_reads_json_too_gets_a_refusal_as_json(gateway: Served) -> None:
    headers = {"accept": "text/event-stream, application/json"}
    body = {"query": UPDATED, "variables": {"id": "operation-999999"}}
    answer = gateway.http.post("/graphql", json=body, headers=headers)
    assert answer.status_code == 400
    (error,) = answer.json()["errors"]
    assert error["message"] == "there is no operation operation-999999"
    assert error["path"] == ["operationUpdated"]
    assert error["extensions"] == {"code": "NOT_FOUND"}


CHANGED = """subscription ($filter: OperationFilter) { operationChanged(filter: $filter) {
    id kind state snapshotName machine { id } } }"""


@pytest.mark.parametrize("following", [by_sse, by_websocket])
def test_operations_that_match(gateway: Served, following: Follow) -> None:
    """The changes of one machine's deletes, and none of anything else."""
    filter = {"machineId": {"eq": "vm-12"}, "kind": {"eq": "DELETE_SNAPSHOT"}}
    with following(gateway, CHANGED, filter=filter) as bodies, held(gateway, "vm-12"):
        create = wish(gateway, CREATE, machineId="vm-12", name="not followed")
        other = wish(gateway, DELETE, ids=[leaf(gateway, "vm-13")])["results"][0]["operation"]["id"]
        assert ended(gateway, other) == ("SUCCEEDED", None)
        delete = wish(gateway, DELETE, ids=[leaf(gateway, "vm-12")])["results"][0]
        seen = next(bodies)["data"]["operationChanged"]
        assert seen == {
            "id": delete["operation"]["id"],
            "kind": "DELETE_SNAPSHOT",
            "state": "QUEUED",
            "snapshotName": delete["snapshot"]["name"],
            "machine": {"id": "vm-12"},
        }
        assert wish(gateway, CANCEL, operationId=seen["id"])["errors"] == []
        assert next(bodies)["data"]["operationChanged"] == seen | {"state": "CANCELED"}
    assert ended(gateway, create["operation"]["id"]) == ("SUCCEEDED", None)


def leaf(gateway: Served, machine: str) -> str:
    """A READY snapshot of the machine that nothing was taken on top of."""
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


@pytest.mark.parametrize("following", [by_sse, by_websocket])
@pytest.mark.parametrize("fleet", [False, True], ids=["machine", "fleet"])
def test_snapshots(gateway: Served, following: Follow, fleet: bool) -> None:
    """CREATED, UPDATED as it becomes READY, is reverted to and is deleted, DELETED; nothing of other machines."""
    machine = "vm-15"
    with following(gateway, SNAPSHOTS, machineId=None if fleet else machine) as bodies:
        if not fleet:
            elsewhere = wish(gateway, CREATE, machineId="vm-38", name="elsewhere")
            assert ended(gateway, elsewhere["operation"]["id"]) == ("SUCCEEDED", None)
        payload = wish(gateway, CREATE, machineId=machine, name="watched")
        snapshot = payload["snapshot"]["id"]
        assert ended(gateway, payload["operation"]["id"]) == ("SUCCEEDED", None)
        revert = wish(gateway, REVERT, snapshotId=snapshot)
        assert ended(gateway, revert["operation"]["id"]) == ("SUCCEEDED", None)
        delete = wish(gateway, DELETE, ids=[snapshot])["results"][0]
        assert ended(gateway, delete["operation"]["id"]) == ("SUCCEEDED", None)
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


def test_the_life_of_a_snapshot_step_by_step(gateway: Served) -> None:
    """With the work held up at each step, each of its states is seen."""
    with by_sse(gateway, SNAPSHOTS, machineId="vm-18") as bodies:

        def expect(kind: str, state: str | None, *, after: str | None = None) -> None:
            """The next that is told; a change may be told more than once, with the state that followed it."""
            while True:
                change = next(bodies)["data"]["snapshotChanged"]
                if change["snapshotId"] != snapshot:
                    continue
                found = change["snapshot"] and change["snapshot"]["state"]
                if (change["kind"], found) == (kind, state):
                    return
                assert (change["kind"], found) == ("UPDATED", after)

        with held(gateway, "vm-18"):
            payload = wish(gateway, CREATE, machineId="vm-18", name="watched")
            snapshot = payload["snapshot"]["id"]
            expect("CREATED", "CREATING")
        expect("UPDATED", "READY", after="CREATING")
        assert ended(gateway, payload["operation"]["id"]) == ("SUCCEEDED", None)
        with held(gateway, "vm-18"):
            operation = wish(gateway, REVERT, snapshotId=snapshot)["operation"]["id"]
            expect("UPDATED", "REVERTING", after="READY")
        expect("UPDATED", "READY", after="REVERTING")
        assert ended(gateway, operation) == ("SUCCEEDED", None)
        with held(gateway, "vm-18"):
            operation = wish(gateway, DELETE, ids=[snapshot])["results"][0]["operation"]["id"]
            expect("UPDATED", "DELETING", after="READY")
        expect("DELETED", None, after="DELETING")
        assert ended(gateway, operation) == ("SUCCEEDED", None)


def test_a_snapshot_that_is_deleted_behind_our_back(gateway: Served) -> None:
    query = "subscription { snapshotChanged { kind deletedSnapshotId machine { id } } }"
    with by_sse(gateway, query) as bodies:
        execute(gateway, "DELETE FROM simulated_snapshot WHERE ref = 'snapshot-1565'")
        wish(gateway, REFRESH, machineId="instance-221")
        change = {"kind": "DELETED", "deletedSnapshotId": "snapshot-565", "machine": {"id": "instance-221"}}
        assert next(bodies)["data"] == {"snapshotChanged": change}
