"""What ManageIQ's clients send to authenticate is valid or refused, and never ignored."""

from typing import Any

import pytest

from tests.access.clients import Socket, basic, bearer, error_of, graphql, identity
from tests.serving import Served

ACK = {"type": "connection_ack"}
SQLITE = pytest.mark.parametrize("url", ["sqlite"], indirect=True)  # nothing here depends on the database


def refused(gateway: Served, headers: Any) -> str:
    """The message of the 401 that `/api` and `/graphql` return for these headers."""
    response = gateway.http.get("/api", headers=headers)
    assert response.status_code == 401, response.text
    error = response.json()["error"]
    assert (error["kind"], error["klass"]) == (
        "unauthorized",
        "Api::BaseController::Authentication::AuthenticationError",
    )
    message: str = error["message"]
    assert error_of(gateway.http.post("/graphql", json={"query": "{ __typename }"}, headers=headers)) == (
        401,
        "UNAUTHENTICATED",
        message,
    )
    return message


@SQLITE
def test_a_group_is_one_of_the_caller(gateway: Served, token: str) -> None:
    for group in ("default", "def%61ult", ""):  # as in ManageIQ it is percent-encoded, and an empty one is none
        assert identity(gateway, {**bearer(token), "x-miq-group": group}) == ("ci", "default", "operator")
    for group, shown in (
        ("bogus_group", "bogus_group"),
        ("%C3%A9quipe+a", "équipe a"),
        ("Default", "Default"),
        ("x" * 300, "x" * 255),
    ):
        message = f"Invalid Authorization Group {shown} specified"
        assert refused(gateway, {**bearer(token), "x-miq-group": group}) == message
    assert identity(gateway, bearer(token)) == ("ci", "default", "operator")  # the token itself is not rejected


@SQLITE
def test_a_group_cannot_add_lines_to_the_response(gateway: Served, token: str) -> None:
    response = gateway.http.get("/api", headers={**bearer(token), "x-miq-group": "a%0d%0aset-cookie: b=c%1b"})
    assert response.status_code == 401
    assert "set-cookie" not in response.headers
    assert "set-cookie" in response.headers["www-authenticate"]


@SQLITE
def test_the_system_token_of_a_manageiq_is_refused(gateway: Served, token: str) -> None:
    for value in ("badtoken", "", token):
        headers = {**bearer(token), "x-miq-token": value}
        assert refused(gateway, headers) == "Invalid System Authentication Token specified"


@SQLITE
def test_an_empty_token_is_refused(gateway: Served, token: str) -> None:
    message = "Empty Authentication Token (HTTP_X_AUTH_TOKEN)"
    assert refused(gateway, {**bearer(token), "x-auth-token": ""}) == message
    for payload in ({"X-Auth-Token": ""}, {"headers": {"x-auth-token": ""}}):
        with Socket(gateway, payload, bearer(token)) as socket:
            assert socket.await_close() == (4403, message)
    with Socket(gateway, {"authorization": ""}, bearer(token)) as socket:  # no user is logged in on the page
        assert socket.receive() == ACK


@SQLITE
def test_a_repeated_header_is_refused(gateway: Served, token: str) -> None:
    for name, value in (("X-Auth-Token", token), ("Authorization", f"Bearer {token}"), ("X-MIQ-Group", "default")):
        once = {**bearer(token), name.lower(): value}
        assert identity(gateway, once) == ("ci", "default", "operator")
        message = f"The request has more than one `{name}` header."
        assert refused(gateway, [*once.items(), (name.lower(), value)]) == message


@SQLITE
def test_a_password_of_manageiq_is_refused_with_what_to_send(gateway: Served) -> None:
    message = (
        "The credentials are not valid. The password must be an API token of this gateway, or a JWT, not a password of"
        " ManageIQ. Create a token with `gateway token create`."
    )
    assert refused(gateway, basic("admin", "smartvm")) == message
    assert refused(gateway, bearer("smartvm")) == "The credentials are not valid."


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_without_users_only_the_value_of_a_token_is_not_verified(open_gateway: Served) -> None:
    for headers in (basic("admin", "smartvm"), bearer("x"), {"x-auth-token": "x"}, {"x-miq-group": "default"}):
        assert identity(open_gateway, headers) == ("local", "default", "admin")
    message = "Invalid Authorization Group other specified"
    assert refused(open_gateway, {"x-miq-group": "other"}) == message
    assert refused(open_gateway, {"x-miq-token": "x"}) == "Invalid System Authentication Token specified"
    assert refused(open_gateway, {"x-auth-token": ""}) == "Empty Authentication Token (HTTP_X_AUTH_TOKEN)"


def session(gateway: Served, token: str, requester_type: str | None, method: str = "GET") -> dict[str, Any]:
    parameters = {} if requester_type is None else {"requester_type": requester_type}
    place: Any = {"json": parameters} if method == "POST" else {"params": parameters}
    response = gateway.http.request(method, "/api/auth", headers=basic("", token), **place)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


@SQLITE
def test_requester_types(gateway: Served, token: str) -> None:
    for method in ("GET", "POST"):
        for requester_type in (None, "api", "ui"):
            found = session(gateway, token, requester_type, method)
            assert found.get("requester_type") == (requester_type if requester_type == "ui" else None)
            assert found["token_ttl"] == 600
            assert identity(gateway, {"x-auth-token": found["auth_token"]}) == ("ci", "default", "operator")
    for given, shown in (("bogus_type", "bogus_type"), ("", ""), ("API", "API")):
        response = gateway.http.get("/api/auth", params={"requester_type": given}, headers=bearer(token))
        assert response.status_code == 400
        message = f"Invalid requester_type {shown} specified, valid types are: api, ui, ws"
        assert response.json()["error"]["message"] == message
    response = gateway.http.post("/api/auth", json={"requester_type": None}, headers=bearer(token))
    assert response.json()["error"]["message"].startswith("Invalid requester_type nil specified")


@SQLITE
def test_a_token_for_websockets_is_valid_for_nothing_else(gateway: Served, token: str) -> None:
    found = session(gateway, token, "ws")
    assert (found["requester_type"], found["token_ttl"]) == ("ws", 600)
    websocket: str = found["auth_token"]
    message = "The token is valid for WebSockets only."
    for _ in range(2):  # whether a WebSocket has verified it before or not
        assert refused(gateway, {"x-auth-token": websocket}) == message
        for payload in ({"x-auth-token": websocket}, bearer(websocket)):
            with Socket(gateway, payload) as socket:
                assert socket.receive() == ACK
    prefix, _, rest = websocket.partition("_")
    assert prefix == "sgws"
    assert refused(gateway, bearer(f"sgs_{rest}")) == "The credentials are not valid."
    ordinary = session(gateway, token, "api")["auth_token"]
    with Socket(gateway, bearer(ordinary.replace("sgs_", "sgws_"))) as socket:
        assert socket.await_close() == (4403, "The credentials are not valid.")


@SQLITE
def test_a_refused_group_is_audited(gateway: Served, token: str) -> None:
    assert graphql(gateway, {**bearer(token), "x-miq-group": "other"}).status_code == 401
    rows = gateway.run(
        gateway.gateway.database.read(
            lambda tx: tx.rows("SELECT action, outcome, message FROM audit_entry WHERE action = 'LOG_IN'")
        )
    )
    assert [tuple(row) for row in rows] == [("LOG_IN", "REFUSED", "Invalid Authorization Group other specified")]
