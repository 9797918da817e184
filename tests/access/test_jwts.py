"""Authentication with JWTs over HTTP and WebSocket, and rejection of forged, foreign and expired ones."""

import base64
import json
import time
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from jwt.warnings import InsecureKeyLengthWarning

from gateway.access.login_throttle import BURST, SECONDS_PER_FAILURE
from gateway.config import Settings
from tests.access.clients import VM, VM_RESPONSE, Socket, basic, bearer, create_token, error_of, graphql, identity
from tests.access.issuer import (
    AUDIENCE,
    EC,
    ED25519,
    ISSUER,
    OTHER_RSA,
    RSA,
    SECRET,
    WEAK_RSA,
    JwksServer,
    claims,
    forged,
    jwk,
    jwks_server,
    pem,
    signed,
)
from tests.cli.programs import refusal as command_refusal
from tests.databases import SLOW_KINDS, Databases
from tests.serving import Served, served
from tests.waiting import until

INVALID = "The credentials are not valid."
UNSTORABLE = ("a\0b", "a\ud800b", "a" * 256, "é" * 700)  # texts that a database cannot hold, or not in an index
NOT_ACCEPTED = "The token is signed with an algorithm that is not accepted."


@pytest.fixture(scope="module")
def published() -> Iterator[JwksServer]:
    with jwks_server() as published:
        published.keys = [
            jwk(RSA, "one"),
            jwk(EC, "curve"),
            jwk(ED25519, "edwards"),
            jwk(WEAK_RSA, "weak"),
            jwk(OTHER_RSA, "only-pss", alg="PS256"),
            {"kty": "oct", "kid": "shared", "k": base64.urlsafe_b64encode(SECRET.encode()).decode()},
            jwk(OTHER_RSA, "sealing", use="enc"),
            {"kty": "RSA", "kid": "broken"},
            "nonsense",
        ]
        yield published


@pytest.fixture(scope="module")
def url(databases: Databases) -> str:
    return databases.new("sqlite", demo=True)


def settings(url: str, **more: Any) -> Settings:
    return Settings(database_url=url, jwt_issuer=ISSUER, jwt_audience=(AUDIENCE, "other"), **more)


@pytest.fixture(scope="module")
def gateway(url: str, published: JwksServer) -> Iterator[Served]:
    """A gateway that trusts the issuer's JWKS and has no API tokens."""
    with served(settings(url, jwt_jwks_url=published.url)) as gateway:
        yield gateway


def rejection(gateway: Served, token: str) -> str:
    """The message with which GraphQL, REST and WebSocket reject the token."""
    status, code, message = error_of(graphql(gateway, bearer(token)))
    assert (status, code) == (401, "UNAUTHENTICATED")
    rest = gateway.http.get("/api", headers=bearer(token))
    assert (rest.status_code, rest.json()["error"]["message"]) == (401, message)
    with Socket(gateway, {"authorization": f"Bearer {token}"}) as socket:
        assert socket.await_close() == (4403, message)
    return message


def reset_throttle(gateway: Served) -> None:
    """These tests cause more failures than the login throttle allows."""
    gateway.clock.advance(BURST * SECONDS_PER_FAILURE)


@pytest.fixture(autouse=True)
def unthrottled(gateway: Served) -> None:
    reset_throttle(gateway)


def test_valid_tokens(gateway: Served) -> None:
    for token in (
        signed(),
        signed(EC, "ES256", "curve"),
        signed(ED25519, "EdDSA", "edwards"),
        signed(kid=None),
        signed(EC, "ES256", kid=None),
        signed(aud=["elsewhere", "other"]),
        signed(nbf=int(time.time()) + 20, iat=int(time.time()) + 20),  # within the leeway
        signed(exp=int(time.time()) - 20),
        signed(roles="viewer operator"),
    ):
        assert graphql(gateway, bearer(token)).json() == VM_RESPONSE, token
        assert identity(gateway, {"x-auth-token": token})[:2] == ("ann", "default")
        assert identity(gateway, basic("ann", token))[:2] == ("ann", "default")
        with Socket(gateway, {"headers": {"Authorization": f"Bearer {token}"}}) as socket:
            assert socket.receive() == {"type": "connection_ack"}
    assert graphql(gateway).status_code == 401


