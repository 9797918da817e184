"""`GET /api` with what ManageIQ's clients read from it, and the routes beside it."""

from gateway import version
from gateway.access.caller import ALL_RIGHTS
from gateway.rest.features import FEATURES
from tests.rest.authenticators import FixedCaller
from tests.rest.world import READER, Rest, as_caller, mounted


def test_the_settings_server_and_product(shared: Rest) -> None:
    body = shared.get("")
    assert body["settings"] == {"locale": "en", "asynchronous_notifications": False}
    server = body["server_info"]
    assert server.pop("time").endswith("Z")
    assert server == {
        "version": version.VERSION,
        "build": None,
        "release": None,
        "appliance": "Snapshot gateway",
        "server_href": None,
        "zone_href": None,
        "region_href": None,
        "enterprise_href": None,
        "plugins": {},
    }
    assert body["timezones"] == [{"name": "UTC", "description": "(GMT+00:00) UTC"}]
    assert body["product_info"]["authentication"] == {
        "mode": "database",
        "oidc_enabled": False,
        "saml_enabled": False,
        "sso_enabled": False,
    }
    assert [collection["name"] for collection in body["collections"]] == ["instances", "tasks", "vms"]
    assert "authorization" not in body


def test_the_identity_has_the_members_of_manageiqs(shared: Rest) -> None:
    reader = as_caller(shared, "miq-reader", READER)
    features = ["vm_show_list", "vm_show", "vm_snapshot_view", "sui_vm_snapshots_view", "miq_task_all_ui"]
    assert reader.get("")["identity"] == {
        "userid": "miq-reader",
        "name": "miq-reader",
        "user_href": None,
        "group": "default",
        "group_href": None,
        "role": "reader",
        "role_href": None,
        "tenant": "default",
        "groups": ["default"],
        "miq_groups": [{"description": "default", "product_features": features, "sui_product_features": {}}],
    }
    authorization = reader.get("", attributes="authorization")["authorization"]
    assert list(authorization["product_features"]) == features
    assert authorization["product_features"]["vm_snapshot_view"] == {
        "name": "Vm Snapshot View",
        "description": "ManageIQ's product feature vm_snapshot_view",
    }


def test_every_right_has_its_features(shared: Rest) -> None:
    assert set(FEATURES) == ALL_RIGHTS
    features = shared.get("", attributes="authorization")["authorization"]["product_features"]
    assert set(features) == {*(each for one in FEATURES.values() for each in one), "miq_task_all_ui", "miq_task_delete"}


def test_other_attributes_of_the_entry_point_are_refused(shared: Rest) -> None:
    assert shared.refusal("", attributes="authorization,nonsense") == "Invalid attributes specified: nonsense"


def test_ping_and_product_info_need_no_credentials(shared: Rest) -> None:
    closed = mounted(shared, "/closed-to-all", FixedCaller(None))
    for path in ("/ping", "/v4.4.0/ping"):
        answer = closed.http.get(closed.root + path)
        assert (answer.status_code, answer.text) == (200, "pong")
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert closed.http.head(f"{closed.root}/ping").content == b""
    for path in ("/product_info", "/v4.0.0/product_info"):
        assert closed.get(path) == shared.get("")["product_info"]
    for method, path in (("POST", "/ping"), ("GET", "/v9/ping"), ("GET", "/ping/x"), ("OPTIONS", "")):
        assert closed.http.request(method, closed.root + path).status_code == 401


def test_options_of_the_entry_point(shared: Rest) -> None:
    answer = shared.http.options(shared.root)
    assert (answer.status_code, answer.content) == (200, b"")


def test_sort_options_in_any_case(shared: Rest) -> None:
    message = "Snapshot cannot be sorted by total_size with sort_options=ignore_case."
    for options in ("IGNORE_CASE", "Ignore_Case", "unknown, Ignore_Case"):
        assert shared.refusal("/vms/11/snapshots", sort_by="total_size", sort_options=options) == message
