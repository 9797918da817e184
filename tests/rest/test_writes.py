"""Create, revert and delete: results and refusals. Refusals change nothing."""

from typing import Any

import pytest

from tests.rest.world import Rest

LIST, ONE, IMAGE = "/vms/11/snapshots", "/vms/11/snapshots/3", "/instances/201/snapshots/7"


def envelope(kind: str, message: str, klass: str) -> Any:
    return {"error": {"kind": kind, "message": message, "klass": klass}}


def bad_request(message: str) -> Any:
    return envelope("bad_request", message, "Api::BadRequestError")


def missing(class_name: str, id: int) -> Any:
    return envelope("not_found", f"Couldn't find {class_name} with 'id'={id}", "ActiveRecord::RecordNotFound")


def tasks(rest: Rest) -> int:
    found: int = rest.get("/tasks")["count"]
    return found


# ---- create


@pytest.mark.parametrize(
    "body",
    [
        {"name": " two words "},
        {"action": "create", "name": "two words"},
        {"action": "create", "resource": {"name": "two words", "quiesce": True}},
        {"action": "create", "resources": [{"name": "two words", "memory": None}]},
    ],
)
def test_the_body_of_a_create_has_several_forms(rest: Rest, body: Any) -> None:
    (result,) = rest.post(LIST, body)["results"]
    assert result["success"] is True
    assert result["message"] == "Creating snapshot two words for Virtual Machine id:11 name:'web-01'"
    rest.finish(result["task_id"])
    assert rest.get(result["snapshot_href"])["name"] == "two words"


def test_create_several(rest: Rest) -> None:
    """Each item has its own result. An invalid one does not affect the others."""
    resources = [{"name": "one"}, {"description": "nameless"}, {"name": "two", "memory": "true"}, {"name": 3}]
    results = rest.post(LIST, {"action": "create", "resources": resources})["results"]
    assert [result["success"] for result in results] == [True, False, True, True]
    assert results[1] == {"success": False, "message": "Must specify a name for the snapshot", "code": "INVALID"}
    for result in results:
        if result["success"]:
            rest.finish(result["task_id"])
    found = rest.get(LIST, expand="resources", sort_by="id", filter="id>5")["resources"]
    assert [(row["name"], row["memory"]) for row in found] == [("one", False), ("two", True), ("3", False)]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"name": ""}, "Must specify a name for the snapshot"),
        ({"name": None}, "Must specify a name for the snapshot"),
        ({"description": "x"}, "Must specify a name for the snapshot"),
        ({"name": "x" * 256}, "The name has 256 characters; at most 255 are allowed."),
        ({"name": ["x"]}, "`name` must be text."),
        ({"name": "x", "memory": "perhaps"}, "`memory` must be true or false."),
    ],
)
def test_refused_creates(shared: Rest, body: Any, message: str) -> None:
    before = tasks(shared)
    failed = {"success": False, "message": message, "code": "INVALID"}
    assert shared.post(LIST, body, 400) == {"results": [failed]}
    assert shared.post(LIST, {"action": "create", "resources": [body]}) == {"results": [failed]}
    assert (tasks(shared), shared.get(LIST)["count"]) == (before, 3)


@pytest.mark.parametrize(
    "body", ["", {}, {"resource": None}, {"resources": []}, {"resources": ["x"]}, {"resource": {}}]
)
@pytest.mark.parametrize("action", ["create", "delete"])
def test_a_body_without_items(shared: Rest, action: str, body: Any) -> None:
    expected = bad_request(f"No snapshots resources were specified for the {action} action")
    if body == "" and action == "create":
        answer = shared.http.post(shared.root + LIST)
        assert (answer.status_code, answer.json()) == (400, expected)
    else:
        assert shared.post(LIST, {"action": action, **(body or {})}, 400) == expected


def test_a_new_snapshot_has_no_id(shared: Rest) -> None:
    message = "Resource id or href should not be specified for creating a new snapshots"
    for item in ({"id": 3, "name": "x"}, {"href": f"{shared.root}{ONE}", "name": "x"}):
        assert shared.post(LIST, item, 400) == bad_request(message)
        assert shared.post(LIST, {"resources": [{"name": "y"}, item]}, 400) == bad_request(message)


def test_unsupported_by_the_machine(rest: Rest) -> None:
    rest.sql("UPDATE machine SET gone_at = observed_at WHERE id = 11")
    reason = "The machine is gone: its provider no longer reports it."
    failed = {"success": False, "message": reason, "code": "UNSUPPORTED"}
    assert rest.post(LIST, {"name": "x"}, 400) == {"results": [failed]}
    assert rest.post(ONE, {"action": "revert"}, 400) == failed
    assert rest.post(ONE, {"action": "delete"}, 400) == failed
    answer = rest.http.delete(rest.root + ONE)
    assert (answer.status_code, answer.json()) == (400, failed)
    assert rest.post(LIST, {"action": "delete", "resources": [{"id": 3}]}) == {"results": [failed]}
    assert "actions" not in rest.get(LIST)
    assert "actions" not in rest.get(ONE)
    memory = rest.http.options(rest.root + LIST).json()["data"]["snapshot_form_schema"]["fields"][2]
    assert (memory["name"], memory["isDisabled"], memory["helperText"]) == ("memory", True, reason)


def test_a_key_makes_a_retry_safe(rest: Rest) -> None:
    for body in ({"name": "once"}, {"resources": [{"name": "once"}, {"name": "a second one"}]}):
        first = rest.post(LIST, body, key=f"a key for {sorted(body)}")
        assert rest.post(LIST, body, key=f"a key for {sorted(body)}") == first
    assert rest.get(LIST)["count"] == 6


# ---- revert


