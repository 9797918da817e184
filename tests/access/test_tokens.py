"""API tokens and sessions: authentication, expiry, revocation and storage."""

import re
from typing import Any

import pytest

from gateway.access.login_throttle import BURST, SECONDS_PER_FAILURE
from gateway.access.sessions import MAX_PER_CALLER
from gateway.config import Settings
from gateway.errors import StartupError
from gateway.store.database import Transaction
from tests.access.clients import (
    VM,
    VM_RESPONSE,
    Socket,
    basic,
    bearer,
    create_token,
    error_of,
    graphql,
    identity,
    revoke_token,
)
from tests.access.conftest import CREDENTIALS_TRUSTED
from tests.cli.programs import refusal as command_refusal
from tests.cli.programs import run
from tests.databases import Databases
from tests.graphql.client import set_latency
from tests.serving import Served, served
from tests.waiting import until

ACK = {"type": "connection_ack"}
INVALID = (401, "UNAUTHENTICATED", "The credentials are not valid.")


def dump(gateway: Served) -> str:
    """The content of the tables of tokens and sessions."""

    async def work(tx: Transaction) -> str:
        return str([await tx.rows(f"SELECT * FROM {table}") for table in ("api_token", "api_session")])

    text: str = gateway.run(gateway.gateway.database.read(work))
    return text


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)  # nothing here depends on the database
def test_a_token_is_accepted_in_every_place(gateway: Served, token: str) -> None:
    for headers in (
        bearer(token),
        {"authorization": f"bEARER   {token}"},
        basic("ci", token),
        basic("anyone", token),
        basic("a\0b\n" + "é" * 1_000, token),
        {"x-auth-token": token},
        {"x-auth-token": token, "authorization": "Bearer nonsense"},
    ):
        assert graphql(gateway, headers).json() == VM_RESPONSE, headers
        assert gateway.http.get("/graphql", params={"query": VM}, headers=headers).json() == VM_RESPONSE
        assert identity(gateway, headers) == ("ci", "default", "operator")
    for payload in (
        {"authorization": f"Bearer {token}"},
        {"Authorization": f"Bearer {token}"},
        {"headers": {"Authorization": f"Bearer {token}"}},
        {"headers": {"x-auth-token": token}, "authorization": None},
    ):
        with Socket(gateway, payload) as socket:
            assert socket.receive() == ACK
            socket.subscribe(VM)
            assert socket.receive() == {"id": "1", "type": "next", "payload": VM_RESPONSE}
    with Socket(gateway, None, bearer(token)) as socket:
        assert socket.receive() == ACK


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)  # nothing here depends on the database
def test_requests_without_credentials_are_rejected(gateway: Served, token: str) -> None:
    for response in (graphql(gateway), gateway.http.get("/graphql", params={"query": VM})):
        assert error_of(response) == (
            401,
            "UNAUTHENTICATED",
            "Authentication is required. Send the header `Authorization: Bearer TOKEN`.",
        )
        assert response.headers["www-authenticate"] == 'Bearer realm="snapshot gateway"'
    introspection = graphql(gateway, query="{ __schema { queryType { name } } }")
    assert error_of(introspection)[:2] == (401, "UNAUTHENTICATED")
    events = gateway.http.post(
        "/graphql",
        json={"query": "subscription { snapshotChanged { kind } }"},
        headers={"accept": "text/event-stream"},
    )
    assert error_of(events)[:2] == (401, "UNAUTHENTICATED")
    for path in ("", "/vms", "/auth", "/nonsense"):
        response = gateway.http.get("/api" + path)
        assert response.status_code == 401
        assert response.json()["error"]["kind"] == "unauthorized"
        assert response.headers.get_list("www-authenticate")[0].startswith("Basic ")
    with Socket(gateway, None) as socket:
        assert socket.await_close() == (
            4403,
            "Authentication is required. Send the header `Authorization: Bearer TOKEN`.",
        )
    for path in ("/", "/healthz", "/readyz", "/schema.graphql"):
        assert gateway.http.get(path).status_code == 200
    assert token not in dump(gateway)


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)  # nothing here depends on the database
def test_invalid_credentials_are_rejected(gateway: Served, token: str) -> None:
    prefix, number, secret = token.split("_")
    last = "0" if secret[-1] != "0" else "1"
    for wrong in (
        "nonsense",
        token[:-1],
        token + "0",
        f"{prefix}_{number}_{secret[:-1]}{last}",
        f"{prefix}_{int(number) + 1}_{secret}",
        f"{prefix}_0{number}_{secret}",
        f"sgs_{number}_{secret}",
        f"{prefix}_{number}_{secret.upper()}x",
        "x" * 8_000,
    ):
        response = graphql(gateway, bearer(wrong))
        assert error_of(response) == INVALID, wrong
        assert response.headers["www-authenticate"] == (
            'Bearer realm="snapshot gateway", error="invalid_token", error_description="The credentials are not valid."'
        )
        assert gateway.http.get("/api", headers=basic("ci", wrong)).status_code == 401
        assert gateway.http.get("/api", headers={"x-auth-token": wrong}).status_code == 401
    gateway.clock.advance(BURST * SECONDS_PER_FAILURE)  # further failures would be throttled
    for authorization, message in (
        (token, "`Authorization` must be `Bearer TOKEN`, or `Basic` with a token as the password."),
        ("Digest " + token, "`Authorization` must be `Bearer TOKEN`, or `Basic` with a token as the password."),
        ("Basic " + token, "The `Basic` credentials are not valid Base64."),
        ("Bearer " + "x" * 9_000, "The credentials are longer than 8192 bytes."),
    ):
        assert error_of(graphql(gateway, {"authorization": authorization})) == (401, "UNAUTHENTICATED", message)
    twice = [("authorization", f"Bearer {token}"), ("authorization", "Bearer x")]
    response = gateway.http.post("/graphql", json={"query": VM}, headers=twice)
    assert error_of(response)[2] == "The request has more than one `Authorization` header."
    for payload in ({"authorization": f"Bearer {token}x"}, {"authorization": token}, {"authorization": {"a": 1}}):
        with Socket(gateway, payload, bearer(token)) as socket:  # the payload takes precedence over the valid header
            assert socket.await_close()[0] in (4403, 1013)  # 1013 after too many failures


