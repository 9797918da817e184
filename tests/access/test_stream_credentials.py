"""WebSockets and event streams end when the credentials that opened them expire or are revoked."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.config import Settings
from tests.access.clients import Socket, bearer, create_token, revoke_token
from tests.access.issuer import AUDIENCE, ISSUER, SECRET, signed
from tests.access.test_tokens import ACK
from tests.serving import Served, served
from tests.waiting import within

SUBSCRIPTION = "subscription { operationChanged { id } }"
REVOKED = {"errors": [{"message": "The token has been revoked.", "extensions": {"code": "UNAUTHENTICATED"}}]}
EXPIRED = {"errors": [{"message": "The token has expired.", "extensions": {"code": "UNAUTHENTICATED"}}]}


def events(gateway: Served, headers: dict[str, str], then: Any = lambda: None) -> list[str]:
    """The lines of an event stream until it ends, without comments and event ids. `then` is called when it is open."""
    accept = {"accept": "text/event-stream", **headers}
    with gateway.http.stream("POST", "/graphql", json={"query": SUBSCRIPTION}, headers=accept) as response:
        assert response.status_code == 200
        lines = within(response.iter_lines())
        assert next(lines) == ":"
        then()
        return [line for line in lines if line not in ("", ":") and not line.startswith("id:")]


def final_events(error: Any) -> list[str]:
    """The lines of an event stream that ends with `error`."""
    return ["event: next", "data: " + json.dumps(error, separators=(",", ":")), "event: complete", "data: "]


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)  # nothing here depends on the database
def test_revocation_ends_streams(gateway: Served, url: str, token: str) -> None:
    other = create_token(url, "other")
    with (
        Socket(gateway, {"authorization": f"Bearer {token}"}) as socket,
        Socket(gateway, None, bearer(other)) as unaffected,
    ):
        for each in (socket, unaffected):
            assert each.receive() == ACK
            each.subscribe(SUBSCRIPTION)
        assert events(gateway, bearer(token), lambda: revoke_token(url)) == final_events(REVOKED)
        assert socket.await_close() == (4403, "The token has been revoked.")
        unaffected.send({"type": "ping"})
        assert unaffected.receive() == {"type": "pong"}


@pytest.fixture
def caching_gateway(url: str) -> Iterator[Served]:
    """A gateway that verifies JWTs with a shared secret, and caches verified credentials for an hour."""
    settings = Settings(
        database_url=url,
        jwt_issuer=ISSUER,
        jwt_audience=(AUDIENCE,),
        jwt_secret=SECRET,
        jwt_leeway=1.0,
        credentials_trusted=3_600.0,
    )
    with served(settings) as gateway:
        yield gateway


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)  # nothing here depends on the database
def test_expiry_ends_streams(caching_gateway: Served) -> None:
    """At the time of expiry, although the credentials are verified again only after an hour."""
    ends = int(time.time()) + 1
    token = signed(SECRET, "HS256", exp=ends)  # valid until two seconds from now, because of the leeway
    with Socket(caching_gateway, {"authorization": f"Bearer {token}"}) as socket:
        assert socket.receive() == ACK
        socket.subscribe(SUBSCRIPTION)
        assert events(caching_gateway, bearer(token)) == final_events(EXPIRED)
        assert time.time() >= ends + 1
        assert socket.await_close() == (4403, "The token has expired.")
    assert (
        caching_gateway.http.post("/graphql", json={"query": "{ __typename }"}, headers=bearer(token)).status_code
        == 401
    )


def test_the_first_token_ends_unauthenticated_streams(databases: Any) -> None:
    url = databases.new("sqlite")
    with served(Settings(database_url=url, credentials_trusted=0.2)) as gateway, Socket(gateway, None) as socket:
        assert socket.receive() == ACK
        socket.subscribe(SUBSCRIPTION)
        create_token(url)
        assert socket.await_close() == (
            4403,
            "Authentication is required. Send the header `Authorization: Bearer TOKEN`.",
        )
