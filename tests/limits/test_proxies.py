"""Trusted proxies: which `X-Forwarded-*` headers are used, seen by the quota that is charged and by origin checks."""

from typing import Any

import pytest

from tests.cli.programs import Program, serving
from tests.databases import Databases

pytestmark = pytest.mark.thorough  # starts server processes and waits for real timeouts

QUERY = {"query": "{ viewer { name } }"}
ONE_REQUEST = {"caller_quota": 1, "caller_window": 600_000.0}


def status(program: Program, forwarded: str | None = None, **headers: str) -> int:
    forwarding = {} if forwarded is None else {"x-forwarded-for": forwarded}
    return program.http.post("/graphql", json=QUERY, headers={**forwarding, **headers}).status_code


def test_forwarding_headers_of_untrusted_clients_are_ignored(databases: Databases) -> None:
    with serving(database_url=databases.new("sqlite"), **ONE_REQUEST) as program:
        assert status(program, "192.0.2.1") == 200
        assert status(program, "192.0.2.2") == 429
        own = program.url.replace("http", "https")
        assert status(program, "192.0.2.3", origin=own, **{"x-forwarded-proto": "https"}) == 403


def test_the_rightmost_untrusted_address_is_the_client(databases: Databases) -> None:
    settings: dict[str, Any] = {**ONE_REQUEST, "trusted_proxies": "127.0.0.0/8,10.0.0.0/8"}
    with serving(database_url=databases.new("sqlite"), **settings) as program:
        assert status(program, "192.0.2.1") == 200
        assert status(program, "192.0.2.1") == 429
        assert status(program, "192.0.2.99, 192.0.2.1") == 429  # the left one was sent by the client and is ignored
        assert status(program, "192.0.2.99, 192.0.2.1, 10.1.2.3") == 429
        assert status(program, "192.0.2.1, 192.0.2.2") == 200
        assert status(program) == 200  # the proxy itself
        own = program.url.replace("http", "https")
        assert status(program, "192.0.2.3", origin=own, **{"x-forwarded-proto": "https"}) == 200


def test_the_public_url_is_the_own_origin(databases: Databases) -> None:
    public = "https://snapshots.example.com"
    with serving(database_url=databases.new("sqlite"), public_url=public) as program:
        host = {"host": "snapshots.example.com"}
        assert status(program, origin=public, **host) == 200
        assert status(program, origin="http://snapshots.example.com:81", **host) == 403
        answer = program.http.get("/api", headers=host)
        assert answer.json()["collections"][0]["href"].startswith(f"{public}/api/")
        assert answer.headers["strict-transport-security"] == "max-age=31536000"
        assert program.http.get("/api", headers={"host": "other.example.com"}).status_code == 421