def test_claims_are_verified(gateway: Served) -> None:
    now = int(time.time())
    invalid: list[tuple[dict[str, Any], str]] = [
        ({"exp": now - 40}, "The token has expired."),
        ({"exp": None}, "The token has no claim `exp`."),
        ({"iss": None}, "The token has no claim `iss`."),
        ({"aud": None}, "The token has no claim `aud`."),
        ({"iss": "https://elsewhere.example/"}, "The token has another issuer."),
        ({"aud": "elsewhere"}, "The token has another audience."),
        ({"aud": []}, "The token has no claim `aud`."),
        ({"nbf": now + 40}, "The token is not valid yet."),
        ({"iat": now + 40}, "The token is not valid yet."),
        ({"sub": None}, "The token has no valid caller name in its claim `sub`."),
        ({"sub": ""}, "The token has no valid caller name in its claim `sub`."),
        ({"sub": "a\nb"}, "The token has no valid caller name in its claim `sub`."),
        ({"sub": "a" * 256}, "The token has no valid caller name in its claim `sub`."),
        ({"tenant": None}, "The token has no tenant in its claim `tenant`."),
        ({"tenant": ""}, "The token has no tenant in its claim `tenant`."),
        ({"tenant": ["default"]}, "The token has no tenant in its claim `tenant`."),
        *(({"tenant": text}, "The token has no valid tenant in its claim `tenant`.") for text in UNSTORABLE),
        *(({"sub": text}, "The token has no valid caller name in its claim `sub`.") for text in UNSTORABLE),
        *(
            ({"roles": ["operator", text]}, "The token has an invalid role in its claim `roles`.")
            for text in UNSTORABLE
        ),
        ({"sub": "é" * 128}, "The token must identify the caller by at most 255 printable bytes."),
        ({"exp": "soon"}, INVALID),
        ({"exp": [1]}, INVALID),
    ]
    for changes, message in invalid:
        reset_throttle(gateway)
        assert rejection(gateway, signed(**changes)) == message, changes


@pytest.mark.parametrize("kind", SLOW_KINDS)
def test_the_longest_claims_can_be_stored(databases: Databases, kind: str) -> None:
    """Each is 4 bytes long in UTF-8, and no text compresses: an index entry of PostgreSQL has 2,704 bytes at most."""
    letters = [chr(0x10400 + number % 80) if number % 3 else chr(0x20000 + number * 37) for number in range(255)]
    tenant, key, role = "".join(letters), "".join(letters[::-1]), "r" * 255
    subject = "".join(chr(0x100 + number) for number in range(127)) + "x"
    shared = settings(databases.new(kind, demo=True), jwt_secret=SECRET, jwt_name_claim="tenant")
    with served(shared) as gateway:
        longest = signed(SECRET, "HS256", sub=subject, tenant=tenant, roles=[role, "admin"])
        assert identity(gateway, bearer(longest)) == (tenant, tenant, role)
        field = 'createSnapshot(input: {machineId: "vm-11", name: "n", idempotencyKey: $key}) { errors { code } }'
        body = {"query": f"mutation ($key: String) {{ {field} }}", "variables": {"key": key}}
        # The machine is another tenant's. The key and the audit entry of the refusal are written nevertheless.
        answer = gateway.http.post("/graphql", json=body, headers=bearer(longest)).json()
        assert answer == {"data": {"createSnapshot": {"errors": [{"code": "NOT_FOUND"}]}}}
        session = gateway.http.get("/api/auth", headers=bearer(longest)).json()["auth_token"]
        assert identity(gateway, bearer(session)) == (tenant, tenant, role)
        entries = "{ auditEntries { nodes { callerName callerKey callerRoles code } } }"
        assert graphql(gateway, bearer(longest), entries).json()["data"]["auditEntries"]["nodes"] == [
            {"callerName": tenant, "callerKey": f"jwt:{subject}", "callerRoles": [role, "admin"], "code": "NOT_FOUND"}
        ]


