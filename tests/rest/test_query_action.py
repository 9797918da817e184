"""The action `query`: several resources by their ids in one request, and `collection_class`."""

from collections.abc import Iterator

import pytest

from gateway.access.caller import local_caller
from gateway.config import Settings
from tests.databases import Databases
from tests.rest.authenticators import FixedCaller
from tests.rest.test_writes import bad_request, envelope, missing
from tests.rest.world import READER, Json, Rest, as_caller, mounted, rest_served


def query(rest: Rest, collection: str, *resources: object, status: int = 200, url: str = "") -> Json:
    body = {"action": "query", "resources": list(resources)}
    found: Json = rest.post(f"/{collection}{url}", body, status)
    return found


def test_the_collections_offer_the_action(shared: Rest) -> None:
    for collection, names in (("vms", ["query"]), ("instances", ["query"]), ("tasks", ["query", "delete"])):
        assert shared.get(f"/{collection}", limit=1)["actions"] == [
            {"name": name, "method": "post", "href": f"{shared.root}/{collection}"} for name in names
        ]


def test_resources_by_id_and_href_in_their_order(shared_both: Rest) -> None:
    rows = {id: shared_both.get(f"/vms/{id}") for id in (11, 12)}
    assert query(shared_both, "vms", {"id": 12}, {"href": "http://other.example/api/vms/11"}, {"id": "12"}) == {
        "results": [rows[12], rows[11]]
    }
    assert shared_both.post("/vms", {"action": "query", "id": 11}) == {"results": [rows[11]]}
    assert shared_both.post("/vms", {"action": "query", "resource": {"id": "11"}}) == {"results": [rows[11]]}
    assert query(shared_both, "instances", {"id": 201})["results"] == [shared_both.get("/instances/201")]


def test_the_shape_is_that_of_a_resource(shared_both: Rest) -> None:
    parameters = "attributes=name,host.name,v_total_snapshots&expand=snapshots"
    found = query(shared_both, "vms", {"id": 11}, {"id": 12}, url=f"?{parameters}")
    assert found["results"] == [shared_both.get(f"/vms/{id}?{parameters}") for id in (11, 12)]
    refused = query(shared_both, "vms", {"id": 11}, status=400, url="?attributes=nonsense")
    assert refused == bad_request("Invalid attributes specified: nonsense")


def test_vms_contain_instances(shared_both: Rest) -> None:
    """In the order of the request, with links below `/vms`, for callers that may read both."""
    expected = [shared_both.get(f"/vms/{id}") for id in (201, 11, 202)]
    assert query(shared_both, "vms", {"id": 201}, {"id": 11}, {"id": 202})["results"] == expected
    assert expected[0]["href"] == f"{shared_both.root}/vms/201"
    reader = as_caller(shared_both, "reader-of-vms", READER)
    assert query(reader, "vms", {"id": 201}, status=404) == missing("Vm", 201)


def test_tasks(rest: Rest) -> None:
    made = [rest.create(name=name)["task_id"] for name in ("a", "b")]
    assert [task["id"] for task in query(rest, "tasks", *({"id": id} for id in made))["results"]] == made


@pytest.mark.parametrize(
    ("item", "status", "expected"),
    [
        ({"id": 99}, 404, missing("Vm", 99)),
        ({"id": 0}, 404, missing("Vm", 0)),
        (
            {"guid": "B999999D", "old": None, "tags": ["a"]},
            404,
            envelope(
                "not_found",
                "Invalid vms resource specified - guid=B999999D, old=nil, tags=[…]",
                "ActiveRecord::RecordNotFound",
            ),
        ),
        (
            {"href": "http://localhost/api/instances/201"},
            404,
            envelope(
                "not_found",
                "Invalid vms resource specified - href=http://localhost/api/instances/201",
                "ActiveRecord::RecordNotFound",
            ),
        ),
        ({"id": "abc"}, 400, bad_request("Invalid Vm id abc specified")),
        ({"id": None}, 400, bad_request("Invalid Vm id nil specified")),
        ({"id": True}, 400, bad_request("Invalid Vm id true specified")),
        ({"id": 2**63}, 400, bad_request("Invalid Vm id 9223372036854775808 specified")),
        ("11", 400, bad_request("No vms resources were specified for the query action")),
    ],
)  # fmt: skip
def test_an_item_that_names_no_resource(shared: Rest, item: object, status: int, expected: object) -> None:
    assert query(shared, "vms", {"id": 11}, item, status=status) == expected


