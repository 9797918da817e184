"""Requests of ManageIQ's other clients, replayed as their sources send them.

Sources, as of 2026-11: ManageIQ/manageiq-ui-service (collections-api.factory.js, vms.service.js and vms/
snapshots.component.js), ManageIQ/manageiq-ui-classic (app/javascript), ManageIQ/manageiq-api-client (lib/manageiq/api/
client), and the modules manageiq_* of ansible-collections/community.general (plugins/module_utils/_manageiq.py, through
manageiq-client). Collections and subcollections that the gateway does not have are refused with ManageIQ's message.
"""

from typing import Any, NamedTuple
from urllib.parse import quote

import pytest

from tests.rest.world import Rest

SERVICE_UI, CLASSIC_UI, RUBY, ANSIBLE = "manageiq-ui-service", "manageiq-ui-classic", "Ruby", "community.general"

# `VmsService.getVm` and `getInstance`
VM_ATTRIBUTES = (
    "advanced_settings,boot_time,cloud,compliances,custom_attributes,cpu_affinity,created_on,custom_actions,"
    "custom_action_buttons,disks,disks_aligned,drift_states,ems_cluster,ext_management_system,evm_owner,files,"
    "guest_applications,groups,guid,hardware,host,hostnames,id,ipaddresses,kernel_drivers,lans,last_sync_on,"
    "linux_initprocesses,last_compliance_status,miq_group,miq_provision,miq_provision_requests,miq_provision_vms,name,"
    "num_disks,parent_resource_pool,power_state,retired,retires_on,scan_histories,service,service.miq_request,"
    "service_resources,snapshots,state_changed_on,storages,tags,template,thin_provisioned,tools_status,uid_ems,users,"
    "used_storage,vendor,v_total_snapshots,vmsafe_enable,cpu_usagemhz_rate_average_avg_over_time_period,"
    "max_mem_usage_absolute_average_avg_over_time_period,hardware.aggregate_cpu_speed,allocated_disk_storage,ram_size,"
    "os_image_name"
)
INSTANCE_ATTRIBUTES = (
    "availability_zone,cloud_networks,cloud_subnets,cloud_tenant,cloud_volumes,flavor,floating_ip_addresses,key_pairs,"
    "load_balancers,mac_addresses,network_ports,network_routers,miq_provision_template,orchestration_stack,"
    "security_groups"
)

NAME_FILTER = "name='%test%'"


class Recorded(NamedTuple):
    """A read as a client sends it, with the status of the response, and its message if that is an error."""

    client: str
    path: str  # encoded as the client encodes it
    status: int = 200
    message: str = ""


def encoded(text: str) -> str:
    """As `encodeURIComponent` does."""
    return quote(text, safe="!'()*~")


READS = [
    Recorded(SERVICE_UI, "?attributes=authorization"),
    Recorded(SERVICE_UI, "/auth?requester_type=ui"),
    Recorded(SERVICE_UI, f"/vms/11?attributes={encoded(VM_ATTRIBUTES)}&expand="),
    Recorded(SERVICE_UI, f"/vms/201?attributes={encoded(VM_ATTRIBUTES)}&expand="),
    Recorded(SERVICE_UI, f"/instances/201?attributes={encoded(INSTANCE_ATTRIBUTES)}"),
    Recorded(
        SERVICE_UI,
        "/vms/11/snapshots?attributes=&expand=resources&sort_by=name&sort_options=ignore_case&sort_order=asc",
    ),
    Recorded(
        SERVICE_UI,
        f"/vms/11/snapshots?attributes=&expand=resources&filter[]={encoded(NAME_FILTER)}"
        f"&filter[]={encoded('total_size=1')}&sort_by=create_time&sort_options=&sort_order=desc",
    ),
    Recorded(
        SERVICE_UI,
        f"/vms/11/snapshots?attributes=&expand=resources&filter[]={encoded('test=test')}"
        "&sort_by=name&sort_options=ignore_case&sort_order=asc",
        400,
        "attribute Snapshot-test does not exist",
    ),
    Recorded(
        SERVICE_UI,
        "/vms/11/metric_rollups/?capture_interval=daily&expand=resources&start_date=2026-11-30",
        400,
        "Unknown parameter 'capture_interval'.",
    ),
    Recorded(SERVICE_UI, "/event_streams?expand=resources", 400, "Unsupported Collection event_streams specified"),
    Recorded(CLASSIC_UI, "/vms/11"),
    Recorded(CLASSIC_UI, "/vms/?filter[]=ems_id=lab&expand=resources"),
    Recorded(CLASSIC_UI, "/vms/11?attributes=child_resources,parent_resource,custom_attributes"),
    Recorded(CLASSIC_UI, "/instances/201"),
    Recorded(CLASSIC_UI, "/auth?requester_type=ws"),
    Recorded(
        CLASSIC_UI,
        "/vms/11/disks?expand=resources&attributes=partitions_aligned",
        400,
        "Unsupported Sub-Collection disks specified",
    ),
    Recorded(RUBY, "?attributes=authorization"),
    Recorded(RUBY, "/vms?limit=1"),
    Recorded(RUBY, "/vms?expand=resources&filter%5B%5D=id%3D11&limit=1"),
    Recorded(RUBY, "/vms?attributes=name%2Cguid&expand=resources&filter%5B%5D=name%21%3D%27x%27&sort_by=name%2Cid&"
                   "sort_order=asc%2Cdesc&offset=2&limit=5"),
    Recorded(ANSIBLE, ""),
    Recorded(ANSIBLE, "/vms?filter%5B%5D=name+%3D+%27web-01%27"),
    Recorded(
        ANSIBLE,
        "/vms/11/tags?expand=resources&attributes=categorization",
        400,
        "Unsupported Sub-Collection tags specified",
    ),
    Recorded(
        ANSIBLE,
        "/vms/11/policy_profiles?expand=resources",
        400,
        "Unsupported Sub-Collection policy_profiles specified",
    ),
    Recorded(ANSIBLE, "/providers?filter%5B%5D=name+%3D+%27x%27", 400, "Unsupported Collection providers specified"),
]  # fmt: skip