def test_renewed_tokens_are_accepted_while_others_at_the_address_fail(gateway: Served) -> None:
    statuses = [graphql(gateway, bearer(signed(OTHER_RSA, sub=f"{number}"))).status_code for number in range(BURST + 5)]
    assert statuses == [401] * BURST + [429] * 5
    for number in range(3):
        assert identity(gateway, bearer(signed(sub=f"renewed{number}")))[0] == f"renewed{number}"
    assert graphql(gateway, bearer(signed(OTHER_RSA, sub="again"))).status_code == 429


def test_unknown_roles_have_no_rights(gateway: Served) -> None:
    for roles in (None, [], ["king"], 7, [7, {"a": 1}], {"operator": True}):
        assert identity(gateway, bearer(signed(roles=roles)))[0] == "ann"
        field = 'createSnapshot(input: {machineId: "vm-11", name: "n"}) { operation { id } errors { code } }'
        answer = graphql(gateway, bearer(signed(roles=roles)), f"mutation {{ {field} }}").json()
        # A caller without the right to read Vms gets NOT_FOUND, not FORBIDDEN.
        assert answer["data"]["createSnapshot"] == {"operation": None, "errors": [{"code": "NOT_FOUND"}]}


def test_tampered_tokens(gateway: Served) -> None:
    head, body, signature = signed().split(".")
    _, other_body, other_signature = signed(sub="bob").split(".")
    escalated = base64.urlsafe_b64encode(json.dumps(claims(roles=["admin"])).encode()).rstrip(b"=").decode()
    flipped = ("A" if signature[0] != "A" else "B") + signature[1:]
    for token in (
        f"{head}.{escalated}.{signature}",
        f"{head}.{other_body}.{signature}",
        f"{head}.{body}.{other_signature}",
        f"{head}.{body}.{flipped}",
        f"{head}.{body}.",
        f"{head}.{body}",
        f"{head}..{signature}",
        f".{body}.{signature}",
        "..",
        f"{head}.{body}.{signature}.x",
        signed(OTHER_RSA),  # the attacker's key under a known kid
        signed(OTHER_RSA, kid=None),
    ):
        reset_throttle(gateway)
        assert rejection(gateway, token) == INVALID, token


def test_the_algorithm_of_the_token_is_not_trusted(gateway: Served) -> None:
    for algorithm in ("none", "None", "NONE", "", None, 7, "HS256", "HS512", "RS1", "ES256K", "RS512", "PS256"):
        reset_throttle(gateway)
        for secret in (None, b"", pem(RSA), pem(RSA).strip(), SECRET.encode()):
            token = forged({"alg": algorithm, "typ": "JWT", "kid": "one"}, claims(), secret)
            assert error_of(graphql(gateway, bearer(token)))[2] in (NOT_ACCEPTED, INVALID)
            reset_throttle(gateway)
        assert rejection(gateway, forged({"alg": algorithm, "kid": "one"}, claims())) in (NOT_ACCEPTED, INVALID)
    # A published key verifies only the algorithms of its kind, and only if it is published for signatures.
    for token in (
        _weakly_signed(),
        signed(OTHER_RSA, "RS256", "only-pss"),
        signed(OTHER_RSA, "RS256", "sealing"),
        signed(EC, "ES256", "one"),
        signed(RSA, "RS256", "curve"),
        signed(RSA, "RS256", "broken"),
        forged({"alg": "HS256", "kid": "shared"}, claims(), SECRET.encode()),
    ):
        reset_throttle(gateway)
        assert rejection(gateway, token) in (NOT_ACCEPTED, INVALID), token


def test_headers_with_keys_are_ignored(gateway: Served, published: JwksServer) -> None:
    attacker_key = jwk(OTHER_RSA, "mine")
    for headers in (
        {"jwk": attacker_key},
        {"jku": published.url, "kid": "mine"},
        {"x5u": published.url},
        {"x5c": ["MIIB"]},
        {"kid": "../../etc/passwd"},
        {"kid": "one' OR '1'='1"},
        {"kid": ""},
        {"kid": "k" * 4_000},
        {"crit": ["b64"], "b64": False},
        {"crit": ["exp"]},
    ):
        reset_throttle(gateway)
        token = signed(OTHER_RSA, headers=headers)
        if len(token) < 8_000:
            assert rejection(gateway, token) == INVALID, headers


