"""JWTs over HTTP and WebSocket: who comes in with one, and that nothing forged, foreign or expired does."""

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

from gateway.config import Settings
from tests.access.asking import SEEN, VM, Socket, basic, bearer, graphql, make_token, refusal, who
from tests.access.issuer import (
    AUDIENCE,
    EC,
    EDWARDS,
    NAME,
    OTHER_RSA,
    RSA,
    SECRET,
    WEAK_RSA,
    Published,
    claims,
    forged,
    jwk,
    pem,
    publishing,
    signed,
)
from tests.cli.programs import refusal as command_refusal
from tests.databases import Databases
from tests.serving import Served, served

NOT_VALID = "The credentials are not valid."
NOT_ACCEPTED = "The token is signed by an algorithm that is not accepted."


@pytest.fixture(scope="module")
def published() -> Iterator[Published]:
    with publishing() as published:
        published.keys = [
            jwk(RSA, "one"),
            jwk(EC, "curve"),
            jwk(EDWARDS, "edwards"),
            jwk(WEAK_RSA, "weak"),
            jwk(OTHER_RSA, "only-pss", alg="PS256"),
            {"kty": "oct", "kid": "shared", "k": base64.urlsafe_b64encode(SECRET.encode()).decode()},
            jwk(OTHER_RSA, "sealing", use="enc"),
            {"kty": "RSA", "kid": "broken"},
            "nonsense",
        ]
        yield published


def settings(databases: Databases, **more: Any) -> Settings:
    url = databases.new("sqlite")
    return Settings(database_url=url, jwt_issuer=NAME, jwt_audience=(AUDIENCE, "other"), **more)


@pytest.fixture(scope="module")
def gateway(databases: Databases, published: Published) -> Iterator[Served]:
    """Trusts the issuer's published keys. It has no API token."""
    with served(settings(databases, jwt_jwks_url=published.url), demo=True) as gateway:
        yield gateway


def refused(gateway: Served, token: str) -> str:
    """Why it is refused, by both surfaces and by WebSocket."""
    status, code, message = refusal(graphql(gateway, bearer(token)))
    assert (status, code) == (401, "UNAUTHENTICATED")
    rest = gateway.http.get("/api", headers=bearer(token))
    assert (rest.status_code, rest.json()["error"]["message"]) == (401, message)
    with Socket(gateway, {"authorization": f"Bearer {token}"}) as socket:
        assert socket.closed() == (4403, message)
    return message


def forgive(gateway: Served) -> None:
    """These tests fail more often than anybody may."""
    throttle = gateway.gateway.authenticator._throttle
    throttle._addresses._levels.clear()


@pytest.fixture(autouse=True)
def patient(gateway: Served) -> None:
    forgive(gateway)


def test_good_ones_let_in(gateway: Served) -> None:
    for token in (
        signed(),
        signed(EC, "ES256", "curve"),
        signed(EDWARDS, "EdDSA", "edwards"),
        signed(kid=None),
        signed(EC, "ES256", kid=None),
        signed(aud=["elsewhere", "other"]),
        signed(nbf=int(time.time()) + 20, iat=int(time.time()) + 20),  # within the leeway
        signed(exp=int(time.time()) - 20),
        signed(roles="viewer operator"),
    ):
        assert graphql(gateway, bearer(token)).json() == SEEN, token
        assert who(gateway, {"x-auth-token": token})[:2] == ("ann", "default")
        assert who(gateway, basic("ann", token))[:2] == ("ann", "default")
        with Socket(gateway, {"headers": {"Authorization": f"Bearer {token}"}}) as socket:
            assert socket.receive() == {"type": "connection_ack"}
    assert graphql(gateway).status_code == 401


def test_claims_are_held_to(gateway: Served) -> None:
    now = int(time.time())
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"exp": now - 40}, "The token has expired."),
        ({"exp": None}, "The token has no claim `exp`."),
        ({"iss": None}, "The token has no claim `iss`."),
        ({"aud": None}, "The token has no claim `aud`."),
        ({"iss": "https://elsewhere.example/"}, "The token is of another issuer."),
        ({"aud": "elsewhere"}, "The token is for another audience."),
        ({"aud": []}, "The token has no claim `aud`."),
        ({"nbf": now + 40}, "The token is not valid yet."),
        ({"iat": now + 40}, "The token is not valid yet."),
        ({"sub": None}, "The token names nobody in its claim `sub`."),
        ({"sub": ""}, "The token names nobody in its claim `sub`."),
        ({"sub": "a\nb"}, "The token names nobody in its claim `sub`."),
        ({"sub": "a" * 256}, "The token names nobody in its claim `sub`."),
        ({"tenant": None}, "The token names no tenant in its claim `tenant`."),
        ({"tenant": ""}, "The token names no tenant in its claim `tenant`."),
        ({"tenant": ["default"]}, "The token names no tenant in its claim `tenant`."),
        ({"exp": "soon"}, NOT_VALID),
        ({"exp": [1]}, NOT_VALID),
    ]
    for changes, message in wrong:
        forgive(gateway)
        assert refused(gateway, signed(**changes)) == message, changes


