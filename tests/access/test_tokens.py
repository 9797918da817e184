"""API tokens: who comes in with one, by which ways, until when; and that it is kept nowhere."""

import re
import time
from typing import Any

import pytest

from gateway.config import Settings
from gateway.errors import StartupError
from gateway.store.database import Transaction
from tests.access.asking import SEEN, VM, Socket, basic, bearer, graphql, make_token, refusal, revoke, who
from tests.cli.programs import refusal as command_refusal
from tests.cli.programs import run
from tests.databases import Databases
from tests.serving import Served, served

ACK = {"type": "connection_ack"}
NOT_VALID = (401, "UNAUTHENTICATED", "The credentials are not valid.")


def eventually(found: Any, wanted: Any) -> None:
    """Asks until the answer is as it should be, which it has to become."""
    until = time.monotonic() + 20
    while (got := found()) != wanted:
        assert time.monotonic() < until, got


def dump(gateway: Served) -> str:
    """Everything in the tables of identities."""

    async def work(tx: Transaction) -> str:
        return str([await tx.rows(f"SELECT * FROM {table}") for table in ("api_token", "api_session")])

    text: str = gateway.run(gateway.gateway.database.read(work))
    return text


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)  # nothing here depends on the database
def test_a_token_lets_in_by_every_way(gateway: Served, token: str) -> None:
    for headers in (
        bearer(token),
        {"authorization": f"bEARER   {token}"},
        basic("ci", token),
        basic("whoever", token),
        {"x-auth-token": token},
        {"x-auth-token": token, "authorization": "Bearer nonsense"},
    ):
        assert graphql(gateway, headers).json() == SEEN, headers
        assert gateway.http.get("/graphql", params={"query": VM}, headers=headers).json() == SEEN
        assert who(gateway, headers) == ("ci", "default", "operator")
    for payload in (
        {"authorization": f"Bearer {token}"},
        {"Authorization": f"Bearer {token}"},
        {"headers": {"Authorization": f"Bearer {token}"}},
        {"headers": {"x-auth-token": token}, "authorization": None},
    ):
        with Socket(gateway, payload) as socket:
            assert socket.receive() == ACK
            socket.subscribe(VM)
            assert socket.receive() == {"id": "1", "type": "next", "payload": SEEN}
    with Socket(gateway, None, bearer(token)) as socket:
        assert socket.receive() == ACK


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)  # nothing here depends on the database
def test_without_one_nobody_comes_in(gateway: Served, token: str) -> None:
    for response in (graphql(gateway), gateway.http.get("/graphql", params={"query": VM})):
        assert refusal(response) == (401, "UNAUTHENTICATED", "Send a token: `Authorization: Bearer …`.")
        assert response.headers["www-authenticate"] == 'Bearer realm="snapshot gateway"'
    introspection = graphql(gateway, query="{ __schema { queryType { name } } }")
    assert refusal(introspection)[:2] == (401, "UNAUTHENTICATED")
    events = gateway.http.post(
        "/graphql",
        json={"query": "subscription { snapshotChanged { kind } }"},
        headers={"accept": "text/event-stream"},
    )
    assert refusal(events)[:2] == (401, "UNAUTHENTICATED")
    for path in ("", "/vms", "/auth", "/nonsense"):
        response = gateway.http.get("/api" + path)
        assert response.status_code == 401
        assert response.json()["error"]["kind"] == "unauthorized"
        assert response.headers.get_list("www-authenticate")[0].startswith("Basic ")
    with Socket(gateway, None) as socket:
        assert socket.closed() == (4403, "Send a token: `Authorization: Bearer …`.")
    for path in ("/", "/healthz", "/readyz", "/schema.graphql"):
        assert gateway.http.get(path).status_code == 200
    assert token not in dump(gateway)


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)  # nothing here depends on the database
def test_what_is_no_token_is_refused(gateway: Served, token: str) -> None:
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
        assert refusal(response) == NOT_VALID, wrong
        assert response.headers["www-authenticate"] == (
            'Bearer realm="snapshot gateway", error="invalid_token", error_description="The credentials are not valid."'
        )
        assert gateway.http.get("/api", headers=basic("ci", wrong)).status_code == 401
        assert gateway.http.get("/api", headers={"x-auth-token": wrong}).status_code == 401
    for authorization, message in (
        (token, "`Authorization` must be `Bearer`, or `Basic` with a token as the password."),
        ("Digest " + token, "`Authorization` must be `Bearer`, or `Basic` with a token as the password."),
        ("Basic " + token, "What follows `Basic` is not Base64."),
        ("Bearer " + "x" * 9_000, "The credentials are longer than 8192 bytes."),
    ):
        assert refusal(graphql(gateway, {"authorization": authorization})) == (401, "UNAUTHENTICATED", message)
    twice = [("authorization", f"Bearer {token}"), ("authorization", "Bearer x")]
    response = gateway.http.post("/graphql", json={"query": VM}, headers=twice)
    assert refusal(response)[2] == "There is more than one `Authorization` header."
    for payload in ({"authorization": f"Bearer {token}x"}, {"authorization": token}, {"authorization": {"a": 1}}):
        with Socket(gateway, payload, bearer(token)) as socket:  # what the payload says counts
            assert socket.closed()[0] in (4403, 1013)  # too many were wrong lately: come again


