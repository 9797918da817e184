"""Host and origin checks, CORS, and the security headers of responses."""

from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from websockets.exceptions import InvalidStatus

from gateway.config import Settings
from gateway.errors import StartupError
from gateway.http.load_shedding import LoopTurns
from gateway.http.middleware import middleware
from gateway.http.origins import host_and_port
from gateway.http.rejection_log import RejectionLog
from tests.serving import http_client

from .serving import FORMATS, Configured, Serving, serve

QUERY = {"query": "{ hello }"}
FRONTEND = "http://localhost:5173"


def error_message(response: httpx2.Response, code: str) -> str:
    """The only error of a response: in GraphQL's format at `/graphql`, where it has this code, elsewhere a text."""
    if response.url.path.rstrip("/") != "/graphql":
        assert response.headers["content-type"] == "text/plain; charset=utf-8"
        return response.text.removesuffix("\n")
    (error,) = response.json()["errors"]
    assert error["extensions"] == {"code": code}
    return str(error["message"])


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 200),
        ("127.0.0.1", 200),
        ("localhost:1", 200),
        ("LOCALHOST:8000", 200),
        ("localhost.:8000", 200),
        ("[::1]:8000", 200),
        ("gateway.example", 200),
        ("gateway.example:8000", 200),
        ("only.example:81", 200),
        ("only.example:82", 421),
        ("only.example", 421),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("evil-localhost", 421),
        ("127.0.0.1.evil.example", 421),
        ("127.0.0.2", 421),
        ("localhost@evil.example", 421),
        ("localhost:x", 421),
        ("::1", 200),
        ("", 421),
        ("é", 421),
    ],
)
@pytest.mark.parametrize("path", ["/graphql", "/elsewhere"])
def test_unknown_hosts_are_rejected(client: httpx2.Client, host: str, path: str, status: int) -> None:
    response = client.get(path, params=QUERY, headers={b"host": host.encode("latin-1")})
    assert response.status_code == status
    if status != 200:
        message = "The `Host` header names an unknown host. Add the host to GATEWAY_ALLOWED_HOSTS."
        assert error_message(response, "BAD_USER_INPUT") == message


@pytest.mark.parametrize("hosts", [b"", b"Host: localhost\r\nHost: evil.example\r\n"])
def test_a_request_must_have_exactly_one_host(serving: Serving, hosts: bytes) -> None:
    response = serving.raw(b"GET /elsewhere HTTP/1.1\r\nConnection: close\r\n" + hosts + b"\r\n")
    assert response.startswith(b"HTTP/1.1 400 ")
    assert b"exactly one `Host`" in response


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (None, True),
        ("OWN", True),
        ("OWN, without its port", False),
        ("OWN, as https", False),
        (FRONTEND, True),
        ("http://localhost:5174", False),
        ("https://localhost:5173", False),
        ("http://127.0.0.1:5173", False),
        ("http://evil.example", False),
        ("http://localhost:5173.evil.example", False),
        ("null", False),
        ("", False),
        ("nonsense", False),
    ],
)
class TestOrigin:
    """A page of another origin can neither change anything nor query GraphQL."""

    @pytest.fixture
    def headers(self, serving: Serving, origin: str | None) -> dict[str, str]:
        if origin is None:
            return {}
        own = {
            "OWN": serving.origin,
            "OWN, without its port": "http://127.0.0.1",
            "OWN, as https": serving.origin.replace("http", "https"),
        }
        return {"origin": own.get(origin, origin)}

    @pytest.mark.parametrize("method", ["POST", "DELETE"])
    def test_writes_to_any_path(
        self, client: httpx2.Client, method: str, headers: dict[str, str], allowed: bool
    ) -> None:
        response = client.request(method, "/elsewhere", headers=headers)
        assert response.status_code == (200 if allowed else 403)
        if not allowed:
            message = "Pages of this origin must not call the gateway. Add the origin to GATEWAY_CORS_ORIGINS."
            assert error_message(response, "FORBIDDEN") == message

    def test_a_mutation(self, serving: Serving, client: httpx2.Client, headers: dict[str, str], allowed: bool) -> None:
        before = serving.world.touched
        client.post("/graphql", json={"query": "mutation { touch }"}, headers=headers)
        assert serving.world.touched == before + allowed

    def test_graphql_by_get(self, client: httpx2.Client, headers: dict[str, str], allowed: bool) -> None:
        for path in ("/graphql", "/graphql/"):
            response = client.get(path, params=QUERY, headers=headers, follow_redirects=allowed)
            assert response.status_code == (200 if allowed else 403)

    def test_other_reads_are_only_protected_by_cors(
        self, client: httpx2.Client, headers: dict[str, str], allowed: bool
    ) -> None:
        response = client.get("/elsewhere", headers=headers)
        assert response.status_code == 200
        readable = headers.get("origin") == FRONTEND
        assert ("access-control-allow-origin" in response.headers) == readable

    def test_a_websocket(self, serving: Serving, headers: dict[str, str], allowed: bool) -> None:
        if allowed:
            with serving.socket(additional_headers=headers):
                return
        with pytest.raises(InvalidStatus) as refused:
            serving.socket(additional_headers=headers)
        assert refused.value.response.status_code == 403
        assert b'"FORBIDDEN"' in refused.value.response.body


