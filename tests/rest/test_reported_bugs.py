"""Bug reports about ManageIQ's API and similar ones, tried on the gateway."""

from tests.rest.test_writes import bad_request
from tests.rest.world import READER, Rest, as_caller


def test_an_offset_beyond_the_end_for_a_restricted_user(shared: Rest) -> None:
    """github.com/ManageIQ/manageiq-api/issues/710 and manageiq/issues/15638: 500 for users that are not admin."""
    reader = as_caller(shared, "beyond", READER)
    for more in ({}, {"limit": 1}, {"filter": "name='web-*'"}):
        page = reader.get("/vms", offset=244, **more)
        assert [page["subcount"], page["resources"]] == [0, []]
        assert reader.get(page["links"]["previous"])["resources"]


def test_the_count_of_a_filtered_list(shared: Rest) -> None:
    """github.com/ManageIQ/manageiq/issues/16041: `count` is that of all VMs, so the number of pages is unknown."""
    attributes = "name,host,raw_power_state,ipaddresses,storages,hardware,lans"
    page = shared.get(
        "/vms", offset=0, limit=1, filter="ems_id='lab'", expand="resources", attributes=attributes, sort_by="name"
    )
    assert [page["count"], page["subquery_count"], page["subcount"], page["pages"]] == [30, 30, 1, 30]
    page = shared.get("/vms", limit=2, filter="name='web-*'")
    assert page["pages"] == -(-page["subquery_count"] // 2) < 15
    assert page["count"] == 30


def test_a_filter_in_quotes(shared: Rest) -> None:
    """github.com/ManageIQ/manageiq/issues/2524 and guides/issues/49: an SQL error, and 500 without brackets."""
    for name in ("filter[]", "filter"):
        answer = shared.http.get(f"{shared.root}/vms", params={"expand": "resources", name: "\"name='web-01'\""})
        assert (answer.status_code, answer.json()) == (400, bad_request('attribute Vm-"name does not exist'))
        found = shared.http.get(f"{shared.root}/vms", params={"expand": "resources", name: "name='web-01'"}).json()
        assert [row["name"] for row in found["resources"]] == ["web-01"]


def test_arrays_with_indexes(shared: Rest) -> None:
    """github.com/vmware-archive/vsphere-automation-sdk-ruby/issues/53: `filter.vms[0]` is an unexpected field."""
    found = shared.get(f"{shared.root}/vms/11/snapshots?filter[0]=id>3&filter[1]=id<5&expand=resources")
    assert [row["id"] for row in found["resources"]] == ["4"]


def test_a_task_ends_when_the_provider_has_done_the_work(rest: Rest) -> None:
    """github.com/ManageIQ/manageiq/issues/23588: deletes and reverts were "OK", but never reached the provider."""
    created = rest.create(name="test01")
    path = created["snapshot_href"].removeprefix(rest.root)
    task = rest.finish(rest.post(path, {"action": "revert"})["task_id"])
    assert [task["state"], task["status"], rest.get(path)["current"]] == ["Finished", "Ok", 1]
    task = rest.finish(rest.post(path, {"action": "delete"})["task_id"])
    assert [task["state"], task["status"]] == ["Finished", "Ok"]
    rest.get(path, 404)
