"""What is refused before it is a read or a write, in the order of checks, and who may do what."""

from typing import Any

import pytest

from gateway.access.caller import local_caller
from tests.rest.known import Known
from tests.rest.test_writes import LIST, ONE, bad_request, envelope, missing
from tests.rest.world import READER, Rest, as_caller, mounted


def no_route(method: str, path: str) -> Any:
    return envelope("not_found", f'No route matches [{method}] "/api{path}"', "ActionController::RoutingError")


def test_the_entry_point(readable: Rest) -> None:
    body = readable.get("")
    assert [body[name] for name in ("name", "description", "version")] == ["API", "REST API", "4.4.0"]
    assert body["versions"][0] == {"name": "4.4.0", "href": f"{readable.root}/v4.4.0"}
    assert [(found["name"], found["href"]) for found in body["collections"]] == [
        (name, f"{readable.root}/{name}") for name in ("instances", "tasks", "vms")
    ]
    assert all(found["description"] for found in body["collections"])
    assert (body["identity"]["userid"], body["identity"]["tenant"]) == ("local", "default")


def test_versions(reading: Rest) -> None:
    body = reading.get("/v4.4.0/vms/11/snapshots?limit=1")
    assert body["resources"] == [{"href": f"{reading.root}/v4.4.0/vms/11/snapshots/5"}]
    assert body["links"]["next"] == f"{reading.root}/v4.4.0/vms/11/snapshots?limit=1&offset=1"
    assert reading.get("/v4.4.0")["collections"][0]["href"] == f"{reading.root}/v4.4.0/instances"
    assert reading.get("/v9999.9999/vms", 400) == bad_request("Unsupported API Version 9999.9999 specified")


@pytest.mark.parametrize(
    ("path", "status", "expected"),
    [
        ("/foo", 400, bad_request("Unsupported Collection foo specified")),
        ("/snapshots", 400, bad_request("Unsupported Collection snapshots specified")),
        ("/vms/11/foo", 400, bad_request("Unsupported Sub-Collection foo specified")),
        ("/tasks/1/snapshots", 400, bad_request("Unsupported Sub-Collection snapshots specified")),
        ("/vms/abc", 400, bad_request("Invalid Vm id abc specified")),
        ("/vms/11/snapshots/abc", 400, bad_request("Invalid Snapshot id abc specified")),
        ("/vms/0", 404, missing("Vm", 0)),
        ("/vms/201", 404, missing("Vm", 201)),
        ("/instances/11", 404, missing("ManageIQ::Providers::CloudManager::Vm", 11)),
        ("/vms/11/snapshots/0", 404, missing("Snapshot", 0)),
        ("/vms/99999999999999999999/snapshots", 404, missing("Vm", 99999999999999999999)),
        ("/tasks/0", 404, missing("MiqTask", 0)),
        ("/vms/11/snapshots/3/x", 404, no_route("GET", "/vms/11/snapshots/3/x")),
    ],
)  # fmt: skip
def test_what_is_not_there(reading: Rest, path: str, status: int, expected: Any) -> None:
    assert reading.get(path, status) == expected


@pytest.mark.parametrize(
    ("method", "path"),
    [("PUT", ONE), ("PATCH", ONE), ("DELETE", LIST), ("PUT", LIST), ("PUT", "/vms/11"), ("POST", "")],
)
def test_methods_without_a_route(reading: Rest, method: str, path: str) -> None:
    answer = reading.http.request(method, reading.root + path)
    assert (answer.status_code, answer.json()) == (404, no_route(method, path))


def test_head_is_get_without_a_body(reading: Rest) -> None:
    answer = reading.http.head(reading.root + LIST)
    assert (answer.status_code, answer.content) == (200, b"")


def test_bodies_that_are_no_objects(reading: Rest) -> None:
    for content, klass in (
        (b"{", "JSON::ParserError"),
        (b"[1]", "Api::BadRequestError"),
        (b"\xff", "JSON::ParserError"),
    ):
        error = reading.http.post(reading.root + LIST, content=content).json()["error"]
        assert (error["kind"], error["klass"]) == ("bad_request", klass)


def test_the_content_type_is_ignored(rest: Rest) -> None:
    answer = rest.http.post(rest.root + LIST, content='{"name": "by curl -d"}', headers={"content-type": "text/plain"})
    assert answer.json()["results"][0]["success"] is True


def test_a_body_that_is_too_long(reading: Rest) -> None:
    answer = reading.http.post(reading.root + LIST, content=b" " * 1_048_577)
    assert answer.status_code == 413
    assert answer.json()["error"]["message"] == "The body is longer than 1048576 bytes"


def test_the_accepted_format(reading: Rest) -> None:
    xml = {"accept": "application/xml"}
    message = "Invalid Response Format application/xml requested"
    expected = envelope("unsupported_media_type", message, "Api::UnsupportedMediaTypeError")
    for path in ("", "/vms", "/vms/11", LIST, ONE):
        answer = reading.http.get(reading.root + path, headers=xml)
        assert (answer.status_code, answer.json()) == (415, expected)
    answer = reading.http.post(reading.root + LIST, json={"name": "x"}, headers={"accept": "text/html"})
    assert answer.status_code == 415
    assert answer.json()["error"]["message"] == "Invalid Response Format text/html requested"
    for accept in ("*/*", "text/html, application/json;q=0.1"):
        assert reading.http.get(reading.root + LIST, headers={"accept": accept}).status_code == 200
    assert reading.http.delete(f"{reading.root}/vms/11/snapshots/99", headers=xml).status_code == 404