def test_a_websocket_to_an_unknown_host(serving: Serving) -> None:
    with pytest.raises(InvalidStatus) as refused:
        serving.socket(host="evil.example")
    assert refused.value.response.status_code == 421


@pytest.mark.parametrize(
    ("fetch", "accept", "status"),
    [
        ({"site": "cross-site", "mode": "no-cors", "dest": "image"}, "*/*", 403),
        ({"site": "cross-site", "mode": "no-cors", "dest": "script"}, "*/*", 403),
        ({"site": "same-site", "mode": "no-cors", "dest": "image"}, "*/*", 403),
        ({"site": "cross-site", "mode": "navigate", "dest": "iframe"}, "text/html", 403),
        ({"site": "cross-site", "mode": "navigate", "dest": "document"}, "text/html", 303),
        ({"site": "same-origin", "mode": "cors", "dest": "empty"}, "*/*", 200),
        ({"site": "none", "mode": "navigate", "dest": "document"}, "text/html", 303),
    ],
)
def test_fetch_metadata_of_graphql_requests_without_an_origin(
    client: httpx2.Client, fetch: dict[str, str], accept: str, status: int
) -> None:
    headers = {f"sec-fetch-{name}": value for name, value in fetch.items()}
    assert client.get("/graphql", params=QUERY, headers={**headers, "accept": accept}).status_code == status


@pytest.mark.parametrize(
    ("fetch", "status"),
    [
        ({"site": "cross-site", "mode": "no-cors", "dest": "image"}, 403),
        ({"site": "same-site", "mode": "no-cors", "dest": "image"}, 403),
        ({"site": "cross-site", "mode": "navigate", "dest": "document"}, 403),
        ({"site": "same-origin", "mode": "cors", "dest": "empty"}, 404),
        ({"site": "none", "mode": "navigate", "dest": "document"}, 404),
        ({}, 404),
    ],
)
@pytest.mark.parametrize("path", ["/api/auth", "/api/v3.2.0/auth/", "/api//auth//"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_page_of_another_site_cannot_create_sessions(
    client: httpx2.Client, method: str, path: str, fetch: dict[str, str], status: int
) -> None:
    """A browser adds the credentials that its user has entered for the gateway to such a request.

    404 means that the request passed the check: this application has no REST API.
    """
    headers = {f"sec-fetch-{name}": value for name, value in fetch.items()}
    assert client.request(method, path, headers=headers).status_code == status


def test_a_page_of_a_known_origin_can_create_sessions(client: httpx2.Client) -> None:
    cross_site = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "cors", "sec-fetch-dest": "empty"}
    assert client.get("/api/auth", headers={**cross_site, "origin": FRONTEND}).status_code == 404
    assert client.get("/api/auth", headers={**cross_site, "origin": "http://evil.example"}).status_code == 403
    assert client.options("/api/auth", headers=cross_site).status_code == 404


def test_a_cross_site_write_without_an_origin_is_rejected(client: httpx2.Client) -> None:
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert client.post("/elsewhere", headers=headers).status_code == 403


def preflight(client: httpx2.Client, **headers: str) -> httpx2.Response:
    defaults = {"origin": FRONTEND, "access-control-request-method": "POST"}
    return client.options("/graphql", headers={**defaults, **{k.replace("_", "-"): v for k, v in headers.items()}})


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_a_preflight_of_a_known_frontend(client: httpx2.Client, method: str) -> None:
    requested = "content-type,accept,authorization,x-request-id,last-event-id"
    response = preflight(client, access_control_request_method=method, access_control_request_headers=requested)
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == FRONTEND
    assert response.headers["access-control-allow-methods"] == "GET, POST, DELETE"
    assert response.headers["access-control-max-age"] == "600"
    allowed = {name.strip().lower() for name in response.headers["access-control-allow-headers"].split(",")}
    assert allowed >= set(requested.split(","))
    assert "Origin" in response.headers["vary"]
    assert "access-control-allow-credentials" not in response.headers


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"access_control_request_method": "PUT"},
        {"access_control_request_headers": "x-evil"},
    ],
)
def test_any_other_preflight_is_rejected(client: httpx2.Client, headers: dict[str, str]) -> None:
    assert preflight(client, **headers).status_code == 400


def test_a_known_frontend_can_read_responses(client: httpx2.Client) -> None:
    for response in (
        client.post("/graphql", json=QUERY, headers={"origin": FRONTEND}),
        client.post("/graphql", json={}, headers={"origin": FRONTEND}),
    ):
        assert response.headers["access-control-allow-origin"] == FRONTEND
        exposed = "RateLimit, RateLimit-Policy, Retry-After, X-Request-Id"
        assert response.headers["access-control-expose-headers"] == exposed
        assert response.headers["vary"] == "Accept, Origin"


