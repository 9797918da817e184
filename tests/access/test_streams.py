"""A stream ends when the credentials that it was opened with do."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.config import Settings
from tests.access.asking import Socket, bearer, make_token, revoke
from tests.access.issuer import AUDIENCE, NAME, SECRET, signed
from tests.access.test_tokens import ACK
from tests.serving import Served, served

WATCH = "subscription { operationChanged { id } }"
ENDED = {"errors": [{"message": "The token has been revoked.", "extensions": {"code": "UNAUTHENTICATED"}}]}
EXPIRED = {"errors": [{"message": "The token has expired.", "extensions": {"code": "UNAUTHENTICATED"}}]}


def events(gateway: Served, headers: dict[str, str], then: Any = lambda: None) -> list[str]:
    """What an event stream says to its end; `then` happens when it is open."""
    accept = {"accept": "text/event-stream", **headers}
    with gateway.http.stream("POST", "/graphql", json={"query": WATCH}, headers=accept) as answer:
        assert answer.status_code == 200
        lines = answer.iter_lines()
        assert next(lines) == ":"
        then()
        return [line for line in lines if line not in ("", ":") and not line.startswith("id:")]


def told(error: Any) -> list[str]:
    return ["event: next", "data: " + json.dumps(error, separators=(",", ":")), "event: complete", "data: "]


def test_revocation_ends_streams(gateway: Served, url: str, token: str) -> None:
    other = make_token(url, "other")
    with Socket(gateway, {"authorization": f"Bearer {token}"}) as socket, Socket(gateway, None, bearer(other)) as stays:
        for each in (socket, stays):
            assert each.receive() == ACK
            each.subscribe(WATCH)
        assert events(gateway, bearer(token), lambda: revoke(url)) == told(ENDED)
        assert socket.closed() == (4403, "The token has been revoked.")
        stays.send({"type": "ping"})
        assert stays.receive() == {"type": "pong"}


@pytest.fixture
def trusting(url: str) -> Iterator[Served]:
    """Trusts JWTs that share its secret, for as long as anybody wants to."""
    settings = Settings(
        database_url=url,
        jwt_issuer=NAME,
        jwt_audience=(AUDIENCE,),
        jwt_secret=SECRET,
        jwt_leeway=1.0,
        credentials_trusted=3_600.0,
    )
    with served(settings, demo=True) as gateway:
        yield gateway


def test_expiry_ends_streams(trusting: Served) -> None:
    """By the clock alone: nobody would look again for an hour."""
    ends = int(time.time()) + 1
    token = signed(SECRET, "HS256", exp=ends)  # good until two seconds from now, with the leeway
    with Socket(trusting, {"authorization": f"Bearer {token}"}) as socket:
        assert socket.receive() == ACK
        socket.subscribe(WATCH)
        assert events(trusting, bearer(token)) == told(EXPIRED)
        assert time.time() >= ends + 1
        assert socket.closed() == (4403, "The token has expired.")
    assert trusting.http.post("/graphql", json={"query": "{ __typename }"}, headers=bearer(token)).status_code == 401


def test_an_open_gateway_that_is_closed_ends_streams(databases: Any) -> None:
    url = databases.new("sqlite")
    with served(Settings(database_url=url, credentials_trusted=0.2)) as gateway, Socket(gateway, None) as socket:
        assert socket.receive() == ACK
        socket.subscribe(WATCH)
        make_token(url)
        assert socket.closed() == (4403, "Send a token: `Authorization: Bearer …`.")
