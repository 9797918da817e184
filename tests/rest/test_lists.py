"""Lists: their envelope, counts, links between pages, rows, attributes and order."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.rest.world import Rest
from tests.waiting import at_most


def names(body: Any, *left_out: str) -> list[str]:
    return [name for name in body if name not in left_out]


def test_the_envelope(shared_both: Rest) -> None:
    url = f"{shared_both.root}/vms/11/snapshots"
    assert shared_both.get("/vms/11/snapshots", hide="resources") == {
        "name": "snapshots",
        "count": 3,
        "subcount": 3,
        "pages": 1,
        "actions": [{"name": name, "method": "post", "href": url} for name in ("create", "delete")],
        "links": {
            "self": f"{url}?hide=resources",
            "first": f"{url}?hide=resources&limit=1000&offset=0",
            "last": f"{url}?hide=resources&limit=1000&offset=0",
        },
    }


def test_counts_are_those_of_this_machine(shared_both: Rest) -> None:
    body = shared_both.get("/vms/11/snapshots", filter="name='*e*'", limit=2)
    assert [body[name] for name in ("count", "subcount", "subquery_count", "pages")] == [3, 2, 3, 2]
    assert "subquery_count" not in shared_both.get("/vms/11/snapshots")
    nothing = shared_both.get("/vms/11/snapshots", filter="name=none")
    assert [nothing[name] for name in ("count", "subcount", "subquery_count", "pages")] == [3, 0, 0, 0]
    assert nothing["links"]["last"].endswith("offset=0")


def test_counts_of_a_collection(shared_both: Rest) -> None:
    vms = shared_both.get("/vms")
    assert (vms["count"], vms["subcount"], vms["pages"]) == (30, 30, 1)
    some = shared_both.get("/vms", filter="name='web-*'")
    assert (some["count"], some["subquery_count"]) == (30, len(some["resources"]))
    assert shared_both.get("/instances")["count"] == 24


@pytest.mark.parametrize("limit", [1, 7, 10, 15, 29, 30, 31])
def test_links_page_through_the_list_in_both_directions(shared: Rest, limit: int) -> None:
    page = shared.get("/vms", limit=limit, sort_by="id", expand="resources", attributes="id")
    everything = shared.ids("/vms", sort_by="id")
    seen = [row["id"] for row in page["resources"]]
    for _ in at_most(30):
        if "next" not in page["links"]:
            break
        page = shared.get(page["links"]["next"])
        assert page["resources"], "a link to an empty page"
        seen += [row["id"] for row in page["resources"]]
    assert seen == everything
    assert page["pages"] == -(-30 // limit)
    assert shared.get(page["links"]["last"])["resources"] == page["resources"]
    seen = [row["id"] for row in page["resources"]]
    for _ in at_most(30):
        if "previous" not in page["links"]:
            break
        page = shared.get(page["links"]["previous"])
        seen = [row["id"] for row in page["resources"]] + seen
    assert seen == everything
    assert shared.get(page["links"]["first"])["resources"] == page["resources"]


def test_links_keep_the_filters(shared: Rest) -> None:
    page = shared.get("/vms/11/snapshots", filter=["name='test-*'", "or name=~/ä+ &%/"], limit=2, sort_by="name")
    again = shared.get(page["links"]["next"])
    assert (again["subquery_count"], again["subcount"]) == (3, 1)
    assert shared.get(again["links"]["previous"])["resources"] == page["resources"]


def test_beyond_the_end(shared: Rest) -> None:
    page = shared.get("/vms/11/snapshots", limit=2, offset=10)
    assert (page["subcount"], page["resources"]) == (0, [])
    assert "next" not in page["links"]
    assert page["links"]["previous"] == page["links"]["last"]
    assert shared.get(page["links"]["previous"])["subcount"] == 1
    nothing = shared.get("/vms/11/snapshots", limit=2, offset=10, filter="name=none")
    assert sorted(nothing["links"]) == ["first", "last", "self"]
    assert shared.get("/vms/11/snapshots", limit=2, offset=10**30)["resources"] == []


def test_previous_is_never_negative(shared: Rest) -> None:
    links = shared.get("/vms/11/snapshots", limit=2, offset=1)["links"]
    assert links["previous"] == links["first"]


def test_limit_0_returns_counts_only(shared: Rest) -> None:
    page = shared.get("/vms/11/snapshots", limit=0)
    assert [page[name] for name in ("count", "subcount", "pages", "resources")] == [3, 0, 0, []]
    message = "Limit must be greater than zero if offset is specified"
    assert shared.refusal("/vms/11/snapshots", limit=0, offset=1) == message


@pytest.mark.parametrize("value", ["-1", "1.5", "0'", "a"])
@pytest.mark.parametrize("name", ["limit", "offset"])
def test_non_numeric_parameters(shared: Rest, name: str, value: str) -> None:
    assert shared.refusal("/vms/11/snapshots", **{name: value}) == f"Non numeric parameter: {name}"


def test_a_limit_above_the_maximum_is_reduced(shared: Rest) -> None:
    assert shared.get("/vms/11/snapshots", limit=5_000)["links"]["first"].endswith("limit=1000&offset=0")


def test_expanded_rows(shared_both: Rest) -> None:
    row = shared_both.get("/vms/11/snapshots", expand="resources", limit=1, offset=1)["resources"][0]
    here = f"{shared_both.root}/vms/11/snapshots/4"
    times = {name: row[name] for name in ("create_time", "created_on", "updated_on")}
    assert row == {
        "href": here,
        "id": "4",
        "name": "test-before-upgrade",
        "description": "Before the upgrade to 2.0",
        "uid": "snapshot-1004",
        "uid_ems": "snapshot-1004",
        "ems_ref": "snapshot-1004",
        "ems_ref_type": None,
        "type": "Snapshot",
        "parent_uid": "snapshot-1003",
        "parent_id": "3",
        "vm_or_template_id": "11",
        "current": 1,
        "total_size": 18 << 30,
        "filename": None,
        "disks": [],
        **times,
        "state": "ready",
        "memory": True,
        "created_by": "alice",
        "actions": [
            {"name": "revert", "method": "post", "href": here},
            {"name": "delete", "method": "post", "href": here},
        ],
    }
    assert all(len(time) == 20 and time.endswith("Z") for time in times.values())
    assert shared_both.get(here) == row


def test_an_instance_cannot_be_reverted(shared_both: Rest) -> None:
    actions = shared_both.get("/instances/201/snapshots/7")["actions"]
    assert [(action["name"], action["method"]) for action in actions] == [("delete", "post")]


def test_attributes(shared_both: Rest) -> None:
    def row(attributes: str) -> Any:
        return shared_both.get("/vms", filter="id=11", expand="resources", attributes=attributes)["resources"][0]

    assert names(row("name")) == ["href", "id", "name"]
    assert names(row("name,actions")) == ["href", "id", "name"]  # machines have no actions
    snapshot = shared_both.get("/vms/11/snapshots/4", attributes="name,actions")
    assert names(snapshot) == ["href", "id", "name", "actions"]
    assert row("name,host.name,ext_management_system") == {
        "href": f"{shared_both.root}/vms/11",
        "id": "11",
        "name": "web-01",
        "host": {"name": "esx-01"},
        "ext_management_system": {"name": "lab"},
    }
    virtual = row("v_total_snapshots,v_snapshot_oldest_name,v_snapshot_newest_total_size,v_snapshot_newest_timestamp")
    assert virtual["name"] == "web-01"  # if only virtual attributes are named, the physical ones are shown, too
    assert "actions" not in virtual
    assert virtual["v_total_snapshots"] == 3
    assert virtual["v_snapshot_oldest_name"] == "test-base"
    assert virtual["v_snapshot_newest_total_size"] == 13 << 30
    assert virtual["v_snapshot_newest_timestamp"] == shared_both.get("/vms/11/snapshots/5")["create_time"]
    parent = shared_both.get("/vms/11/snapshots/4", attributes="name,parent.name,vm_or_template.power_state")
    assert (parent["parent"], parent["vm_or_template"]) == ({"name": "test-base"}, {"power_state": "on"})


@pytest.mark.parametrize("expand", ["", "resources"])
def test_unknown_attributes(shared: Rest, expand: str) -> None:
    for attributes, invalid in (("x,name,y", "x,y"), ("host.y", "host.y"), ("a.b.c", "a.b.c"), ("Name", "Name")):
        found = shared.refusal("/vms", attributes=attributes, expand=expand)
        assert found == f"Invalid attributes specified: {invalid}"


@pytest.mark.parametrize("parameters", [{"expand": "resources,snapshots"}, {"attributes": "snapshots"}])
def test_machines_with_their_snapshots(shared_both: Rest, parameters: dict[str, str]) -> None:
    found = shared_both.get("/vms", **{"expand": "resources", **parameters})["resources"]
    by_id = {row["id"]: row for row in found}
    assert by_id["11"]["name"] == "web-01"
    expected = shared_both.get("/vms/11/snapshots", expand="resources")["resources"]
    assert by_id["11"]["snapshots"] == expected
    assert shared_both.get("/vms/11", expand="snapshots")["snapshots"] == expected
    assert {len(row["snapshots"]) for row in found} > {0, 3}


def test_a_subcollection_named_twice(shared: Rest) -> None:
    message = "Cannot expand subcollection snapshots by name and virtual attribute"
    assert shared.refusal("/vms", expand="resources,snapshots", attributes="snapshots") == message


def test_machines(shared_both: Rest) -> None:
    vm = shared_both.get("/vms/11")
    assert (vm["href"], vm["type"]) == (f"{shared_both.root}/vms/11", "ManageIQ::Providers::InfraManager::Vm")
    assert (vm["power_state"], vm["archived"], vm["ems_ref"]) == ("on", False, "vm-1011")
    instance = shared_both.get("/instances/201", attributes="name,flavor.name,availability_zone.name")
    assert (instance["flavor"], instance["availability_zone"]) == ({"name": "m1.medium"}, {"name": "zone-a"})


def test_parameters_that_narrow_a_collection(shared: Rest) -> None:
    assert shared.get("/vms", collection_class="Vm")["count"] == 30
    message = "Invalid collection_class MiqTemplate specified for the vms collection"
    assert shared.refusal("/vms", collection_class="MiqTemplate") == message
    message = "The parameter by_tag is not supported, because the gateway stores no tags."
    assert shared.refusal("/vms", by_tag="/department/finance") == message
    assert shared.refusal("/vms/11/snapshots", by_tag="/department/finance") == message  # ignored in ManageIQ


# ---- order


def test_the_default_order_is_newest_first(shared_both: Rest) -> None:
    assert shared_both.ids("/vms/11/snapshots") == ["5", "4", "3"]


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"sort_by": "name"}, ["test-base", "test-before-upgrade", "test-new-driver"]),
        ({"sort_by": "name", "sort_order": "descending"}, ["test-new-driver", "test-before-upgrade", "test-base"]),
        ({"sort_by": "name", "sort_order": "DESC"}, ["test-new-driver", "test-before-upgrade", "test-base"]),
        ({"sort_by": "name", "sort_order": "sideways"}, ["test-base", "test-before-upgrade", "test-new-driver"]),
        ({"sort_by": "description,id"}, ["test-before-upgrade", "test-base", "test-new-driver"]),
        ({"sort_by": "description,id", "sort_order": "desc"}, ["test-base", "test-new-driver", "test-before-upgrade"]),
        ({"sort_by": "memory,total_size"}, ["test-base", "test-new-driver", "test-before-upgrade"]),
        ({"sort_by": "current,parent_id,create_time", "sort_order": "asc,asc,desc"}, None),
    ],
)
def test_sorts(shared_both: Rest, parameters: dict[str, str], expected: list[str] | None) -> None:
    found = shared_both.get("/vms/11/snapshots", expand="resources", **parameters)["resources"]
    assert [row["name"] for row in found] == (expected or ["test-new-driver", "test-base", "test-before-upgrade"])


def test_case_is_ignored_with_or_without_an_order(shared_both: Rest) -> None:
    """In the demo data `Storage-01` is among names in lower case."""

    def found(**parameters: str) -> list[str]:
        rows = shared_both.get("/vms", expand="resources", attributes="name", sort_by="name", **parameters)["resources"]
        return [row["name"] for row in rows]

    assert found()[0] == "Storage-01"
    expected = sorted(found(), key=str.casefold)
    assert found(sort_options="ignore_case") == expected
    assert found(sort_options="unknown,ignore_case", sort_order="asc") == expected


def test_sorts_that_are_refused(shared: Rest) -> None:
    for path, name, message in (
        ("/vms/11/snapshots", "bogus", "bogus is not a valid attribute for Snapshot"),
        ("/vms/11/snapshots", "disks", "Snapshot cannot be sorted by disks"),
        ("/vms", "host.name", "host.name is not a valid attribute for Vm"),
    ):
        assert shared.refusal(path, sort_by=name) == message
    message = "Snapshot cannot be sorted by total_size with sort_options=ignore_case."
    assert shared.refusal("/vms/11/snapshots", sort_by="total_size", sort_options="ignore_case") == message


# ---- tasks


def test_tasks(shared_both: Rest) -> None:
    found = shared_both.get("/tasks", expand="resources", filter=["snapshot_id=4", "status=Ok"])["resources"]
    assert [(task["name"], task["state"], task["message"], task["userid"], task["pct_complete"]) for task in found] == [
        (
            "Creating snapshot test-before-upgrade for Virtual Machine id:11 name:'web-01'",
            "Finished",
            "Task completed successfully",
            "alice",
            100,
        )
    ]
    assert shared_both.get(found[0]["href"]) == found[0]
    assert shared_both.ids("/tasks", filter="name='*for Virtual Machine id:11 *'", sort_by="message,name") != []
    assert shared_both.ids("/tasks", filter=["state=Active", "or state=Queued", "or pct_complete<100"]) == []


@given(total=st.integers(0, 30), limit=st.integers(1, 12), offset=st.integers(0, 40))
def test_only_first_and_last_may_lead_to_an_empty_page(shared: Rest, total: int, limit: int, offset: int) -> None:
    ids = shared.ids("/vms", sort_by="id")[:total]
    page = shared.get("/vms", filter=f"id=[{','.join(ids)}]", limit=limit, offset=offset, sort_by="id")
    for name in {"previous", "next"} & set(page["links"]):
        assert shared.get(page["links"][name])["resources"]
    assert ("previous" in page["links"]) == (offset > 0 and total > 0)
    assert ("next" in page["links"]) == (offset + limit < total)
    assert bool(shared.get(page["links"]["last"])["resources"]) == (total > 0)


def test_no_action_is_listed_twice(shared_both: Rest) -> None:
    pages = [shared_both.get(path, expand="resources,snapshots") for path in ("/vms", "/instances", "/tasks")]
    machines = [row for page in pages for row in page["resources"]]
    snapshots = [snapshot for row in machines for snapshot in row.get("snapshots", [])]
    listed = [one["actions"] for one in (*pages, *machines, *snapshots) if "actions" in one]
    assert len(listed) > 10
    for actions in listed:
        names = [action["name"] for action in actions]
        assert names
        assert len(set(names)) == len(names)