def test_the_number_of_resources_is_limited(shared: Rest) -> None:
    assert query(shared, "vms", status=400) == bad_request("No vms resources were specified for the query action")
    many = [{"id": 11}] * 1_001
    assert query(shared, "vms", *many, status=400) == bad_request("A request may name at most 1000 vms.")
    assert len(query(shared, "vms", *many[:1_000])["results"]) == 1


@pytest.fixture
def cheap(databases: Databases) -> Iterator[Rest]:
    """A gateway where a request may cost 6: a list of five machines."""
    settings = Settings(database_url=databases.new("sqlite", demo=True), drain_timeout=0.01, max_cost=6)
    with rest_served(settings) as rest:
        yield rest


def test_it_costs_what_a_list_costs(cheap: Rest) -> None:
    ids = [row["id"] for row in cheap.get("/vms", expand="resources", attributes="id", limit=5)["resources"]]
    assert len(query(cheap, "vms", *({"id": id} for id in ids))["results"]) == 5
    refused = query(cheap, "vms", *({"id": id} for id in [*ids, 99]), status=400)
    assert refused["error"]["message"].startswith("The request costs 7 or more, and the limit is 6.")


def test_rights_and_tenants(shared: Rest) -> None:
    reader = as_caller(shared, "query-reader", READER)
    assert query(reader, "vms", {"id": 11})["results"][0]["id"] == "11"
    forbidden = envelope("forbidden", "Use of Action query is forbidden", "Api::ForbiddenError")
    assert query(reader, "instances", {"id": 201}, status=403) == forbidden
    other = mounted(shared, "/query-other-tenant", FixedCaller(local_caller("other")))
    assert query(other, "vms", {"id": 11}, status=404) == missing("Vm", 11)


def test_other_actions_stay_unsupported(shared: Rest) -> None:
    for path, message in (
        ("/vms", "Unsupported Action start for the vms collection specified"),
        ("/vms/11", "Unsupported Action start for the vms resource specified"),
    ):
        assert shared.post(path, {"action": "start"}, 400) == bad_request(message)
    for value in (None, False, ""):  # as in ManageIQ, a body without an action creates
        assert shared.post("/vms", {"action": value}, 400) == bad_request(
            "Unsupported Action create for the vms collection specified"
        )
    assert shared.post("/vms", {"action": True}, 400) == bad_request(
        "Unsupported Action true for the vms collection specified"
    )


# ---- collection_class


VMWARE = "ManageIQ::Providers::Vmware::InfraManager::Vm"
OPENSTACK = "ManageIQ::Providers::Openstack::CloudManager::Vm"


@pytest.fixture
def of_drivers(rest_both: Rest) -> Rest:
    """The demo data as if the machine 11 belonged to vSphere, and 201 to OpenStack."""
    for number, driver in ((11, "vsphere"), (201, "openstack")):
        rest_both.sql(
            "INSERT INTO provider (name, tenant, driver)"
            f" SELECT 'of-{driver}', tenant, '{driver}' FROM machine WHERE id = {number}"
        )
        rest_both.sql(f"UPDATE machine SET provider = 'of-{driver}' WHERE id = {number}")
    return rest_both


def test_the_class_of_a_provider_narrows_a_collection(of_drivers: Rest) -> None:
    assert of_drivers.get("/vms/11")["type"] == VMWARE
    assert of_drivers.get("/instances/201")["type"] == OPENSTACK
    everything = of_drivers.get("/vms")["count"]
    assert of_drivers.ids("/vms", collection_class=VMWARE) == ["11"]
    assert of_drivers.ids("/instances", collection_class=OPENSTACK) == ["201"]
    found = of_drivers.get("/vms", collection_class=VMWARE, filter="name='*'")
    assert (found["count"], found["subcount"], found["subquery_count"]) == (1, 1, 1)
    none = of_drivers.get("/vms", collection_class=VMWARE, filter="name!~/web/")
    assert (none["count"], none["subcount"], none["subquery_count"]) == (1, 0, 0)
    assert of_drivers.ids("/instances", collection_class="ManageIQ::Providers::Amazon::CloudManager::Vm") == []
    for whole in ("Vm", "ManageIQ::Providers::InfraManager::Vm", ""):
        assert of_drivers.get("/vms", collection_class=whole)["count"] == everything


def test_another_class_is_refused(shared: Rest) -> None:
    for collection, name in (("vms", OPENSTACK), ("vms", "Nonsense"), ("instances", VMWARE), ("tasks", "Vm")):
        assert shared.refusal(f"/{collection}", collection_class=name) == (
            f"Invalid collection_class {name} specified for the {collection} collection"
        )