def test_a_revoked_token_is_rejected_when_its_cached_result_expires(gateway: Served, url: str, token: str) -> None:
    assert graphql(gateway, bearer(token)).json() == VM_RESPONSE
    session = gateway.http.get("/api/auth", headers=basic("x", token)).json()["auth_token"]
    assert graphql(gateway, bearer(session)).json() == VM_RESPONSE
    revoke_token(url)
    gateway.clock.advance(CREDENTIALS_TRUSTED)
    assert error_of(graphql(gateway, bearer(token))) == (401, "UNAUTHENTICATED", "The token has been revoked.")
    assert graphql(gateway, bearer(session)).status_code == 401
    assert error_of(graphql(gateway))[:2] == (401, "UNAUTHENTICATED")  # authentication is still required


def test_a_token_expires(gateway: Served, url: str) -> None:
    token = create_token(url, "short")

    async def expire(tx: Transaction) -> None:
        at = "'2026-01-01T00:00:00.000000Z'" if tx.dialect == "sqlite" else "'2026-01-01T00:00:00Z'"
        await tx.rows(f"UPDATE api_token SET expires_at = {at} WHERE name = 'short'")

    gateway.run(gateway.gateway.database.write(expire))
    assert error_of(graphql(gateway, bearer(token))) == (401, "UNAUTHENTICATED", "The token has expired.")


def test_the_last_use_of_a_token_is_recorded(gateway: Served, url: str, token: str) -> None:
    assert "never used" in run("token", "list", "--database-url", url)[1]
    assert graphql(gateway, bearer(token)).json() == VM_RESPONSE
    until(lambda: "last used 20" in run("token", "list", "--database-url", url)[1])


