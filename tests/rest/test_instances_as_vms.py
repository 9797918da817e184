"""Instances through `/api/vms`: ManageIQ's vms contain them. Lists of the gateway do not."""

from typing import Any

from gateway.access.caller import Right
from gateway.models import MachineKind, SnapshotAction
from tests.rest.test_writes import bad_request, missing
from tests.rest.world import READER, Rest, as_caller


def renamed(value: Any) -> Any:
    """The value with the links of an instance as those of a vm."""
    if isinstance(value, dict):
        return {name: renamed(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [renamed(inner) for inner in value]
    return value.replace("/instances/", "/vms/") if isinstance(value, str) else value


def test_an_instance_is_also_a_vm(shared_both: Rest) -> None:
    for path in ("/201", "/201?expand=snapshots", "/201/snapshots?expand=resources&limit=1", "/201/snapshots/7"):
        assert shared_both.get(f"/vms{path}") == renamed(shared_both.get(f"/instances{path}"))
    options = [shared_both.http.options(f"{shared_both.root}/{name}/201/snapshots") for name in ("vms", "instances")]
    assert options[0].json() == options[1].json()
    assert shared_both.get("/vms/201")["href"] == f"{shared_both.root}/vms/201"
    assert shared_both.get("/v4.4.0/vms/201")["href"] == f"{shared_both.root}/v4.4.0/vms/201"


def test_lists_of_vms_contain_no_instances(shared_both: Rest) -> None:
    assert shared_both.get("/vms", filter="id=201")["subcount"] == 0
    assert shared_both.get("/vms", limit=0)["count"] == 30


def test_a_vm_is_no_instance(shared: Rest) -> None:
    assert shared.get("/instances/11", 404) == missing("ManageIQ::Providers::CloudManager::Vm", 11)
    assert shared.get("/vms/99", 404) == missing("Vm", 99)
    assert shared.get("/vms/201/snapshots/3", 404) == missing("Snapshot", 3)


def test_snapshots_of_an_instance_through_vms(rest: Rest) -> None:
    result = rest.create("/vms/201/snapshots", "made")
    snapshot = rest.get(result["snapshot_href"])
    assert result["snapshot_href"] == f"{rest.root}/vms/201/snapshots/{result['snapshot_id']}" == snapshot["href"]
    assert result["message"] == "Creating snapshot made for Instance id:201 name:'api-01'"
    unsupported = bad_request("Unsupported Action revert for the snapshots resource specified")
    assert rest.post("/vms/201/snapshots/7", {"action": "revert"}, 400) == unsupported
    hrefs = [f"{rest.root}/{name}/201/snapshots/{id}" for name, id in (("vms", 7), ("instances", 8))]
    results = rest.post("/vms/201/snapshots", {"action": "delete", "resources": [{"href": href} for href in hrefs]})
    for deleted in results["results"]:
        assert rest.finish(deleted["task_id"])["status"] == "Ok"
    answer = rest.http.delete(snapshot["href"])
    assert answer.status_code == 204
    rest.finish(answer.headers["location"].rpartition("/")[2])
    assert rest.get("/instances/201/snapshots")["count"] == 0


def test_the_rights_on_vms_and_on_instances_are_required(shared: Rest) -> None:
    def rights(*kinds: MachineKind) -> frozenset[Right]:
        return frozenset((SnapshotAction.READ, kind) for kind in kinds)

    paths = ("/vms/201", "/vms/201/snapshots", "/vms/201/snapshots/7")
    vms_only = as_caller(shared, "vms-only", READER)
    instances_only = as_caller(shared, "instances-only", rights(MachineKind.INSTANCE))
    for path in paths:
        assert vms_only.get(path, 404) == missing("Vm", 201)
        assert instances_only.get(path, 403)["error"]["message"] == "Use of the read action is forbidden"
    both = as_caller(shared, "both", rights(MachineKind.VM, MachineKind.INSTANCE))
    assert both.get("/vms/201")["id"] == "201"
    assert both.post("/vms/201/snapshots", {"name": "x"}, 403)["error"]["message"] == (
        "Use of Action create is forbidden"
    )
    stranger = as_caller(shared, "elsewhere", rights(MachineKind.VM, MachineKind.INSTANCE), tenant="other")
    for path in paths:
        assert stranger.get(path, 404) == missing("Vm", 201)
