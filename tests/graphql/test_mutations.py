"""Each mutation in the demo world until its operation ends, and the resulting snapshot tree."""

import re
from typing import Any

from tests.graphql.client import (
    CANCEL,
    CREATE,
    CREATE_SEVERAL,
    DELETE,
    REFRESH,
    REVERT,
    await_final_state,
    await_running,
    dump,
    execute_sql,
    mutate,
    provider_ref,
    stalled,
    tree,
)
from tests.serving import Served
from tests.waiting import at_most

SUCCEEDED = ("SUCCEEDED", None)
READY = "READY"


def accepted(payload: dict[str, Any], kind: str) -> tuple[str, str | None]:
    """Checks the operation of a payload, which may already have started, and returns its id and its snapshot's id."""
    operation = payload["operation"]
    assert operation["kind"] == kind
    assert operation["state"] in ("QUEUED", "RUNNING", "SUCCEEDED")
    return operation["id"], operation["snapshotId"]


def created(busy: Served, machine: str, name: str, **more: Any) -> str:
    """Creates a snapshot, waits until the operation has succeeded, and returns the snapshot's id."""
    payload = mutate(busy, CREATE, machineId=machine, name=name, **more)
    operation, snapshot = accepted(payload, "CREATE_SNAPSHOT")
    assert await_final_state(busy, operation) == SUCCEEDED
    assert snapshot is not None
    return snapshot


# ---- one Vm, one Instance


def test_create_revert_and_delete_on_a_vm(busy: Served) -> None:
    check_create(busy)
    check_revert_and_delete(busy)


def check_create(busy: Served) -> None:
    with stalled(busy, "vm-11"):
        payload = mutate(busy, CREATE, machineId="vm-11", name="  new\t", description=" kept unchanged ", memory=True)
        operation, snapshot = accepted(payload, "CREATE_SNAPSHOT")
        assert payload == {
            "operation": payload["operation"],
            "snapshot": {"id": snapshot, "name": "new", "state": "CREATING"},
            "snapshotEdge": {"cursor": payload["snapshotEdge"]["cursor"], "node": {"id": snapshot}},
            "machine": {"id": "vm-11"},
            "errors": [],
        }
        page = (
            'query ($at: String) { vm(id: "vm-11") { older: snapshots(after: $at) { nodes { id } }'
            " newer: snapshots(before: $at) { nodes { id } } } }"
        )
        assert busy.ask(page, at=payload["snapshotEdge"]["cursor"])["vm"] == {
            "older": {"nodes": [{"id": "snapshot-5"}, {"id": "snapshot-4"}, {"id": "snapshot-3"}]},
            "newer": {"nodes": []},
        }
        await_running(busy, operation)
        assert tree(busy, "vm-11")[3:] == [("new", "CREATING", None)]
    assert await_final_state(busy, operation) == SUCCEEDED
    assert tree(busy, "vm-11") == [
        ("test-base", READY, None),
        ("test-before-upgrade", READY, "snapshot-3"),
        ("test-new-driver", READY, "snapshot-3"),
        ("*new", READY, "snapshot-4"),
    ]
    made = busy.ask(
        "query ($id: ID!) { snapshot(id: $id) { description memory createdBy sizeBytes providerRef observedAt } }",
        id=snapshot,
    )["snapshot"]
    assert (made["description"], made["memory"], made["createdBy"]) == (" kept unchanged ", True, "local")
    assert int(made["sizeBytes"]) > 0
    assert made["providerRef"].startswith("snap-")
    assert made["observedAt"]


def check_revert_and_delete(busy: Served) -> None:
    payload = mutate(busy, REVERT, snapshotId="snapshot-3")
    operation, _ = accepted(payload, "REVERT_VM_SNAPSHOT")
    assert payload["vm"] == {"id": "vm-11"}
    assert (payload["snapshot"]["id"], payload["errors"]) == ("snapshot-3", [])
    assert await_final_state(busy, operation) == SUCCEEDED
    assert [name for name, _, _ in tree(busy, "vm-11")] == [
        "*test-base",
        "test-before-upgrade",
        "test-new-driver",
        "new",
    ]
    second = created(busy, "vm-11", "second")
    assert tree(busy, "vm-11")[-1] == ("*second", READY, "snapshot-3")

    payload = mutate(busy, DELETE, ids=["snapshot-3"])
    operation, _ = accepted(payload["results"][0], "DELETE_SNAPSHOT")
    assert await_final_state(busy, operation) == SUCCEEDED
    assert tree(busy, "vm-11") == [
        ("test-before-upgrade", READY, None),
        ("test-new-driver", READY, None),
        ("new", READY, "snapshot-4"),
        ("*second", READY, None),
    ]
    gone = busy.ask(
        "query ($id: ID!) { operation(id: $id) { snapshot { id } snapshotId snapshotName machine { id } }"
        ' snapshot(id: "snapshot-3") { id } }',
        id=operation,
    )
    assert gone == {
        "operation": {
            "snapshot": None,
            "snapshotId": "snapshot-3",
            "snapshotName": "test-base",
            "machine": {"id": "vm-11"},
        },
        "snapshot": None,
    }
    (deleted,) = mutate(busy, DELETE, ids=[second])["results"]
    assert await_final_state(busy, deleted["operation"]["id"]) == SUCCEEDED
    assert [name for name, _, _ in tree(busy, "vm-11")] == ["test-before-upgrade", "test-new-driver", "new"]