def test_a_revoked_token_is_refused_within_the_time_it_was_trusted_for(gateway: Served, url: str, token: str) -> None:
    assert graphql(gateway, bearer(token)).json() == SEEN
    session = gateway.http.get("/api/auth", headers=basic("x", token)).json()["auth_token"]
    assert graphql(gateway, bearer(session)).json() == SEEN
    revoke(url)
    eventually(
        lambda: (
            refusal(graphql(gateway, bearer(token)))[1:] if graphql(gateway, bearer(token)).status_code == 401 else None
        ),
        ("UNAUTHENTICATED", "The token has been revoked."),
    )
    eventually(lambda: graphql(gateway, bearer(session)).status_code, 401)
    assert refusal(graphql(gateway))[:2] == (401, "UNAUTHENTICATED")  # and does not stand open now


def test_a_token_expires(gateway: Served, url: str) -> None:
    token = make_token(url, "short")

    async def expire(tx: Transaction) -> None:
        at = "'2026-01-01T00:00:00.000000Z'" if tx.dialect == "sqlite" else "'2026-01-01T00:00:00Z'"
        await tx.rows(f"UPDATE api_token SET expires_at = {at} WHERE name = 'short'")

    gateway.run(gateway.gateway.database.write(expire))
    assert refusal(graphql(gateway, bearer(token))) == (401, "UNAUTHENTICATED", "The token has expired.")


def test_it_is_kept_when_a_token_was_last_used(gateway: Served, url: str, token: str) -> None:
    assert "never used" in run("token", "list", "--database-url", url)[1]
    assert graphql(gateway, bearer(token)).json() == SEEN
    eventually(lambda: "last used 20" in run("token", "list", "--database-url", url)[1], True)


def test_commands(url: str) -> None:
    code, out, err = run("token", "create", "deploy", "--role", "viewer", "--role", "operator", "--database-url", url)
    assert (code, err) == (0, "")
    assert re.fullmatch(r"sgw_1_[0-9a-f]{64}\n", out)
    at = ("--database-url", url)
    assert command_refusal("token", "create", "deploy", "--role", "viewer", *at) == (
        "there is a token 'deploy' already: revoke it, or choose another name"
    )
    assert command_refusal("token", "create", "x", "--role", "king", *at).startswith(
        "there is no role 'king'; there are:"
    )
    assert command_refusal("token", "create", "x", *at).startswith("Missing option '--role'.")
    for bad in ("0d", "soon", "90", "-1d", "99999d", ""):
        assert command_refusal("token", "create", "x", "--role", "viewer", "--expires", bad, *at) == (
            "a token can expire after a time such as 90d, 12h or 30m, up to 3650d, or never"
        )
    for bad in (" ", "a\nb", "n" * 256):
        assert command_refusal("token", "create", bad, "--role", "viewer", *at) == (
            "the name must be 1 to 255 printable characters"
        )
    make_token(url, "lasting", "--expires", "never", "--tenant", "acme", role="admin")
    assert command_refusal("token", "revoke", "nobody", *at) == "there is no token 'nobody' that could be revoked"
    assert (
        run("token", "revoke", "deploy", *at)[1] == "deploy: revoked; gateways that run refuse it within 10 seconds\n"
    )
    assert command_refusal("token", "revoke", "deploy", *at) == "there is no token 'deploy' that could be revoked"
    make_token(url, "deploy")
    times = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\dZ")
    assert [times.sub("T", line) for line in run("token", "list", *at)[1].splitlines()] == [
        "deploy: sgw_1_…, operator, viewer, tenant default, made T, revoked T, never used",
        "lasting: sgw_2_…, admin, tenant acme, made T, never expires, never used",
        "deploy: sgw_3_…, operator, tenant default, made T, expires T, never used",
    ]


