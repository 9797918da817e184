"""Every request of the project's original specification, as curl sends it."""

from tests.rest.world import Rest


def test_reads(shared_both: Rest) -> None:
    assert shared_both.get("/vms/11/snapshots")["resources"] == [
        {"href": f"{shared_both.root}/vms/11/snapshots/{id}"} for id in (5, 4, 3)
    ]
    assert shared_both.get("/instances/201/snapshots")["resources"] == [
        {"href": f"{shared_both.root}/instances/201/snapshots/{id}"} for id in (8, 7)
    ]
    # As in the specification: the brackets are not encoded, and the pattern has no quotes.
    found = shared_both.get(f"{shared_both.root}/vms/11/snapshots?expand=resources&filter[]=name=test*")
    assert [row["name"] for row in found["resources"]] == ["test-new-driver", "test-before-upgrade", "test-base"]
    assert shared_both.get("/vms/11/snapshots/4")["description"] == "Before the upgrade to 2.0"
    assert shared_both.get("/instances/201/snapshots/7")["name"] == "before-release"


def test_creates(rest_both: Rest) -> None:
    body = {"name": "name_of_new_snapshot", "description": "Description of new Snapshot", "memory": False}
    for path, target in (
        ("/vms/11", "Virtual Machine id:11 name:'web-01'"),
        ("/instances/201", "Instance id:201 name:'api-01'"),
    ):
        (result,) = rest_both.post(f"{path}/snapshots", body)["results"]
        assert result["success"] is True
        assert result["message"] == f"Creating snapshot name_of_new_snapshot for {target}"
        assert result["task_href"] == f"{rest_both.root}/tasks/{result['task_id']}"
        task = rest_both.finish(result["task_id"])
        assert (task["status"], task["name"]) == ("Ok", result["message"])
        assert task["context_data"]["snapshot_href"] == result["snapshot_href"]
        made = rest_both.get(result["snapshot_href"])
        assert (made["name"], made["description"], made["state"]) == (body["name"], body["description"], "ready")


def test_reverts(rest_both: Rest) -> None:
    result = rest_both.post("/vms/11/snapshots/3", {"action": "revert"})
    assert result["message"] == "Reverting to snapshot test-base for Virtual Machine id:11 name:'web-01'"
    assert rest_both.finish(result["task_id"])["status"] == "Ok"
    assert rest_both.get("/vms/11/snapshots/3")["current"] == 1


def test_deletes_one(rest_both: Rest) -> None:
    for path in ("/vms/11/snapshots/3", "/instances/201/snapshots/7"):
        answer = rest_both.http.delete(rest_both.root + path)
        assert (answer.status_code, answer.content) == (204, b"")
        assert rest_both.finish(answer.headers["location"].rpartition("/")[2])["status"] == "Ok"
        rest_both.get(path, 404)
    for path, message in (
        ("/vms/11/snapshots/4", "Deleting snapshot test-before-upgrade for Virtual Machine id:11 name:'web-01'"),
        ("/instances/201/snapshots/8", "Deleting snapshot test-image for Instance id:201 name:'api-01'"),
    ):
        result = rest_both.post(path, {"action": "delete"})
        assert (result["success"], result["message"]) == (True, message)
        assert rest_both.finish(result["task_id"])["status"] == "Ok"
        rest_both.get(path, 404)


def test_deletes_several(rest_both: Rest) -> None:
    for path, ids in (("/vms/11", (3, 4, 5)), ("/instances/201", (7, 8))):
        # The specification's links have another host. Only their path matters.
        resources = [{"href": f"http://localhost:3000/api{path}/snapshots/{id}"} for id in ids]
        results = rest_both.post(f"{path}/snapshots", {"action": "delete", "resources": resources})["results"]
        assert [result["success"] for result in results] == [True] * len(ids)
        for result in results:
            assert rest_both.finish(result["task_id"])["status"] == "Ok"
        assert rest_both.get(f"{path}/snapshots")["count"] == 0