def test_malformed_tokens(gateway: Served) -> None:
    deep = b"[" * 5_000
    for token in (
        "a.b.c",
        "eyJ.eyJ.x",
        forged(b"[]", claims()),
        forged(b"null", claims()),
        forged(b"\xff", claims()),
        forged(deep, {}),
        forged(b'{"alg":"RS256","kid":' + deep + b"]" * 0 + b"}", {}),
        forged({"alg": "RS256", "kid": 7}, claims()),
        forged({"alg": "RS256", "kid": {"$ne": 1}}, claims()),
        jwt.encode(claims(), SECRET, algorithm="HS256"),
    ):
        reset_throttle(gateway)
        assert rejection(gateway, token) in (INVALID, NOT_ACCEPTED), token
    huge = signed(roles=["r" * 100] * 200)
    assert error_of(graphql(gateway, bearer(huge)))[2] == "The credentials are longer than 8192 bytes."


def test_api_tokens_and_jwts_together(gateway: Served, url: str) -> None:
    token = create_token(url, "second")
    assert identity(gateway, bearer(token)) == ("second", "default", "operator")


def _weakly_signed() -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InsecureKeyLengthWarning)
        return signed(WEAK_RSA, "RS256", "weak")


def test_a_session_expires_with_its_jwt(gateway: Served) -> None:
    token = signed(exp=int(time.time()) - 28)  # expires in two seconds, because of the leeway of 30
    given = gateway.http.get("/api/auth", headers=bearer(token)).json()
    session = {"x-auth-token": given["auth_token"]}
    assert identity(gateway, session) == ("ann", "default", "operator")
    until(lambda: gateway.http.get("/api", headers=session).status_code != 200)
    assert gateway.http.get("/api", headers=session).json()["error"]["message"] == "The token has expired."


def test_custom_claim_names(databases: Databases, tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(pem(EC))
    changed = settings(
        databases.new("sqlite", demo=True),
        jwt_key_file=str(tmp_path / "key.pem"),
        jwt_name_claim="preferred_username",
        jwt_roles_claim="realm_access.roles",
        jwt_tenant_claim="https://issuer.example/tenant",
        jwt_default_tenant="default",
    )
    with served(changed) as gateway:
        token = signed(EC, "ES256", preferred_username="Ann A.", realm_access={"roles": ["viewer"]}, tenant="ignored")
        assert identity(gateway, bearer(token)) == ("Ann A.", "default", "viewer")
        more = {"https://issuer.example/tenant": "acme"}
        token = signed(EC, "ES256", preferred_username="Bob", realm_access="nothing", **more)
        assert identity(gateway, bearer(token)) == ("Bob", "acme", "")
        assert error_of(graphql(gateway, bearer(signed(EC, "ES256"))))[2] == (
            "The token has no valid caller name in its claim `preferred_username`."
        )


def test_a_shared_secret(databases: Databases, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET + "\n")
    shared = settings(databases.new("sqlite", demo=True), jwt_secret_file=str(tmp_path / "secret"))
    with served(shared) as gateway:
        assert graphql(gateway, bearer(signed(SECRET, "HS256", None))).json() == VM_RESPONSE
        assert graphql(gateway, bearer(signed(SECRET, "HS256", "any"))).json() == VM_RESPONSE
        for token in (
            signed(),
            signed("x" * 40, "HS256"),
            signed(SECRET + SECRET, "HS512"),
            forged({"alg": "none"}, claims()),
        ):
            assert graphql(gateway, bearer(token)).status_code == 401


def test_a_certificate(databases: Databases, tmp_path: Path) -> None:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "issuer")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(RSA.public_key())
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    built = builder.serial_number(1).not_valid_before(moment).not_valid_after(moment.replace(year=2027))
    (tmp_path / "key.pem").write_bytes(built.sign(RSA, SHA256()).public_bytes(Encoding.PEM))
    with served(settings(databases.new("sqlite", demo=True), jwt_key_file=str(tmp_path / "key.pem"))) as gateway:
        assert graphql(gateway, bearer(signed())).json() == VM_RESPONSE
        assert graphql(gateway, bearer(signed(OTHER_RSA))).status_code == 401


