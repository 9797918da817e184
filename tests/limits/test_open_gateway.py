"""A gateway without users serves this machine only: it refuses what comes through a proxy, unless that hides itself."""

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from gateway.config import Settings
from tests.access.clients import bearer, create_token
from tests.cli.programs import refusal
from tests.databases import Databases
from tests.serving import Served, served

QUERY = {"query": "{ viewer { name } }"}
HEADERS = [
    "Forwarded",
    "Via",
    "X-Real-IP",
    "X-Forwarded-For",
    "X-Forwarded-Proto",
    "X-Forwarded-Host",
    "X-Forwarded-Anything",
]


def message(sign: str) -> str:
    return (
        f"Requests through a proxy ({sign}) are refused, because no users are configured and every client of the proxy"
        " would have full access. Create a token with `gateway token create`, or name a JWT issuer with"
        " GATEWAY_JWT_ISSUER."
    )


def graphql_error(sign: str) -> Any:
    return {"errors": [{"message": message(sign), "extensions": {"code": "FORBIDDEN"}}]}


@pytest.fixture(scope="module")
def gateway(databases: Databases) -> Iterator[Served]:
    with served(Settings(database_url=databases.new("sqlite", demo=True))) as found:
        yield found


@pytest.mark.parametrize("header", HEADERS)
def test_a_request_with_a_header_of_a_proxy_is_refused(gateway: Served, header: str) -> None:
    headers, sign = {header: "192.0.2.1"}, f"it has the header `{header.lower()}`"
    answer = gateway.http.post("/graphql", json=QUERY, headers=headers)
    assert (answer.status_code, answer.json()) == (403, graphql_error(sign))
    answer = gateway.http.get("/api/vms", headers=headers)
    assert answer.status_code == 403
    assert answer.json()["error"]["message"] == message(sign)
    with pytest.raises(InvalidStatus) as refused:
        connect(
            gateway.url.replace("http", "ws") + "/graphql",
            subprotocols=["graphql-transport-ws"],  # type: ignore[list-item]
            additional_headers=headers,
            proxy=None,
        )
    assert refused.value.response.status_code == 403
    # The advice is not to add the proxy's host to GATEWAY_ALLOWED_HOSTS.
    assert gateway.http.get("/api", headers={**headers, "host": "public.example.com"}).status_code == 403


def test_health_checks_of_a_proxy_are_answered(gateway: Served) -> None:
    for path in ("/healthz", "/readyz"):
        assert gateway.http.get(path, headers={"x-forwarded-for": "192.0.2.1", "via": "1.1 x"}).status_code == 200
        assert raw(gateway, f"GET {path} HTTP/1.0\r\nhost: localhost\r\n\r\n")[0] == 200


def test_requests_by_http_1_0_are_refused(gateway: Served) -> None:
    """nginx sends HTTP/1.0 by default."""
    body = json.dumps(QUERY)
    rest = f"host: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n{body}"
    assert raw(gateway, f"POST /graphql HTTP/1.0\r\n{rest}") == (403, graphql_error("it uses HTTP/1.0"))
    close = rest.replace("host:", "connection: close\r\nhost:")
    assert raw(gateway, f"POST /graphql HTTP/1.1\r\n{close}") == (200, {"data": {"viewer": {"name": "local"}}})


def raw(gateway: Served, request: str) -> tuple[int, Any]:
    """The status, and the JSON of the body."""
    with socket.create_connection(("127.0.0.1", int(gateway.url.rpartition(":")[2])), 20) as connection:
        connection.sendall(request.encode())
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def test_requests_through_a_proxy_are_served_once_a_user_exists(databases: Databases) -> None:
    """Also if all requests come through the proxy, and without a time in which they need no token."""
    url = databases.new("sqlite", demo=True)
    with served(Settings(database_url=url)) as gateway:
        through = {"x-forwarded-for": "192.0.2.1"}
        assert gateway.http.post("/graphql", json=QUERY).json() == {"data": {"viewer": {"name": "local"}}}
        assert gateway.http.post("/graphql", json=QUERY, headers=through).status_code == 403
        token = create_token(url)
        assert gateway.http.post("/graphql", json=QUERY, headers=through).status_code == 401
        answer = gateway.http.post("/graphql", json=QUERY, headers={**through, **bearer(token)})
        assert answer.json() == {"data": {"viewer": {"name": "ci"}}}


@pytest.mark.parametrize("setting", ["public_url", "trusted_proxies"])
def test_settings_of_a_proxy_require_users(databases: Databases, setting: str) -> None:
    value = {"public_url": "https://snapshots.example.com", "trusted_proxies": "10.0.0.0/8"}[setting]
    name = f"GATEWAY_{setting.upper()}"
    for more in ([], ["--workers", "2"]):
        assert refusal("serve", *more, database_url=databases.new("sqlite"), port=0, **{setting: value}) == (
            f"{name} is set for a proxy, but authentication is not configured, so every client of the proxy would have"
            " full access. Create a token with `gateway token create`, name a JWT issuer with GATEWAY_JWT_ISSUER, or"
            f" remove {name}."
        )