@pytest.mark.parametrize("recorded", READS, ids=lambda recorded: f"{recorded.client} {recorded.path[:60]}")
def test_reads(shared: Rest, recorded: Recorded) -> None:
    answer = shared.http.get(shared.root + recorded.path)
    assert answer.status_code == recorded.status, answer.text
    if recorded.status != 200:
        assert answer.json()["error"]["message"].startswith(recorded.message)


def test_the_pages_of_the_service_ui(shared: Rest) -> None:
    """What `VmSnapshotsComponent` reads of its responses."""
    vm = shared.get(f"{shared.root}/vms/11?attributes={encoded(VM_ATTRIBUTES)}&expand=")
    asked = {name.partition(".")[0] for name in VM_ATTRIBUTES.split(",")}
    assert set(vm) == asked | {"href"}
    assert [vm["name"], vm["v_total_snapshots"], vm["custom_action_buttons"]] == ["web-01", 3, []]
    assert [snapshot["id"] for snapshot in vm["snapshots"]] == ["5", "4", "3"]
    page = shared.get(f"{shared.root}{READS[5].path}")
    assert page["subcount"] == 3
    assert all(row["create_time"] and row["name"] for row in page["resources"])


def test_snapshots_in_the_service_ui(rest: Rest) -> None:
    """`CollectionsApi.post` appends a slash and an id, which is empty for a list."""

    def post(path: str, body: Any) -> Any:
        answer = rest.http.post(
            f"{rest.root}/{path}", json=body, headers={"accept": "application/json, text/plain, */*"}
        )
        assert answer.status_code == 200, answer.text
        return answer.json()

    new = {"name": "by the Service UI", "description": "", "memory": False}
    (created,) = post("vms/11/snapshots//", {"action": "create", "resources": [new]})["results"]
    rest.finish(created["task_id"])
    rest.finish(post("vms/11/snapshots/3/", {"action": "revert"})["task_id"])
    rows = rest.get("/vms/11/snapshots", expand="resources")["resources"]
    # "Delete all snapshots" sends the rows as they were received.
    results = post("vms/11/snapshots//", {"action": "delete", "resources": rows})["results"]
    assert [result["success"] for result in results] == [True] * 4
    for result in results:
        rest.finish(result["task_id"])
    assert rest.get("/vms/11/snapshots")["count"] == 0


def test_the_snapshot_form_of_the_classic_ui(rest: Rest) -> None:
    options = rest.http.options(f"{rest.root}/vms/11/snapshots").json()
    assert options["data"]["snapshot_form_schema"]["fields"]
    answer = rest.http.options(f"{rest.root}/vms/11?option_action=resize")
    assert (answer.status_code, answer.json()["error"]["kind"]) == (400, "bad_request")
    result = rest.post("/vms/11/snapshots", {"name": "by the classic UI", "memory": True})["results"][0]
    assert rest.finish(result["task_id"])["status"] == "Ok"