def test_invalid_settings(tmp_path: Path) -> None:
    def write(name: str, content: bytes) -> str:
        (tmp_path / name).write_bytes(content)
        return str(tmp_path / name)

    private = RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    valid = {"jwt_issuer": ISSUER, "jwt_audience": AUDIENCE}
    sources = "GATEWAY_JWT_JWKS_URL, GATEWAY_JWT_KEY_FILE, GATEWAY_JWT_SECRET, GATEWAY_JWT_SECRET_FILE"
    cases: list[tuple[dict[str, Any], str]] = [
        (
            {"jwt_secret": SECRET},
            "GATEWAY_JWT_SECRET requires GATEWAY_JWT_ISSUER: a JWT must name the issuer and the audience.",
        ),
        (
            {"jwt_issuer": ISSUER, "jwt_secret": SECRET},
            "GATEWAY_JWT_SECRET requires GATEWAY_JWT_AUDIENCE: a JWT must name the issuer and the audience.",
        ),
        (valid, f"Verifying JWTs requires exactly one of {sources}."),
        ({**valid, "jwt_secret": SECRET, "jwt_key_file": "x"}, f"Verifying JWTs requires exactly one of {sources}."),
        (
            {**valid, "jwt_secret": "short"},
            "The secret in GATEWAY_JWT_SECRET or GATEWAY_JWT_SECRET_FILE must have at least 32 bytes.",
        ),
        (
            {**valid, "jwt_secret_file": "/no"},
            "GATEWAY_JWT_SECRET_FILE '/no' cannot be read: No such file or directory.",
        ),
        (
            {**valid, "jwt_key_file": "/no"},
            "GATEWAY_JWT_KEY_FILE '/no' cannot be read: No such file or directory.",
        ),
        (
            {**valid, "jwt_jwks_url": "http://issuer.example/keys"},
            "GATEWAY_JWT_JWKS_URL must be an https:// URL (or http:// on loopback), not 'http://issuer.example/keys'.",
        ),
        (
            {**valid, "jwt_secret": SECRET, "jwt_algorithms": "HS256,RS256"},
            "GATEWAY_JWT_ALGORITHMS with GATEWAY_JWT_SECRET must be among HS256, HS384, HS512, not 'RS256'.",
        ),
        *(
            ({**valid, "jwt_jwks_url": "https://issuer.example/keys", "jwt_algorithms": name}, f", not '{name}'.")
            for name in ("none", "HS256", "rs256", "ES256K")
        ),
        (
            {**valid, "jwt_key_file": write("private.pem", private)},
            "contains a private key. Provide the issuer's public key instead.",
        ),
        ({**valid, "jwt_key_file": write("nonsense.pem", b"nonsense")}, "does not contain a public key in PEM format."),
        ({**valid, "jwt_key_file": write("weak.pem", pem(WEAK_RSA))}, "must contain an RSA key of at least 2048 bits"),
    ]
    for given, message in cases:
        output = command_refusal("serve", database_url=f"sqlite:///{tmp_path}/x.db", **given)
        assert message in output, given
        assert SECRET not in output
    assert not (tmp_path / "x.db").exists()


def test_the_repr_of_settings_omits_secrets() -> None:
    text = repr(
        Settings(jwt_secret=SECRET, database_url="postgresql://u:hunter2@h/d", providers="password = 'hunter2'")
    )
    assert SECRET not in text
    assert "hunter2" not in text
    assert "jwt_issuer" in text


def test_get_requests_and_event_streams(gateway: Served) -> None:
    headers = {**bearer(signed()), "accept": "text/event-stream"}
    assert "web-01" in gateway.http.get("/graphql", params={"query": VM}, headers=headers).text
