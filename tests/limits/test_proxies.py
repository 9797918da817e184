"""Trusted proxies: which `X-Forwarded-*` headers are used, as recorded in the audit log and seen by origin checks."""

from itertools import count

import pytest

from tests.access.clients import bearer, create_token
from tests.cli.programs import Program, serving
from tests.databases import Databases

pytestmark = pytest.mark.thorough  # starts server processes and waits for real timeouts

QUERY = {"query": "{ viewer { name } }"}
AUDITED = {"query": 'mutation { deleteSnapshots(input: {ids: ["snapshot-9"]}) { refusedCount } }'}
ENTRY = "query ($id: String!) { auditEntries(filter: {requestId: {eq: $id}}) { nodes { address } } }"
NUMBERS = count(1)


def status(program: Program, token: str, forwarded: str | None = None, **headers: str) -> int:
    forwarding = {} if forwarded is None else {"x-forwarded-for": forwarded}
    headers = {**bearer(token), **forwarding, **headers}
    return program.http.post("/graphql", json=QUERY, headers=headers).status_code


def address_of(program: Program, token: str, forwarded: str | None = None) -> str:
    """The client's address in the audit entry of a request."""
    id_, forwarding = f"request-{next(NUMBERS)}", {} if forwarded is None else {"x-forwarded-for": forwarded}
    headers = {**bearer(token), **forwarding, "x-request-id": id_}
    assert program.http.post("/graphql", json=AUDITED, headers=headers).status_code == 200
    body = program.http.post("/graphql", json={"query": ENTRY, "variables": {"id": id_}}, headers=bearer(token)).json()
    (entry,) = body["data"]["auditEntries"]["nodes"]
    return str(entry["address"])


def test_forwarding_headers_of_untrusted_clients_are_ignored(databases: Databases) -> None:
    url = databases.new("sqlite")
    token = create_token(url, role="admin")
    with serving(database_url=url) as program:
        assert address_of(program, token, "192.0.2.1") == "127.0.0.1"
        assert address_of(program, token, "192.0.2.2") == "127.0.0.1"
        own = program.url.replace("http", "https")
        assert status(program, token, "192.0.2.3", origin=own, **{"x-forwarded-proto": "https"}) == 403


def test_the_rightmost_untrusted_address_is_the_client(databases: Databases) -> None:
    url = databases.new("sqlite")
    token = create_token(url, role="admin")
    with serving(database_url=url, trusted_proxies="127.0.0.0/8,10.0.0.0/8") as program:
        assert address_of(program, token, "192.0.2.1") == "192.0.2.1"
        # The left one was sent by the client and is ignored.
        assert address_of(program, token, "192.0.2.99, 192.0.2.1") == "192.0.2.1"
        assert address_of(program, token, "192.0.2.99, 192.0.2.1, 10.1.2.3") == "192.0.2.1"
        assert address_of(program, token, "192.0.2.1, 192.0.2.2") == "192.0.2.2"
        assert address_of(program, token) == "127.0.0.1"  # the proxy itself
        own = program.url.replace("http", "https")
        assert status(program, token, "192.0.2.3", origin=own, **{"x-forwarded-proto": "https"}) == 200


def test_the_public_url_is_the_own_origin(databases: Databases) -> None:
    public, url = "https://snapshots.example.com", databases.new("sqlite")
    token = create_token(url, role="admin")
    with serving(database_url=url, public_url=public) as program:
        host = {"host": "snapshots.example.com"}
        assert status(program, token, origin=public, **host) == 200
        assert status(program, token, origin="http://snapshots.example.com:81", **host) == 403
        answer = program.http.get("/api", headers={**host, **bearer(token)})
        assert answer.json()["collections"][0]["href"].startswith(f"{public}/api/")
        assert answer.headers["strict-transport-security"] == "max-age=31536000"
        assert program.http.get("/api", headers={"host": "other.example.com"}).status_code == 421


@pytest.mark.parametrize(("trusted", "scheme"), [("127.0.0.0/8", "https"), ("10.0.0.0/8", "http")])
def test_links_have_the_scheme_and_host_that_a_trusted_proxy_passes_on(
    databases: Databases, trusted: str, scheme: str
) -> None:
    url = databases.new("sqlite")
    token = create_token(url, role="admin")
    with serving(database_url=url, trusted_proxies=trusted, allowed_hosts="snapshots.example.com") as program:
        proxy = {"x-forwarded-for": "192.0.2.1", "x-forwarded-proto": "https", "host": "snapshots.example.com:8443"}
        body = program.http.get("/api", headers={**proxy, **bearer(token)}).json()
        assert body["versions"][0]["href"] == f"{scheme}://snapshots.example.com:8443/api/v4.4.0"
        # A proxy cannot choose another host by other headers.
        other = {"x-forwarded-host": "evil.example", "forwarded": "host=evil.example"}
        assert program.http.get("/api", headers={**proxy, **other, **bearer(token)}).json() == body
