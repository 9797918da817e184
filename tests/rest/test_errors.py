"""Errors of requests, in the order of the checks; rights; OPTIONS and tokens."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.access.caller import local_caller
from tests.rest.authenticators import FixedCaller
from tests.rest.test_writes import LIST, ONE, bad_request, envelope, missing
from tests.rest.world import READER, Rest, as_caller, mounted


def no_route(method: str, path: str) -> Any:
    return envelope("not_found", f'No route matches [{method}] "/api{path}"', "ActionController::RoutingError")


def test_the_entry_point(shared_both: Rest) -> None:
    body = shared_both.get("")
    assert [body[name] for name in ("name", "description", "version")] == ["API", "REST API", "4.4.0"]
    assert body["versions"][0] == {"name": "4.4.0", "href": f"{shared_both.root}/v4.4.0"}
    assert [(found["name"], found["href"]) for found in body["collections"]] == [
        (name, f"{shared_both.root}/{name}") for name in ("instances", "tasks", "vms")
    ]
    assert all(found["description"] for found in body["collections"])
    assert (body["identity"]["userid"], body["identity"]["tenant"]) == ("local", "default")


def test_versions(shared: Rest) -> None:
    body = shared.get("/v4.4.0/vms/11/snapshots?limit=1")
    assert body["resources"] == [{"href": f"{shared.root}/v4.4.0/vms/11/snapshots/5"}]
    assert body["links"]["next"] == f"{shared.root}/v4.4.0/vms/11/snapshots?limit=1&offset=1"
    assert shared.get("/v4.4.0")["collections"][0]["href"] == f"{shared.root}/v4.4.0/instances"
    assert shared.get("/v9999.9999/vms", 400) == bad_request("Unsupported API Version 9999.9999 specified")


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
        ("/instances/11", 404, missing("ManageIQ::Providers::CloudManager::Vm", 11)),
        ("/vms/11/snapshots/0", 404, missing("Snapshot", 0)),
        ("/vms/99999999999999999999/snapshots", 404, missing("Vm", 99999999999999999999)),
        ("/tasks/0", 404, missing("MiqTask", 0)),
        ("/vms/11/snapshots/3/x", 404, no_route("GET", "/vms/11/snapshots/3/x")),
    ],
)  # fmt: skip
def test_invalid_and_unknown_paths(shared: Rest, path: str, status: int, expected: Any) -> None:
    assert shared.get(path, status) == expected


@pytest.mark.parametrize(
    ("method", "path"),
    [("PUT", ONE), ("PATCH", ONE), ("DELETE", LIST), ("PUT", LIST), ("PUT", "/vms/11"), ("POST", "")],
)
def test_methods_without_a_route(shared: Rest, method: str, path: str) -> None:
    answer = shared.http.request(method, shared.root + path)
    assert (answer.status_code, answer.json()) == (404, no_route(method, path))


def test_head_is_get_without_a_body(shared: Rest) -> None:
    answer = shared.http.head(shared.root + LIST)
    assert (answer.status_code, answer.content) == (200, b"")


def test_invalid_bodies(shared: Rest) -> None:
    for content, klass in (
        (b"{", "JSON::ParserError"),
        (b"[1]", "Api::BadRequestError"),
        (b"\xff", "JSON::ParserError"),
    ):
        error = shared.http.post(shared.root + LIST, content=content).json()["error"]
        assert (error["kind"], error["klass"]) == ("bad_request", klass)


def test_the_content_type_is_ignored(rest: Rest) -> None:
    answer = rest.http.post(rest.root + LIST, content='{"name": "by curl -d"}', headers={"content-type": "text/plain"})
    assert answer.json()["results"][0]["success"] is True


def test_a_body_that_is_too_long(shared: Rest) -> None:
    answer = shared.http.post(shared.root + LIST, content=b" " * 1_048_577)
    assert answer.status_code == 413
    assert answer.json()["error"]["message"] == "The body is longer than 1048576 bytes."


def test_the_accepted_format(shared: Rest) -> None:
    xml = {"accept": "application/xml"}
    message = "Invalid Response Format application/xml requested"
    expected = envelope("unsupported_media_type", message, "Api::UnsupportedMediaTypeError")
    for path in ("", "/vms", "/vms/11", LIST, ONE):
        answer = shared.http.get(shared.root + path, headers=xml)
        assert (answer.status_code, answer.json()) == (415, expected)
    answer = shared.http.post(shared.root + LIST, json={"name": "x"}, headers={"accept": "text/html"})
    assert answer.status_code == 415
    assert answer.json()["error"]["message"] == "Invalid Response Format text/html requested"
    for accept in ("*/*", "text/html, application/json;q=0.1"):
        assert shared.http.get(shared.root + LIST, headers={"accept": accept}).status_code == 200
    assert shared.http.delete(f"{shared.root}/vms/11/snapshots/99", headers=xml).status_code == 404


def links(value: Any) -> Iterator[str]:
    """All URLs in a response."""
    if isinstance(value, dict):
        for inner in value.values():
            yield from links(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from links(inner)
    elif isinstance(value, str) and "://" in value:
        yield value


def test_links_begin_with_the_host_of_the_request(rest: Rest) -> None:
    for host, begin in (
        ("localhost:3000", "http://localhost:3000/"),
        ("LocalHost.", "http://localhost/"),
        ("127.0.0.1:80", "http://127.0.0.1/"),
        ("[::1]:8443", "http://[::1]:8443/"),
    ):
        headers = {"host": host}
        for path in ("", "/v4.4.0", "/vms?expand=resources,snapshots", "/vms/11", f"{LIST}?limit=1", ONE):
            found = list(links(rest.http.get(rest.root + path, headers=headers).json()))
            assert found
            assert all(link.startswith(begin + "api") for link in found)
        result = rest.http.post(rest.root + LIST, headers=headers, json={"name": "x"}).json()["results"][0]
        assert result["task_href"] == f"{begin}api/tasks/{result['task_id']}"
        assert result["snapshot_href"] == f"{begin}api/vms/11/snapshots/{result['snapshot_id']}"
        rest.finish(result["task_id"])
        task = rest.http.get(f"{rest.root}/tasks/{result['task_id']}", headers=headers).json()
        assert task["context_data"]["snapshot_href"] == result["snapshot_href"]
        deleted = rest.http.delete(f"{rest.root}{LIST}/{result['snapshot_id']}", headers=headers)
        assert deleted.headers["location"].startswith(f"{begin}api/tasks/")


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "user@localhost", "localhost/evil", ""])
def test_a_host_that_is_not_allowed_becomes_no_link(shared: Rest, host: str) -> None:
    answer = shared.http.get(f"{shared.root}/vms/11", headers={"host": host})
    assert answer.status_code == 421
    assert answer.json()["error"]["kind"] == "misdirected_request"
    assert not list(links(answer.json()))
    assert all("evil" not in value for value in answer.headers.values())


def test_extra_slashes_before_the_path(shared: Rest) -> None:
    """Clients append `/api` to a URL that ends with a slash. All rules are those of `/api`."""
    for path in ("", "/vms/11", LIST, "/nothing", "/v4.4.0/vms/11"):
        answer = shared.http.get(f"{shared.root}{path}")
        for slashes in ("//", "///"):
            again = shared.http.get(f"{shared.gateway.url}{slashes}api{path}")
            assert (again.status_code, again.json()) == (answer.status_code, answer.json())
    foreign = shared.http.post(f"{shared.gateway.url}//api{LIST}", json={}, headers={"origin": "http://evil.example"})
    assert (foreign.status_code, foreign.json()["error"]["kind"]) == (403, "forbidden")
    foreign = shared.http.get(f"{shared.gateway.url}//api/auth", headers={"sec-fetch-site": "cross-site"})
    assert foreign.status_code == 403
    unknown = shared.http.get(f"{shared.gateway.url}//api", headers={"host": "evil.example"})
    assert (unknown.status_code, unknown.json()["error"]["kind"]) == (421, "misdirected_request")
    for path in ("//healthz", "//apis", "//graphql"):
        assert shared.http.get(shared.gateway.url + path).status_code == 404


def test_links_begin_with_the_public_url(shared: Rest) -> None:
    public = mounted(shared, "/public", FixedCaller(local_caller("default")), "https://gateway.example/base/")
    body = public.get("/v4.4.0/vms/11/snapshots?limit=1")
    assert body["resources"] == [{"href": "https://gateway.example/base/api/v4.4.0/vms/11/snapshots/5"}]
    assert body["links"]["self"] == "https://gateway.example/base/api/v4.4.0/vms/11/snapshots?limit=1"


def test_unauthenticated_requests(shared: Rest) -> None:
    closed = mounted(shared, "/closed", FixedCaller(None))
    klass = "Api::BaseController::Authentication::AuthenticationError"
    for path in ("", "/foo", "/v9/vms", LIST, "/auth"):
        answer = closed.http.get(closed.root + path, headers={"X-Auth-Token": "unknown"})
        assert (answer.status_code, answer.json()) == (401, envelope("unauthorized", "Invalid credentials", klass))
        assert answer.headers.get_list("www-authenticate") == [
            'Basic realm="snapshot gateway", charset="UTF-8"',
            'Bearer realm="snapshot gateway"',
        ]


# ---- rights


def test_rights_are_checked_before_existence(shared: Rest) -> None:
    without_rights = as_caller(shared, "no-rights", frozenset())

    def forbidden(message: str) -> Any:
        return envelope("forbidden", message, "Api::ForbiddenError")

    for path in ("/vms", "/vms/99", "/vms/99/snapshots", "/instances/201/snapshots/7"):
        assert without_rights.get(path, 403) == forbidden("Use of the read action is forbidden")
    assert without_rights.post("/vms/99/snapshots", {}, 403) == forbidden("Use of Action create is forbidden")
    bulk = {"action": "delete", "resources": [{"id": "abc"}]}
    assert without_rights.post(LIST, bulk, 403) == forbidden("Use of Action delete is forbidden")
    assert without_rights.post(ONE, {"action": "revert"}, 403) == forbidden("Use of Action revert is forbidden")
    answer = without_rights.http.delete(without_rights.root + ONE)
    assert (answer.status_code, answer.json()) == (403, forbidden("Use of the delete action is forbidden"))
    assert shared.get(LIST)["count"] == 3


def test_actions_depend_on_the_callers_rights(shared: Rest) -> None:
    reader = as_caller(shared, "reader", READER)
    for path in (LIST, ONE, "/vms/11", f"{LIST}?expand=resources"):
        assert b'"actions"' not in reader.http.get(reader.root + path).content
    for path in ("/vms", "/tasks", "/vms?expand=resources,snapshots"):
        shown = reader.get(path)
        assert [action["name"] for action in shown.pop("actions")] == ["query"]
        assert "actions" not in json.dumps(shown)
    assert reader.get("/instances", 403)["error"]["kind"] == "forbidden"


def test_another_tenant_sees_nothing(shared: Rest) -> None:
    other_tenant = as_caller(shared, "stranger", READER, tenant="other")
    assert other_tenant.get("/vms")["count"] == 0
    assert other_tenant.get("/tasks")["count"] == 0
    assert other_tenant.get(LIST, 404) == missing("Vm", 11)
    assert other_tenant.get(ONE, 404) == missing("Vm", 11)
    assert other_tenant.get("/tasks/1", 404) == missing("MiqTask", 1)
    assert other_tenant.get("/vms", filter="name=~/./")["resources"] == []


# ---- OPTIONS and tokens


def test_options(shared: Rest) -> None:
    found = {name: shared.http.options(f"{shared.root}/{name}").json() for name in ("vms", "instances", "tasks")}
    assert found["vms"]["subcollections"] == found["instances"]["subcollections"] == ["snapshots"]
    assert (found["tasks"]["subcollections"], found["tasks"]["data"]) == ([], {})
    assert found["vms"]["relationships"] == ["ext_management_system", "host", "snapshots"]
    assert "v_total_snapshots" in found["vms"]["virtual_attributes"]
    form = shared.http.options(shared.root + LIST).json()
    assert form["attributes"] == found["vms"]["attributes"]  # those of the parent
    assert [field["name"] for field in form["data"]["snapshot_form_schema"]["fields"]] == [
        *("name", "description", "memory")
    ]
    assert shared.http.options(f"{shared.root}/vms/99/snapshots").json() == missing("Vm", 99)


def test_tokens(shared: Rest) -> None:
    for method in ("GET", "POST"):
        answer = shared.http.request(method, f"{shared.root}/auth", auth=("admin", "smartvm"))
        body = answer.json()
        assert (answer.status_code, body["token_ttl"], body["auth_token"][:4]) == (200, 600, "sgs_")
        assert body["expires_on"].endswith("Z")
        headers = {"X-Auth-Token": body["auth_token"]}
        assert shared.http.get(shared.root, headers=headers).json()["identity"]["userid"] == "local"
        gone = shared.http.delete(f"{shared.root}/auth", headers=headers)
        assert (gone.status_code, gone.content) == (204, b"")
