"""Every attribute of every class, in filters, sorts and rows: it works with every operator, or is refused."""

import pytest

from gateway.rest.attributes import Attribute
from gateway.rest.classes import SNAPSHOTS, TASKS, VMS, ResourceClass
from tests.rest.world import Rest

PATHS = {"/vms": VMS, "/tasks": TASKS, "/vms/11/snapshots": SNAPSHOTS}  # instances have the same attributes as vms
VALUES = {"text": "'a*'", "integer": "9223372036854775807", "id": "1", "boolean": "true", "timestamp": "today"}


def operators(attribute: Attribute) -> list[str]:
    """The operators that the attribute supports with a plain value, except `=` and `!=`."""
    equality, relations, patterns = ["==", "!=="], ["<", "<=", ">", ">="], ["=~", "!~"]
    return (
        equality + (relations if attribute.kind != "boolean" else []) + (patterns if attribute.kind == "text" else [])
    )


@pytest.mark.parametrize("path", PATHS)
def test_filters_and_sorts(shared_both: Rest, path: str) -> None:
    class_: ResourceClass = PATHS[path]
    everything = shared_both.get(path, hide="resources")["count"]
    for name, attribute in class_.attributes.items():
        if attribute.unknown:  # see `test_attributes_that_only_manageiq_knows`
            continue
        if attribute.kind == "opaque":
            shared_both.refusal(path, filter=f"{name}=NULL")
            shared_both.refusal(path, sort_by=name)
            continue
        value = VALUES[attribute.kind]
        null = shared_both.get(path, filter=f"{name}=NULL", limit=0)["subquery_count"]
        assert null == 0 or attribute.nullable, name
        if attribute.kind == "timestamp":
            shared_both.get(path, filter=[f"or {name}{operator}{value}" for operator in "=<>"], limit=0)
        else:
            both = [shared_both.get(path, filter=f"{name}{sign}{value}", limit=0) for sign in ("=", "!=")]
            assert sum(page["subquery_count"] for page in both) == everything, name
            shared_both.get(path, filter=[f"or {name}{operator}{value}" for operator in operators(attribute)], limit=0)
        assert shared_both.get(path, sort_by=name, sort_order="desc")["subcount"] == everything
        if attribute.folded_column is None:
            shared_both.refusal(path, sort_by=name, sort_options="ignore_case")
        else:
            shared_both.get(path, sort_by=name, sort_options="ignore_case", limit=1)


@pytest.mark.parametrize("path", PATHS)
def test_rows(shared_both: Rest, path: str) -> None:
    class_ = PATHS[path]
    for name, attribute in class_.attributes.items():
        if attribute.is_shown:
            row = shared_both.get(path, expand="resources", attributes=name, limit=1)["resources"][0]
            assert set(row) == {"href", "id", name}
    for name, association in class_.associations.items():
        if name not in class_.subcollections:
            inner = [own for own, attribute in association.attributes().items() if not attribute.unknown]
            named = ",".join(f"{name}.{own}" for own in inner)
            row = shared_both.get(path, expand="resources", attributes=f"id,{named}", limit=1)["resources"][0]
            assert row[name] is None or set(row[name]) == set(inner)
            assert shared_both.get(path, expand="resources", attributes=f"id,{name}", limit=1)["subcount"] == 1


UNKNOWN = {name: attribute for name, attribute in VMS.attributes.items() if attribute.unknown}
PLAIN = [name for name, attribute in UNKNOWN.items() if attribute.kind != "opaque"]