def test_create_and_delete_on_an_instance(busy: Served) -> None:
    """Instances have no snapshot tree, no current snapshot and no revert."""
    snapshot = created(busy, "instance-201", "new")
    assert tree(busy, "instance-201") == [
        ("before-release", READY, None),
        ("test-image", READY, None),
        ("new", READY, None),
    ]
    results = mutate(busy, DELETE, ids=["snapshot-8", snapshot, "snapshot-8"])["results"]
    assert results[0] == results[2]
    for result in results:
        assert await_final_state(busy, result["operation"]["id"]) == SUCCEEDED
    assert tree(busy, "instance-201") == [("before-release", READY, None)]


# ---- deleting several


def results(payload: dict[str, Any]) -> list[tuple[str, bool, bool, list[tuple[str, str]]]]:
    """For each result: id, `isDescendant`, whether there is an operation, code and last path element of its errors."""
    return [
        (
            result["snapshotId"],
            result["isDescendant"],
            result["operation"] is not None,
            [(error["code"], error["path"][-1]) for error in result["errors"]],
        )
        for result in payload["results"]
    ]


def test_delete_with_descendants(busy: Served) -> None:
    """Tree: 351 <- 352 <- 353 <- 354 <- … <- 358 with 355 current, and 351 <- 359 <- 360."""
    ids = ["snapshot-354", "snapshot-359", "snapshot-360", "snapshot-354"]
    arguments: dict[str, Any] = {"ids": ids, "withDescendants": True}
    expected = [(id_, False) for id_ in ids] + [(f"snapshot-{number}", True) for number in (358, 357, 356, 355)]
    before = dump(busy)
    dry = mutate(busy, DELETE, **arguments, dryRun=True, idempotencyKey="dry")
    assert results(dry) == [(id_, is_descendant, False, []) for id_, is_descendant in expected]
    assert (dry["acceptedCount"], dry["refusedCount"], dry["errors"]) == (7, 0, [])
    assert dump(busy) == before
    payload = mutate(busy, DELETE, **arguments, idempotencyKey="dry")
    assert results(payload) == [(id_, is_descendant, True, []) for id_, is_descendant in expected]
    assert (payload["acceptedCount"], payload["refusedCount"], payload["errors"]) == (7, 0, [])
    assert len({result["operation"]["id"] for result in payload["results"]}) == 7
    for result in payload["results"]:
        assert await_final_state(busy, result["operation"]["id"]) == SUCCEEDED
    names = [(name[0] == "*", state, parent) for name, state, parent in tree(busy, "vm-25")]
    assert names == [(False, READY, None), (False, READY, "snapshot-351"), (True, READY, "snapshot-352")]


def test_delete_all_or_nothing(busy: Served) -> None:
    before = dump(busy)
    ids = ["snapshot-345", "snapshot-999999", "x", "snapshot-346", "vm-24"]
    refused = [("NOT_FOUND", "1"), ("INVALID", "2"), ("NOT_FOUND", "4")]
    payload = mutate(busy, DELETE, ids=ids, allOrNothing=True)
    assert results(payload) == [
        ("snapshot-345", False, False, [("ABORTED", "0")]),
        ("snapshot-999999", False, False, [refused[0]]),
        ("x", False, False, [refused[1]]),
        ("snapshot-346", False, False, [("ABORTED", "3")]),
        ("vm-24", False, False, [refused[2]]),
    ]
    assert (payload["acceptedCount"], payload["refusedCount"], payload["errors"]) == (0, 5, [])
    assert dump(busy) == before
    payload = mutate(busy, DELETE, ids=ids)
    assert results(payload) == [
        ("snapshot-345", False, True, []),
        ("snapshot-999999", False, False, [refused[0]]),
        ("x", False, False, [refused[1]]),
        ("snapshot-346", False, True, []),
        ("vm-24", False, False, [refused[2]]),
    ]
    assert (payload["acceptedCount"], payload["refusedCount"], payload["errors"]) == (2, 3, [])
    for place in (0, 3):
        assert await_final_state(busy, payload["results"][place]["operation"]["id"]) == SUCCEEDED
    parents = [parent for _, _, parent in tree(busy, "vm-24")]
    assert parents == [None, "snapshot-347", None, "snapshot-349"]


# ---- creating several