def test_revert_of_an_unknown_snapshot(shared: Rest) -> None:
    assert shared.post("/vms/11/snapshots/99", {"action": "revert"}, 404) == missing("Snapshot", 99)
    assert shared.post("/vms/99/snapshots/3", {"action": "revert"}, 404) == missing("Vm", 99)
    # A snapshot of another machine.
    assert shared.post("/vms/12/snapshots/3", {"action": "revert"}, 404) == missing("Snapshot", 3)


def test_revert_of_a_busy_machine(rest: Rest) -> None:
    rest.sql("UPDATE simulated_machine SET latency_ms = 600000")
    result = rest.post(LIST, {"name": "slow"})["results"][0]
    refused = rest.post(ONE, {"action": "revert"}, 400)
    assert (refused["success"], refused["code"]) == (False, "CONFLICT")
    assert refused["message"] == f"Machine 'vm-11' has an unfinished operation: operation-{result['task_id']}."
    # The snapshot is listed from the beginning, but has no actions yet.
    row = rest.get(result["snapshot_href"])
    assert (row["state"], "actions" in row) == ("creating", False)
    assert rest.get(f"/tasks/{result['task_id']}")["state"] in ("Queued", "Active")
    rest.sql("UPDATE simulated_machine SET latency_ms = 1")


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        (IMAGE, {"action": "revert"}, "Unsupported Action revert for the snapshots resource specified"),
        (ONE, {"action": "rename"}, "Unsupported Action rename for the snapshots resource specified"),
        (ONE, {}, "Unsupported Action create for the snapshots resource specified"),
        (LIST, {"action": "revert"}, "Unsupported Action revert for the snapshots collection specified"),
        ("/vms", {"action": "create"}, "Unsupported Action create for the vms collection specified"),
        ("/vms/11", {"action": "start"}, "Unsupported Action start for the vms resource specified"),
        ("/tasks/1", {"action": "cancel"}, "Unsupported Action cancel for the tasks resource specified"),
    ],
)  # fmt: skip
def test_an_unknown_action(shared: Rest, path: str, body: Any, message: str) -> None:
    assert shared.post(path, body, 400) == bad_request(message)


# ---- delete


def test_delete_of_an_unknown_snapshot(shared: Rest) -> None:
    for path, expected in (
        ("/vms/11/snapshots/99", missing("Snapshot", 99)),
        ("/vms/12/snapshots/3", missing("Snapshot", 3)),
        ("/instances/201/snapshots/3", missing("Snapshot", 3)),
        ("/vms/99/snapshots/3", missing("Vm", 99)),
        ("/vms/201/snapshots/3", missing("Snapshot", 3)),
        ("/instances/11/snapshots/3", missing("ManageIQ::Providers::CloudManager::Vm", 11)),
    ):
        assert shared.post(path, {"action": "delete"}, 404) == expected
        answer = shared.http.delete(shared.root + path)
        assert (answer.status_code, answer.json()) == (404, expected)
        assert shared.get(path, 404) == expected


def test_each_item_of_a_bulk_delete_has_its_own_result(rest: Rest) -> None:
    other = rest.create("/vms/12/snapshots")
    resources = [
        {"href": f"{rest.root}/vms/11/snapshots/3"},
        {"id": "99"},
        {"href": other["snapshot_href"]},  # of another machine
        {"id": int(other["snapshot_id"])},
        {"id": 5, "name": "ignored"},
        {"href": "/snapshots/4"},
    ]
    results = rest.post(LIST, {"action": "delete", "resources": resources})["results"]
    assert [result["success"] for result in results] == [True, False, False, False, True, True]
    for result, id in zip(results[1:4], (99, other["snapshot_id"], other["snapshot_id"]), strict=True):
        message = f"Couldn't find Snapshot with 'id'={id}"
        assert result == {"success": False, "message": message, "code": "NOT_FOUND"}
    assert results[4]["message"] == "Deleting snapshot test-new-driver for Virtual Machine id:11 name:'web-01'"
    for result in results:
        if result["success"]:
            rest.finish(result["task_id"])
    assert rest.get(LIST)["count"] == 0
    assert rest.get(other["snapshot_href"])["name"] == "made"


@pytest.mark.parametrize(
    ("item", "id"),
    [
        ({"id": "abc"}, "abc"),
        ({"id": None}, "nil"),
        ({"name": "test-base"}, "nil"),
        ({"id": True}, "true"),
        ({"href": "http://h/api/vms/11"}, "http://h/api/vms/11"),
        ({"href": f"http://h/api/vms/11/snapshots/{10**19 - 1}"}, f"{10**19 - 1}"),  # does not fit in 64 bits
    ],
)
def test_an_invalid_item_refuses_the_whole_bulk_delete(shared: Rest, item: Any, id: str) -> None:
    before = tasks(shared)
    found = shared.post(LIST, {"action": "delete", "resources": [{"id": 3}, item]}, 400)
    assert found == bad_request(f"Invalid Snapshot id {id} specified")
    assert (tasks(shared), shared.get(LIST)["count"]) == (before, 3)


def test_too_many_items(shared: Rest) -> None:
    message = "A request may name at most 100 snapshots."
    assert shared.post(LIST, {"action": "delete", "resources": [{"id": 3}] * 101}, 400) == bad_request(message)


def test_a_failed_task(rest: Rest) -> None:
    rest.sql(
        """UPDATE simulated_machine SET fault = '{"verb": "create", "kind": "refuse", "message": "disk is full"}'"""
    )
    result = rest.post(LIST, {"name": "never"})["results"][0]
    task = rest.finish(result["task_id"])
    assert task["status"] == "Error"
    assert task["pct_complete"] in range(100)  # its progress when it failed
    assert task["message"] not in ("", "Task completed successfully")
    assert rest.get(result["snapshot_href"])["state"] == "error"