def test_attributes_that_only_manageiq_knows(shared_both: Rest) -> None:
    """They are null for every row, in filters as well, and shown only if they are named."""
    row = shared_both.get("/vms/11", attributes=",".join(UNKNOWN))
    assert all(row[name] in (None, []) for name in UNKNOWN)
    assert not set(UNKNOWN) & set(shared_both.get("/vms/11"))
    by_kind = {UNKNOWN[name].kind: name for name in PLAIN}
    assert set(by_kind) == {"text", "integer", "id", "boolean", "timestamp"}
    for kind, name in by_kind.items():
        equal = f"{name}={VALUES[kind]}"
        assert shared_both.get("/vms", limit=0, filter=[f"{name}=NULL", f"or {equal}"])["subquery_count"] == 30
        assert shared_both.get("/vms", limit=0, filter=[f"or {name}!=NULL", f"or {equal}"])["subquery_count"] == 0
        assert shared_both.get("/vms", sort_by=f"{name},id", sort_order="desc")["subcount"] == 30
    names = PLAIN[:300]  # a request has at most 500 filters
    assert shared_both.get("/vms", limit=0, filter=[f"{name}=NULL" for name in names])["subquery_count"] == 30
    assert shared_both.refusal("/vms", filter="hardware=NULL") == "attribute Vm-hardware does not exist"


def test_attributes_below_an_association_that_only_manageiq_knows(shared: Rest) -> None:
    row = shared.get("/vms/11", attributes="name,hardware.aggregate_cpu_speed,service.miq_request,flavor.name")
    assert [row[name] for name in ("name", "hardware", "service", "flavor")] == ["web-01", None, None, None]
    assert shared.get("/instances/201", attributes="host.name,flavor.name")["flavor"] == {"name": "m1.medium"}
    assert shared.refusal("/vms/11", attributes="hardwares.x") == "Invalid attributes specified: hardwares.x"


def test_attributes_that_are_derived(shared_both: Rest) -> None:
    expected = {
        "vendor": "unknown",
        "vendor_display": "Unknown",
        "cloud": False,
        "template": False,
        "active": True,
        "raw_power_state": "on",
        "host_name": "esx-01",
        "ems_id": "lab",
        "href_slug": "vms/11",
        "normalized_state": "on",
        "retired": None,
    }
    row = shared_both.get("/vms/11", attributes=f"guid,uid_ems,{','.join(expected)}")
    assert {name: row[name] for name in expected} == expected
    assert row["guid"] == row["uid_ems"]
    texts: dict[object, str] = {None: "NULL", True: "true", False: "false"}
    filters = [f"{name}={texts.get(value, value)}" for name, value in expected.items()]
    assert "11" in shared_both.ids("/vms", filter=filters)
    instances = shared_both.get("/instances", limit=0, filter=["cloud=true", "href_slug='instances/*'"])
    assert instances["subquery_count"] == 24
    assert shared_both.get("/vms/201", attributes="href_slug")["href_slug"] == "vms/201"
    assert {"guid", "vendor", "cloud", "template", "raw_power_state", "ems_id"} <= set(shared_both.get("/vms/11"))
    assert shared_both.get("/vms/11/snapshots/4", attributes="href_slug")["href_slug"] == "snapshots/4"
    task = shared_both.get("/tasks", filter="state_or_status=Ok", expand="resources", attributes="href_slug", limit=1)
    assert task["resources"][0]["href_slug"] == f"tasks/{task['resources'][0]['id']}"


def test_attributes_that_depend_on_the_provider(rest_both: Rest) -> None:
    for driver, vendor, shown in (("vsphere", "vmware", "VMware"), ("ec2", "amazon", "Amazon")):
        rest_both.sql(f"UPDATE provider SET driver = '{driver}' WHERE name = 'lab'")
        assert rest_both.get("/vms", filter=f"vendor={vendor}", limit=0)["subquery_count"] == 30
        row = rest_both.get("/vms/11", attributes="vendor,vendor_display")
        assert (row["vendor"], row["vendor_display"]) == (vendor, shown)
    rest_both.sql("UPDATE machine SET gone_at = created_at WHERE id = 11")
    row = rest_both.get("/vms/11", attributes="active,ems_id,normalized_state")
    assert [row[name] for name in ("active", "ems_id", "normalized_state")] == [False, None, "archived"]
    assert rest_both.ids("/vms", filter="ems_id=NULL") == rest_both.ids("/vms", filter="active=false") == ["11"]