def test_token_commands(url: str) -> None:
    code, out, err = run("token", "create", "deploy", "--role", "viewer", "--role", "operator", "--database-url", url)
    assert (code, err) == (0, "")
    assert re.fullmatch(r"sgw_1_[0-9a-f]{64}\n", out)
    at = ("--database-url", url)
    assert command_refusal("token", "create", "deploy", "--role", "viewer", *at) == (
        "Token 'deploy' already exists. Revoke it or choose another name."
    )
    assert command_refusal("token", "create", "x", "--role", "king", *at).startswith(
        "Role 'king' does not exist. The roles are: "
    )
    assert command_refusal("token", "create", "x", *at).startswith("Missing option '--role'.")
    for bad in ("0d", "soon", "90", "-1d", "99999d", ""):
        assert command_refusal("token", "create", "x", "--role", "viewer", "--expires", bad, *at) == (
            f"The lifetime of a token must be a duration such as 90d, 12h or 30m, at most 3650d, or never, not {bad!r}."
        )
    for bad in (" ", "a\nb", "n" * 256):
        assert command_refusal("token", "create", bad, "--role", "viewer", *at) == (
            "The name of a token must be 1 to 255 printable characters."
        )
    create_token(url, "lasting", "--expires", "never", "--tenant", "acme", role="admin")
    assert command_refusal("token", "revoke", "x", *at) == "Token 'x' does not exist or is already revoked."
    assert (
        run("token", "revoke", "deploy", *at)[1]
        == "Revoked token 'deploy'. Running gateways reject it within 10 seconds.\n"
    )
    assert command_refusal("token", "revoke", "deploy", *at) == "Token 'deploy' does not exist or is already revoked."
    create_token(url, "deploy")
    times = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\dZ")
    assert [times.sub("T", line) for line in run("token", "list", *at)[1].splitlines()] == [
        "deploy: sgw_1_…, operator, viewer, tenant default, created T, revoked T, never used",
        "lasting: sgw_2_…, admin, tenant acme, created T, never expires, never used",
        "deploy: sgw_3_…, operator, tenant default, created T, expires T, never used",
    ]
    lines = run("token", "list", "--rights", *at, roles='auditor = ["administration"]')[1].splitlines()
    kinds, actions = ("instance", "vm"), ("create", "delete", "read", "update")
    operator = [f"{kind}:{action}" for kind in kinds for action in actions]
    assert [times.sub("T", line) for line in lines[:2]] == [
        "deploy: sgw_1_…, operator, viewer, tenant default, created T, revoked T, never used",
        f"  rights: {', '.join(operator)}",
    ]
    assert lines[3] == f"  rights: administration, {', '.join(sorted([*operator, 'vm:revert']))}"


def test_rights_of_a_role_that_no_longer_exists(url: str) -> None:
    at = ("--database-url", url)
    assert run("token", "create", "x", "--role", "auditor", *at, roles='auditor = ["vm:read"]')[0] == 0
    assert (
        run("token", "list", "--rights", *at, roles='auditor = ["vm:read"]')[1].splitlines()[1] == "  rights: vm:read"
    )
    assert run("token", "list", "--rights", *at)[1].splitlines()[1] == "  rights: none"


def test_every_gateway_accepts_a_session_until_it_is_ended(url: str, token: str) -> None:
    settings = Settings(database_url=url, credentials_trusted=0.2)
    with served(settings) as first:
        given = first.http.post("/api/auth", headers=basic("x", token)).json()
        session = {"x-auth-token": given["auth_token"]}
        assert given["token_ttl"] == 600
        assert given["auth_token"] not in dump(first)
        if "postgresql" in url:
            with served(settings) as second:
                assert identity(second, session) == ("ci", "default", "operator")
    with served(settings) as again:
        assert identity(again, session) == ("ci", "default", "operator")
        assert graphql(again, session).json() == VM_RESPONSE
        further = {"x-auth-token": again.http.get("/api/auth", headers=session).json()["auth_token"]}
        assert again.http.delete("/api/auth", headers=session).status_code == 204
        # The gateway that serves the request ends this session immediately, and no other one.
        assert again.http.get("/api", headers=session).status_code == 401
        assert identity(again, further) == ("ci", "default", "operator")
        refused = again.http.delete("/api/auth", headers={"x-auth-token": token})
        assert refused.status_code == 400
        assert refused.json()["error"]["message"] == "Only a token that /api/auth issued can be revoked here."
        assert identity(again, bearer(token)) == ("ci", "default", "operator")