def test_without_a_known_role_there_are_no_rights(gateway: Served) -> None:
    for roles in (None, [], ["king"], 7, [7, {"a": 1}], {"operator": True}):
        assert who(gateway, bearer(signed(roles=roles)))[0] == "ann"
        wish = (
            'mutation { createSnapshot(input: {machineId: "vm-11", name: "n"}) { operation { id } errors { code } } }'
        )
        answer = graphql(gateway, bearer(signed(roles=roles)), wish).json()
        # Who may not read Vms does not hear that there is one.
        assert answer["data"]["createSnapshot"] == {"operation": None, "errors": [{"code": "NOT_FOUND"}]}


def test_tampering(gateway: Served) -> None:
    head, body, signature = signed().split(".")
    _, other_body, other_signature = signed(sub="bob").split(".")
    raised = base64.urlsafe_b64encode(json.dumps(claims(roles=["admin"])).encode()).rstrip(b"=").decode()
    flipped = ("A" if signature[0] != "A" else "B") + signature[1:]
    for token in (
        f"{head}.{raised}.{signature}",
        f"{head}.{other_body}.{signature}",
        f"{head}.{body}.{other_signature}",
        f"{head}.{body}.{flipped}",
        f"{head}.{body}.",
        f"{head}.{body}",
        f"{head}..{signature}",
        f".{body}.{signature}",
        "..",
        f"{head}.{body}.{signature}.x",
        signed(OTHER_RSA),  # another's key under a known id
        signed(OTHER_RSA, kid=None),
    ):
        forgive(gateway)
        assert refused(gateway, token) == NOT_VALID, token


def test_the_token_does_not_choose_how_it_is_verified(gateway: Served) -> None:
    for algorithm in ("none", "None", "NONE", "", None, 7, "HS256", "HS512", "RS1", "ES256K", "RS512", "PS256"):
        forgive(gateway)
        for secret in (None, b"", pem(RSA), pem(RSA).strip(), SECRET.encode()):
            token = forged({"alg": algorithm, "typ": "JWT", "kid": "one"}, claims(), secret)
            assert refusal(graphql(gateway, bearer(token)))[2] in (NOT_ACCEPTED, NOT_VALID)
            forgive(gateway)
        assert refused(gateway, forged({"alg": algorithm, "kid": "one"}, claims())) in (NOT_ACCEPTED, NOT_VALID)
    # A published key serves only what it is for, and only its own kind of algorithm.
    for token in (
        _weakly_signed(),
        signed(OTHER_RSA, "RS256", "only-pss"),
        signed(OTHER_RSA, "RS256", "sealing"),
        signed(EC, "ES256", "one"),
        signed(RSA, "RS256", "curve"),
        signed(RSA, "RS256", "broken"),
        forged({"alg": "HS256", "kid": "shared"}, claims(), SECRET.encode()),
    ):
        forgive(gateway)
        assert refused(gateway, token) in (NOT_ACCEPTED, NOT_VALID), token


def test_headers_that_name_keys_elsewhere_are_ignored(gateway: Served, published: Published) -> None:
    mine = jwk(OTHER_RSA, "mine")
    for headers in (
        {"jwk": mine},
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
        forgive(gateway)
        token = signed(OTHER_RSA, headers=headers)
        if len(token) < 8_000:
            assert refused(gateway, token) == NOT_VALID, headers


def test_what_is_no_jwt_at_all(gateway: Served) -> None:
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
        forgive(gateway)
        assert refused(gateway, token) in (NOT_VALID, NOT_ACCEPTED), token
    huge = signed(roles=["r" * 100] * 200)
    assert refusal(graphql(gateway, bearer(huge)))[2] == "The credentials are longer than 8192 bytes."


def test_api_tokens_let_in_beside_jwts(gateway: Served) -> None:
    token = make_token(_url(gateway), "beside")
    assert who(gateway, bearer(token)) == ("beside", "default", "operator")


def _weakly_signed() -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InsecureKeyLengthWarning)
        return signed(WEAK_RSA, "RS256", "weak")


def _url(gateway: Served) -> str:
    path: str = gateway.gateway.database._path  # type: ignore[attr-defined]
    return f"sqlite:///{path}"


def test_a_session_lives_no_longer_than_the_jwt(gateway: Served) -> None:
    token = signed(exp=int(time.time()) - 28)  # by the leeway two seconds are left
    given = gateway.http.get("/api/auth", headers=bearer(token)).json()
    session = {"x-auth-token": given["auth_token"]}
    assert who(gateway, session) == ("ann", "default", "operator")
    until = time.monotonic() + 20
    while gateway.http.get("/api", headers=session).status_code == 200:
        assert time.monotonic() < until
    assert gateway.http.get("/api", headers=session).json()["error"]["message"] == "The token has expired."