def test_every_response_has_security_headers(client: httpx2.Client) -> None:
    responses: list[Any] = [
        client.get("/graphql", params=QUERY),
        client.post("/graphql", json=QUERY),
        client.post("/graphql", json={}),
        client.post("/elsewhere"),
        client.get("/nowhere"),
        client.get("/elsewhere", headers={"host": "evil.example"}),
        client.post("/elsewhere", headers={"origin": "http://evil.example"}),
        preflight(client),
    ]
    for response in responses:
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "no-referrer"
        assert response.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert response.headers["cross-origin-resource-policy"] == "same-origin"
        assert "strict-transport-security" not in response.headers
        assert response.headers["x-request-id"]
        not_stored = response.request.method == "POST" or response.url.params
        assert response.headers.get("cache-control") == ("no-store" if not_stored else None)


@pytest.mark.parametrize(
    "origin", ["*", "null", "localhost:5173", "http://", "http://localhost:5173/app", "http://*.x"]
)
def test_a_malformed_origin_in_the_settings(origin: str) -> None:
    with pytest.raises(StartupError, match="GATEWAY_CORS_ORIGINS"):
        middleware(Settings(cors_origins=(origin,)), FORMATS, Starlette(), Configured(), LoopTurns())


@pytest.mark.parametrize("host", ["*", "*.example", "https://gateway.example", "gateway.example/", "a b", "host:port"])
def test_a_malformed_host_in_the_settings(host: str) -> None:
    with pytest.raises(StartupError, match="GATEWAY_ALLOWED_HOSTS"):
        middleware(Settings(allowed_hosts=("gateway.example", host)), FORMATS, Starlette(), Configured(), LoopTurns())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Gateway.Example.", ("gateway.example", None)),
        ("gateway.example:8000", ("gateway.example", 8000)),
        ("::1", ("[::1]", None)),
        ("[::1]:8000", ("[::1]", 8000)),
        ("0.0.0.0", ("0.0.0.0", None)),
        ("a b", None),
        ("http://localhost", None),
        ("", None),
    ],
)
def test_host_and_port(text: str, expected: tuple[str, int | None] | None) -> None:
    assert host_and_port(text) == expected


def rejections(caplog: pytest.LogCaptureFixture) -> list[tuple[str, dict[str, Any]]]:
    """The lines of the log about rejected hosts and origins."""
    records = [record for record in caplog.records if record.name == "gateway.http.rejection_log"]
    return [(record.getMessage(), getattr(record, "fields", {})) for record in records]


def test_what_is_rejected_is_logged_with_the_setting_that_permits_it(caplog: pytest.LogCaptureFixture) -> None:
    with serve() as server, http_client(server.origin) as client:
        for _ in range(2):  # logged once
            client.post("/elsewhere", headers={"origin": "https://app.example"})
        client.post("/elsewhere", headers={"origin": "null"})  # no setting permits it
        client.get("/elsewhere", headers={"origin": "https://app.example"})  # not rejected
        client.get("/elsewhere", headers={"host": "gateway.local:8000"})
        client.get("/elsewhere", headers={"host": "x@y"})
    other, unknown = "Rejected a request of another origin", "Rejected a request to an unknown host"
    assert rejections(caplog) == [
        (other, {"origin": "https://app.example", "setting": "GATEWAY_CORS_ORIGINS"}),
        (other, {"origin": "null", "setting": None}),
        (unknown, {"host": "gateway.local:8000", "setting": "GATEWAY_ALLOWED_HOSTS"}),
        (unknown, {"host": "x@y", "setting": None}),
    ]


def test_lines_about_rejections_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    """Any client can send any origin, so the lines would fill the disk."""
    with serve() as server, http_client(server.origin) as client:
        for number in range(30):
            client.post("/elsewhere", headers={"origin": f"http://{number}.example"})
        client.get("/elsewhere", headers={"host": "x" * 1_000})
    found = rejections(caplog)
    event = "Rejected a request of another origin"
    assert [fields.get("origin") for _, fields in found[:20]] == [f"http://{number}.example" for number in range(20)]
    assert found[20:] == [
        (f"{event}; further ones are not logged for an hour", {}),
        ("Rejected a request to an unknown host", {"host": "x" * 255, "setting": "GATEWAY_ALLOWED_HOSTS"}),
    ]


def test_rejections_are_logged_again_after_an_hour(caplog: pytest.LogCaptureFixture) -> None:
    times = iter([0.0, 0.0, 3_599.0, 3_600.0, 3_600.0])
    log = RejectionLog(lambda: next(times))
    for _ in range(3):
        log.write("Rejected", "origin", "http://a.example", None)
    assert [fields["origin"] for _, fields in rejections(caplog)] == ["http://a.example"] * 2