def test_a_session_expires_without_use_and_at_its_lifetime(gateway: Served, url: str, token: str) -> None:
    def given() -> dict[str, str]:
        return {"x-auth-token": gateway.http.get("/api/auth", headers=bearer(token)).json()["auth_token"]}

    def change(assignment: str) -> None:
        gateway.run(gateway.gateway.database.write(lambda tx: tx.rows(f"UPDATE api_session SET {assignment}")))

    past = "'2026-01-01T00:00:00.000000Z'"
    for assignment in (f"last_used_at = {past}", f"expires_at = {past}"):
        session = given()
        change(assignment)
        response = gateway.http.get("/api", headers=session)
        assert (response.status_code, response.json()["error"]["message"]) == (401, "The token has expired.")
    given()
    assert dump(gateway).count("token:1") == 1  # expired sessions are deleted


def test_the_sessions_of_a_caller_are_limited(gateway: Served, token: str) -> None:
    for _ in range(103):
        assert gateway.http.get("/api/auth", headers=bearer(token)).status_code == 200
    assert dump(gateway).count("token:1") == 100


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)  # nothing here depends on the database
def test_a_page_of_another_site_does_not_end_sessions(gateway: Served, token: str) -> None:
    """An image of a foreign page requests sessions with the credentials that the browser has for the gateway."""
    session = {"x-auth-token": gateway.http.get("/api/auth", headers=basic("", token)).json()["auth_token"]}
    image = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}
    answers = [gateway.http.get("/api/auth", headers=basic("", token) | image) for _ in range(MAX_PER_CALLER)]
    assert {answer.status_code for answer in answers} == {403}
    assert answers[0].json()["error"]["kind"] == "forbidden"
    gateway.clock.advance(CREDENTIALS_TRUSTED)
    assert identity(gateway, session) == ("ci", "default", "operator")


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)  # nothing here depends on the database
def test_idempotency_keys_are_per_token(gateway: Served, url: str, token: str) -> None:
    """Even if a later token has the same name."""
    set_latency(gateway, 0)
    field = 'createSnapshot(input: {machineId: "vm-11", name: "n", idempotencyKey: "k"})'
    mutation = f"mutation {{ {field} {{ operation {{ id requestedBy }} errors {{ message }} }} }}"

    def create(token: str) -> Any:
        return graphql(gateway, bearer(token), mutation).json()["data"]["createSnapshot"]

    first = create(token)
    assert create(token) == first
    assert first["operation"]["requestedBy"] == "ci"
    revoke_token(url)
    later = create(create_token(url))
    assert later["errors"] == []
    assert later["operation"]["id"] != first["operation"]["id"]
    assert later["operation"]["requestedBy"] == "ci"


def test_a_reachable_address_requires_authentication(url: str) -> None:
    message = (
        "GATEWAY_HOST '0.0.0.0' can be reached from other machines, but authentication is not configured. Create a"
        " token with `gateway token create`, name a JWT issuer with GATEWAY_JWT_ISSUER, or listen on 127.0.0.1 or ::1."
    )
    assert command_refusal("serve", "--host", "0.0.0.0", "--port", "0", "--database-url", url) == message
    settings = Settings(database_url=url, host="0.0.0.0")
    with pytest.raises(StartupError, match="authentication is not configured"), served(settings):
        pass
    token = create_token(url)
    with served(settings) as gateway:
        assert graphql(gateway).status_code == 401
        assert graphql(gateway, bearer(token)).json() == VM_RESPONSE


def test_the_first_token_makes_authentication_required(databases: Databases) -> None:
    url = databases.new("sqlite", demo=True)
    settings = Settings(database_url=url)
    with served(settings) as gateway:
        assert graphql(gateway).json() == VM_RESPONSE
        assert graphql(gateway, basic("admin", "smartvm")).json() == VM_RESPONSE
        with Socket(gateway, None) as socket:
            assert socket.receive() == ACK
        token = create_token(url)
        assert identity(gateway, bearer(token))[0] == "ci"  # immediately, because an unknown credential is looked up
        gateway.clock.advance(settings.credentials_trusted)
        assert graphql(gateway).status_code == 401
        assert graphql(gateway, basic("admin", "smartvm")).status_code == 401
        revoke_token(url)
        gateway.clock.advance(settings.credentials_trusted)
        assert graphql(gateway, bearer(token)).status_code == 401
        assert graphql(gateway).status_code == 401
    with served(settings) as gateway:  # also after a restart
        assert graphql(gateway).status_code == 401