def test_claims_can_be_called_otherwise(databases: Databases, tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(pem(EC))
    changed = settings(
        databases,
        jwt_key_file=str(tmp_path / "key.pem"),
        jwt_name_claim="preferred_username",
        jwt_roles_claim="realm_access.roles",
        jwt_tenant_claim="https://issuer.example/tenant",
        jwt_default_tenant="default",
    )
    with served(changed, demo=True) as gateway:
        token = signed(EC, "ES256", preferred_username="Ann A.", realm_access={"roles": ["viewer"]}, tenant="ignored")
        assert who(gateway, bearer(token)) == ("Ann A.", "default", "viewer")
        more = {"https://issuer.example/tenant": "acme"}
        token = signed(EC, "ES256", preferred_username="Bob", realm_access="nothing", **more)
        assert who(gateway, bearer(token)) == ("Bob", "acme", "")
        assert refusal(graphql(gateway, bearer(signed(EC, "ES256"))))[2] == (
            "The token names nobody in its claim `preferred_username`."
        )


def test_a_shared_secret(databases: Databases, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET + "\n")
    shared = settings(databases, jwt_secret_file=str(tmp_path / "secret"))
    with served(shared, demo=True) as gateway:
        assert graphql(gateway, bearer(signed(SECRET, "HS256", None))).json() == SEEN
        assert graphql(gateway, bearer(signed(SECRET, "HS256", "any"))).json() == SEEN
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
    with served(settings(databases, jwt_key_file=str(tmp_path / "key.pem")), demo=True) as gateway:
        assert graphql(gateway, bearer(signed())).json() == SEEN
        assert graphql(gateway, bearer(signed(OTHER_RSA))).status_code == 401


def test_settings_that_make_no_sense(tmp_path: Path) -> None:
    def write(name: str, content: bytes) -> str:
        (tmp_path / name).write_bytes(content)
        return str(tmp_path / name)

    private = RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    good = {"jwt_issuer": NAME, "jwt_audience": AUDIENCE}
    sources = "GATEWAY_JWT_JWKS_URL, GATEWAY_JWT_KEY_FILE, GATEWAY_JWT_SECRET, GATEWAY_JWT_SECRET_FILE"
    cases: list[tuple[dict[str, Any], str]] = [
        ({"jwt_secret": SECRET}, "GATEWAY_JWT_SECRET needs GATEWAY_JWT_ISSUER too: tokens for others are not accepted"),
        (
            {"jwt_issuer": NAME, "jwt_secret": SECRET},
            "GATEWAY_JWT_SECRET needs GATEWAY_JWT_AUDIENCE too: tokens for others are not accepted",
        ),
        (good, f"JWTs need exactly one of {sources}"),
        ({**good, "jwt_secret": SECRET, "jwt_key_file": "x"}, f"JWTs need exactly one of {sources}"),
        ({**good, "jwt_secret": "short"}, "the shared secret of JWTs must have at least 32 bytes"),
        (
            {**good, "jwt_secret_file": "/no"},
            "GATEWAY_JWT_SECRET_FILE '/no' cannot be read: No such file or directory",
        ),
        (
            {**good, "jwt_key_file": "/no"},
            "GATEWAY_JWT_KEY_FILE '/no' cannot be read: No such file or directory",
        ),
        (
            {**good, "jwt_jwks_url": "http://issuer.example/keys"},
            "GATEWAY_JWT_JWKS_URL must be an https:// URL: who could change keys on their way could come in",
        ),
        (
            {**good, "jwt_secret": SECRET, "jwt_algorithms": "HS256,RS256"},
            "GATEWAY_JWT_ALGORITHMS with GATEWAY_JWT_SECRET may name HS256, HS384, HS512, not 'RS256'",
        ),
        *(
            ({**good, "jwt_jwks_url": "https://issuer.example/keys", "jwt_algorithms": name}, f", not '{name}'")
            for name in ("none", "HS256", "rs256", "ES256K")
        ),
        (
            {**good, "jwt_key_file": write("private.pem", private)},
            "holds a private key: the gateway only needs the public one",
        ),
        ({**good, "jwt_key_file": write("nonsense.pem", b"nonsense")}, "holds no public key in PEM"),
        ({**good, "jwt_key_file": write("weak.pem", pem(WEAK_RSA))}, "must hold an RSA key of at least 2048 bits"),
    ]
    for given, message in cases:
        said = command_refusal("serve", database_url=f"sqlite:///{tmp_path}/x.db", **given)
        assert message in said, given
        assert SECRET not in said
    assert not (tmp_path / "x.db").exists()


def test_no_repr_shows_a_secret() -> None:
    shown = repr(
        Settings(jwt_secret=SECRET, database_url="postgresql://u:hunter2@h/d", providers="password = 'hunter2'")
    )
    assert SECRET not in shown
    assert "hunter2" not in shown
    assert "jwt_issuer" in shown


def test_reads_by_get_and_events_too(gateway: Served) -> None:
    headers = {**bearer(signed()), "accept": "text/event-stream"}
    assert "web-01" in gateway.http.get("/graphql", params={"query": VM}, headers=headers).text