def test_links_do_not_trust_the_host_header(reading: Rest) -> None:
    answer = reading.http.get(f"{reading.root}/vms/11", headers={"host": "localhost:1"})
    assert answer.json()["href"] == f"{reading.root}/vms/11"


def test_links_begin_with_the_public_url(reading: Rest) -> None:
    public = mounted(reading, "/public", Known(local_caller("default")), "https://gateway.example/base/")
    body = public.get("/v4.4.0/vms/11/snapshots?limit=1")
    assert body["resources"] == [{"href": "https://gateway.example/base/api/v4.4.0/vms/11/snapshots/5"}]
    assert body["links"]["self"] == "https://gateway.example/base/api/v4.4.0/vms/11/snapshots?limit=1"


def test_nobody_known_is_asking(reading: Rest) -> None:
    closed = mounted(reading, "/closed", Known(None))
    klass = "Api::BaseController::Authentication::AuthenticationError"
    for path in ("", "/foo", "/v9/vms", LIST, "/auth"):
        answer = closed.http.get(closed.root + path, headers={"X-Auth-Token": "unknown"})
        assert (answer.status_code, answer.json()) == (401, envelope("unauthorized", "Invalid credentials", klass))
        assert answer.headers.get_list("www-authenticate") == [
            'Basic realm="snapshot gateway", charset="UTF-8"',
            'Bearer realm="snapshot gateway"',
        ]


# ---- rights


def test_rights_come_before_what_is_there(reading: Rest) -> None:
    nobody = as_caller(reading, "nobody", frozenset())

    def forbidden(message: str) -> Any:
        return envelope("forbidden", message, "Api::ForbiddenError")

    for path in ("/vms", "/vms/99", "/vms/99/snapshots", "/instances/201/snapshots/7"):
        assert nobody.get(path, 403) == forbidden("Use of the read action is forbidden")
    assert nobody.post("/vms/99/snapshots", {}, 403) == forbidden("Use of Action create is forbidden")
    bulk = {"action": "delete", "resources": [{"id": "abc"}]}
    assert nobody.post(LIST, bulk, 403) == forbidden("Use of Action delete is forbidden")
    assert nobody.post(ONE, {"action": "revert"}, 403) == forbidden("Use of Action revert is forbidden")
    answer = nobody.http.delete(nobody.root + ONE)
    assert (answer.status_code, answer.json()) == (403, forbidden("Use of the delete action is forbidden"))
    assert reading.get(LIST)["count"] == 3


def test_actions_are_what_the_caller_may_do(reading: Rest) -> None:
    reader = as_caller(reading, "reader", READER)
    assert reader.get(LIST)["actions"] == []
    assert reader.get(ONE)["actions"] == []
    assert reader.get("/instances", 403)["error"]["kind"] == "forbidden"


def test_another_tenant_sees_nothing(reading: Rest) -> None:
    stranger = as_caller(reading, "stranger", READER, tenant="other")
    assert stranger.get("/vms")["count"] == 0
    assert stranger.get("/tasks")["count"] == 0
    assert stranger.get(LIST, 404) == missing("Vm", 11)
    assert stranger.get(ONE, 404) == missing("Vm", 11)
    assert stranger.get("/tasks/1", 404) == missing("MiqTask", 1)
    assert stranger.get("/vms", filter="name=~/./")["resources"] == []


# ---- OPTIONS and tokens


def test_options(reading: Rest) -> None:
    found = {name: reading.http.options(f"{reading.root}/{name}").json() for name in ("vms", "instances", "tasks")}
    assert found["vms"]["subcollections"] == found["instances"]["subcollections"] == ["snapshots"]
    assert (found["tasks"]["subcollections"], found["tasks"]["data"]) == ([], {})
    assert found["vms"]["relationships"] == ["ext_management_system", "host", "snapshots"]
    assert "v_total_snapshots" in found["vms"]["virtual_attributes"]
    form = reading.http.options(reading.root + LIST).json()
    assert form["attributes"] == found["vms"]["attributes"]  # the parent's
    assert [field["name"] for field in form["data"]["snapshot_form_schema"]["fields"]] == [
        *("name", "description", "memory")
    ]
    assert reading.http.options(f"{reading.root}/vms/99/snapshots").json() == missing("Vm", 99)


def test_tokens(reading: Rest) -> None:
    for method in ("GET", "POST"):
        answer = reading.http.request(method, f"{reading.root}/auth", auth=("admin", "smartvm"))
        body = answer.json()
        assert (answer.status_code, body["token_ttl"], body["auth_token"][:4]) == (200, 600, "sgs_")
        assert body["expires_on"].endswith("Z")
        headers = {"X-Auth-Token": body["auth_token"]}
        assert reading.http.get(reading.root, headers=headers).json()["identity"]["userid"] == "local"
        gone = reading.http.delete(f"{reading.root}/auth", headers=headers)
        assert (gone.status_code, gone.content) == (204, b"")