def test_create_several(busy: Served) -> None:
    ids = ["vm-19", "instance-202", "vm-999", "vm-20", "vm-19", "x"]
    payload = mutate(busy, CREATE_SEVERAL, machineIds=ids, name="fleet", idempotencyKey="fleet")
    assert [(result["machineId"], [error["code"] for error in result["errors"]]) for result in payload["results"]] == [
        ("vm-19", []),
        ("instance-202", []),
        ("vm-999", ["NOT_FOUND"]),
        ("vm-20", []),
        ("vm-19", []),
        ("x", ["INVALID"]),
    ]
    assert (payload["acceptedCount"], payload["refusedCount"], payload["errors"]) == (3, 2, [])
    assert payload["results"][0]["snapshot"]["id"] == payload["results"][4]["snapshot"]["id"]
    for result in payload["results"]:
        if result["operation"]:
            assert await_final_state(busy, result["operation"]["id"]) == SUCCEEDED
    assert [tree(busy, machine) for machine in ("vm-19", "vm-20", "instance-202")] == [
        [("*fleet", READY, None)],
        [("*fleet", READY, None)],
        [("fleet", READY, None)],
    ]
    before = dump(busy)
    again = mutate(busy, CREATE_SEVERAL, machineIds=ids, name="fleet", idempotencyKey="fleet")
    for result in payload["results"]:
        if result["operation"]:
            result["operation"]["state"], result["snapshot"]["state"] = "SUCCEEDED", READY
    assert again == payload
    assert dump(busy) == before


# ---- cancel and refresh


def test_cancel(busy: Served) -> None:
    before = tree(busy, "vm-34")
    with stalled(busy, "vm-34"):
        running = mutate(busy, CREATE, machineId="vm-34", name="running")["operation"]["id"]
        await_running(busy, running)
        queued = mutate(busy, CREATE, machineId="vm-34", name="queued")["operation"]
        assert queued["state"] == "QUEUED"
        canceled = mutate(busy, CANCEL, operationId=queued["id"])
        assert canceled == {"operation": queued | {"state": "CANCELED"}, "errors": []}
        query = (
            "query ($id: ID!) { operation(id: $id) { state isDone isCancelable startedAt snapshotName snapshot { id }"
            " error { code } } }"
        )
        assert busy.ask(query, id=queued["id"])["operation"] == {
            "state": "CANCELED",
            "isDone": True,
            "isCancelable": False,
            "startedAt": None,
            "snapshotName": "queued",
            "snapshot": None,
            "error": None,
        }
        canceling = mutate(busy, CANCEL, operationId=running)
        assert canceling["errors"] == []
        for operation in (queued["id"], running):
            requested = busy.ask("query ($id: ID!) { operation(id: $id) { cancelRequestedAt } }", id=operation)
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:]{8}\.\d{6}Z", requested["operation"]["cancelRequestedAt"])
        assert await_final_state(busy, running) == ("CANCELED", None)
    assert tree(busy, "vm-34") == before
    at = dump(busy)
    for operation in (queued["id"], running):
        (error,) = mutate(busy, CANCEL, operationId=operation)["errors"]
        assert error == {
            "code": "CONFLICT",
            "message": f"Operation '{operation}' has already ended in state CANCELED.",
            "path": ["input", "operationId"],
            "conflict": None,
        }
    assert dump(busy) == at


def test_refresh_imports_changes_made_on_the_provider(busy: Served) -> None:
    ref = provider_ref(busy, "vm-33")
    execute_sql(busy, "UPDATE simulated_snapshot SET name = 'renamed' WHERE ref = 'snapshot-1411'")
    execute_sql(busy, "DELETE FROM simulated_snapshot WHERE ref = 'snapshot-1414'")
    execute_sql(busy, f"UPDATE simulated_machine SET current_ref = 'snapshot-1412' WHERE ref = '{ref}'")
    payload = mutate(busy, REFRESH, machineId="vm-33")
    operation, snapshot = accepted(payload, "REFRESH_MACHINE")
    assert snapshot is None
    assert payload["machine"] == {"id": "vm-33"}
    assert await_final_state(busy, operation) == SUCCEEDED
    found = tree(busy, "vm-33")
    assert found[0] == ("renamed", READY, None)
    assert [(name[0] == "*", parent) for name, _, parent in found] == [
        (False, None),
        (True, "snapshot-411"),
        (False, "snapshot-412"),
    ]


def test_longest_texts_can_be_sorted_and_paged(busy: Served) -> None:
    """A cursor with the longest values that can be stored is accepted."""
    sort = [{"field": "DESCRIPTION", "direction": "DESC"}, {"field": "NAME"}]
    query = """query ($sort: [SnapshotSort!], $after: String) { vm(id: "vm-35") {
        snapshots(sort: $sort, first: 1, after: $after) { nodes { name } pageInfo { endCursor hasNextPage } } } }"""
    names = ["\U0001f600" * 255, "\x01" * 255]
    for name in names:
        created(busy, "vm-35", name, description=name[0] * 4000)
    seen, after = [], None
    for _ in at_most(100):
        page = busy.ask(query, sort=sort, after=after)["vm"]["snapshots"]
        seen += [node["name"] for node in page["nodes"]]
        after = page["pageInfo"]["endCursor"]
        if not page["pageInfo"]["hasNextPage"]:
            break
    assert [name for name in seen if name in names] == names
    assert len(seen) == 3