def test_sessions_are_known_to_every_gateway_until_they_are_taken_back(url: str, token: str) -> None:
    settings = Settings(database_url=url, credentials_trusted=0.2)
    with served(settings, demo=True) as first:
        given = first.http.post("/api/auth", headers=basic("x", token)).json()
        session = {"x-auth-token": given["auth_token"]}
        assert given["token_ttl"] == 600
        assert given["auth_token"] not in dump(first)
        if "postgresql" in url:
            with served(settings) as second:
                assert who(second, session) == ("ci", "default", "operator")
    with served(settings) as again:
        assert who(again, session) == ("ci", "default", "operator")
        assert graphql(again, session).json() == SEEN
        further = {"x-auth-token": again.http.get("/api/auth", headers=session).json()["auth_token"]}
        assert again.http.delete("/api/auth", headers=session).status_code == 204
        # Here it ends at once, and only this one.
        assert again.http.get("/api", headers=session).status_code == 401
        assert who(again, further) == ("ci", "default", "operator")
        refused = again.http.delete("/api/auth", headers={"x-auth-token": token})
        assert refused.status_code == 400
        assert refused.json()["error"]["message"] == "Only a token that /api/auth has given can be taken back here"
        assert who(again, bearer(token)) == ("ci", "default", "operator")


def test_a_session_ends_without_use_and_with_the_token(gateway: Served, url: str, token: str) -> None:
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
    assert dump(gateway).count("token:1") == 1  # what is over was cleared away


def test_one_caller_has_so_many_sessions(gateway: Served, token: str) -> None:
    for _ in range(103):
        assert gateway.http.get("/api/auth", headers=bearer(token)).status_code == 200
    assert dump(gateway).count("token:1") == 100


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)  # nothing here depends on the database
def test_an_idempotency_key_is_the_token_s_own(gateway: Served, url: str, token: str) -> None:
    """Also where a later token has the same name, which is what people see."""
    wish = 'createSnapshot(input: {machineId: "vm-11", name: "n", idempotencyKey: "k"})'
    mutation = f"mutation {{ {wish} {{ operation {{ id requestedBy }} errors {{ message }} }} }}"

    def create(token: str) -> Any:
        return graphql(gateway, bearer(token), mutation).json()["data"]["createSnapshot"]

    first = create(token)
    assert create(token) == first
    assert first["operation"]["requestedBy"] == "ci"
    revoke(url)
    later = create(make_token(url))
    assert later["errors"] == []
    assert later["operation"]["id"] != first["operation"]["id"]
    assert later["operation"]["requestedBy"] == "ci"


def test_what_others_can_reach_is_not_served_to_whoever_asks(url: str) -> None:
    message = (
        "0.0.0.0 can be reached from other machines, and no identities are configured to say who may do what: make a"
        " token (gateway token create), name an issuer of JWTs, or listen on 127.0.0.1 or ::1"
    )
    assert command_refusal("serve", "--host", "0.0.0.0", "--port", "0", "--database-url", url) == message
    settings = Settings(database_url=url, host="0.0.0.0")
    with pytest.raises(StartupError, match="no identities are configured"), served(settings):
        pass
    token = make_token(url)
    with served(settings, demo=True) as gateway:
        assert graphql(gateway).status_code == 401
        assert graphql(gateway, bearer(token)).json() == SEEN


def test_a_gateway_that_knows_nobody_asks_from_its_first_token_on(databases: Databases) -> None:
    url = databases.new("sqlite")
    settings = Settings(database_url=url, credentials_trusted=0.2)
    with served(settings, demo=True) as gateway:
        assert graphql(gateway).json() == SEEN
        assert graphql(gateway, basic("admin", "smartvm")).json() == SEEN
        with Socket(gateway, None) as socket:
            assert socket.receive() == ACK
        token = make_token(url)
        assert who(gateway, bearer(token))[0] == "ci"  # at once: it is looked for
        eventually(lambda: graphql(gateway).status_code, 401)
        eventually(lambda: graphql(gateway, basic("admin", "smartvm")).status_code, 401)
        revoke(url)
        eventually(lambda: graphql(gateway, bearer(token)).status_code, 401)
        assert graphql(gateway).status_code == 401
    with served(settings) as gateway:  # nor does it stand open after a restart
        assert graphql(gateway).status_code == 401
