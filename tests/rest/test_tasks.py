"""Tasks: their results, and the deletion of their records."""

from typing import Any

from gateway.access.caller import ALL_RIGHTS
from gateway.models import MachineKind, SnapshotAction
from tests.rest.test_writes import envelope, missing
from tests.rest.world import READER, Json, Rest, as_caller


def unfinished(rest: Rest, task_id: str) -> None:
    """Makes the operation of a task one that a newer gateway is still working on, which no worker here claims."""
    rest.sql(f"UPDATE operation SET state = 'RUNNING', finished_at = NULL WHERE id = {task_id}")


def audited(rest: Rest) -> list[tuple[Any, ...]]:
    """The audit entries of deletions: outcome, code, operation and name of the snapshot."""
    columns = "outcome, code, operation_id, snapshot_name"
    query = f"SELECT {columns} FROM audit_entry WHERE action = 'DELETE_OPERATION' ORDER BY id"
    rows = rest.gateway.run(rest.gateway.gateway.database.read(lambda tx: tx.rows(query)))
    return [tuple(row) for row in rows]


def test_task_results(rest_both: Rest) -> None:
    made = rest_both.create()
    place = f"/tasks/{made['task_id']}?attributes=task_results"
    assert rest_both.get(place)["task_results"] == {
        "snapshot_id": made["snapshot_id"],
        "snapshot_href": made["snapshot_href"],
    }
    assert "task_results" not in rest_both.get(f"/tasks/{made['task_id']}")
    deleted = rest_both.post(f"/vms/11/snapshots/{made['snapshot_id']}", {"action": "delete"})
    rest_both.finish(deleted["task_id"])
    assert rest_both.get(f"/tasks/{deleted['task_id']}?attributes=task_results")["task_results"] is None
    unfinished(rest_both, made["task_id"])
    assert rest_both.get(place)["task_results"] is None


def deleted_result(rest: Rest, task: Json) -> Json:
    name = task["name"]
    return {"success": True, "message": f"Deleting Task id: {task['id']} name: '{name}'", "href": task["href"]}


def test_tasks_that_have_ended_are_deleted(rest_both: Rest) -> None:
    count = rest_both.get("/tasks")["count"]
    made = [rest_both.create(name=name) for name in "abcd"]
    tasks = [rest_both.get(f"/tasks/{each['task_id']}") for each in made]
    assert tasks[0]["actions"] == [{"name": "delete", "method": "post", "href": tasks[0]["href"]}]

    gone = rest_both.http.delete(tasks[0]["href"])
    assert (gone.status_code, gone.content) == (204, b"")
    assert rest_both.post(f"/tasks/{tasks[1]['id']}", {"action": "delete"}) == deleted_result(rest_both, tasks[1])
    named = [{"href": tasks[2]["href"]}, {"id": tasks[3]["id"]}]
    assert rest_both.post("/tasks", {"action": "delete", "resources": named}) == {
        "results": [deleted_result(rest_both, task) for task in tasks[2:]]
    }

    assert rest_both.get("/tasks")["count"] == count
    for task in tasks:
        assert rest_both.get(f"/tasks/{task['id']}", 404) == missing("MiqTask", int(task["id"]))
        assert rest_both.http.delete(task["href"]).status_code == 404
    # Only the records are gone.
    assert {row["name"] for row in rest_both.get("/vms/11/snapshots", expand="resources")["resources"]} >= set("abcd")
    assert [row for row in audited(rest_both) if row[0] == "SUCCEEDED"] == [
        ("SUCCEEDED", None, int(task["id"]), name) for task, name in zip(tasks, "abcd", strict=True)
    ]


def test_a_task_that_has_not_ended_is_never_deleted(rest_both: Rest) -> None:
    first, other = rest_both.create(name="a"), rest_both.create(name="b")
    number = first["task_id"]
    unfinished(rest_both, number)
    task = rest_both.get(f"/tasks/{number}")
    assert (task["state"], "actions" in task) == ("Active", False)
    refused = {
        "success": False,
        "message": f"Operation 'operation-{number}' has not ended, so it cannot be deleted. Wait until it has.",
        "code": "CONFLICT",
    }
    answer = rest_both.http.delete(task["href"])
    assert (answer.status_code, answer.json()) == (400, refused)
    assert rest_both.post(f"/tasks/{number}", {"action": "delete"}, 400) == refused
    named = [{"id": number}, {"id": other["task_id"]}, {"id": 999}]
    results = rest_both.post("/tasks", {"action": "delete", "resources": named})["results"]
    assert [result["success"] for result in results] == [False, True, False]
    assert results[0] == refused
    assert results[2] == {"success": False, "message": "Couldn't find MiqTask with 'id'=999", "code": "NOT_FOUND"}
    assert rest_both.get(f"/tasks/{number}") == task
    assert audited(rest_both) == [
        *[("REFUSED", "CONFLICT", int(number), "a")] * 2,
        ("SUCCEEDED", None, int(other["task_id"]), "b"),
        ("REFUSED", "CONFLICT", int(number), "a"),
        ("REFUSED", "NOT_FOUND", 999, None),
    ]


def test_a_replay_after_the_deletion_changes_nothing(rest: Rest) -> None:
    body, count = {"name": "once"}, rest.get("/tasks")["count"]
    (first,) = rest.post("/vms/11/snapshots", body, key="k")["results"]
    rest.finish(first["task_id"])
    assert rest.http.delete(first["task_href"]).status_code == 204
    assert rest.post("/vms/11/snapshots", body, key="k")["results"] == [first]
    assert rest.get("/vms/11/snapshots", filter="name=once")["subquery_count"] == 1
    assert rest.get("/tasks")["count"] == count


def test_the_right_is_that_of_the_operation(rest: Rest) -> None:
    task = rest.create()["task_id"]
    reader = as_caller(rest, "task-reader", READER)
    deleter = as_caller(rest, "task-deleter", READER | {(SnapshotAction.DELETE, MachineKind.VM)})
    for caller in (reader, deleter):  # the deleter may delete snapshots, but not create one
        assert "actions" not in caller.get(f"/tasks/{task}")
        message = f"Deleting operation-{task} requires the right vm:create."
        answer = caller.http.delete(f"{caller.root}/tasks/{task}")
        assert (answer.status_code, answer.json()) == (403, envelope("forbidden", message, "Api::ForbiddenError"))
        (result,) = caller.post("/tasks", {"action": "delete", "resources": [{"id": task}]})["results"]
        assert result == {"success": False, "message": message, "code": "FORBIDDEN"}
    assert reader.get("/tasks", limit=1)["actions"] == [
        {"name": "query", "method": "post", "href": f"{reader.root}/tasks"}
    ]
    stranger = as_caller(rest, "task-stranger", ALL_RIGHTS, tenant="other")
    assert stranger.http.delete(f"{stranger.root}/tasks/{task}").status_code == 404
    assert rest.get(f"/tasks/{task}")["id"] == task
