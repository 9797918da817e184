"""Attacks with manipulated JWTs, as one table: each is rejected. `-s` prints the responses and their duration."""

import time
from collections.abc import Iterator

import pytest

from gateway.config import Settings
from tests.access.clients import bearer, error_of, graphql
from tests.access.issuer import AUDIENCE, ISSUER, OTHER_RSA, RSA, claims, forged, jwk, jwks_server, pem, signed
from tests.databases import Databases
from tests.serving import Served, served

HEAD, BODY, SIGNATURE = signed().split(".")
ESCALATED = signed(roles=["admin"]).split(".")[1]

ATTACKS = {
    "another payload": f"{HEAD}.{ESCALATED}.{SIGNATURE}",
    "another signature": f"{HEAD}.{BODY}.{signed(sub='bob').split('.')[2]}",
    "no signature": f"{HEAD}.{BODY}.",
    "alg: none": forged({"alg": "none"}, claims()),
    "alg: nOnE, and a signature": forged({"alg": "nOnE"}, claims(), b"x"),
    "key confusion": forged({"alg": "HS256", "kid": "one"}, claims(), pem(RSA)),
    "the attacker's key": signed(OTHER_RSA),
    "a path as kid": forged({"alg": "RS256", "kid": "../../../../dev/null"}, claims(), b""),
    "SQL as kid": forged({"alg": "RS256", "kid": "' OR 1=1 --"}, claims(), b""),
    "expired": signed(exp=int(time.time()) - 3_600),
    "not valid yet": signed(nbf=int(time.time()) + 3_600),
    "without exp": signed(exp=None),
    "another audience": signed(aud=f"{AUDIENCE}-of-others"),
    "another issuer": signed(iss="https://elsewhere.example"),
    "without a tenant": signed(tenant=None),
    "too long": "x" * 9_000,
    "dots": "." * 100,
}


@pytest.fixture(scope="module")
def gateway(databases: Databases) -> Iterator[Served]:
    with jwks_server() as jwks:
        jwks.keys = [jwk(RSA, "one")]
        settings = Settings(
            database_url=databases.new("sqlite", demo=True),
            jwt_issuer=ISSUER,
            jwt_audience=(AUDIENCE,),
            jwt_jwks_url=jwks.url,
        )
        with served(settings) as gateway:
            assert graphql(gateway, bearer(signed())).status_code == 200
            yield gateway


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_is_rejected(gateway: Served, name: str) -> None:
    begun = time.perf_counter()
    response = graphql(gateway, bearer(ATTACKS[name]))
    took = time.perf_counter() - begun
    # After too many failures from one address, the login throttle responds with 429.
    assert (response.status_code, error_of(response)[1]) in [(401, "UNAUTHENTICATED"), (429, "LIMIT_EXCEEDED")]
    print(f"\n{name:28} {response.status_code} {error_of(response)[2]:75} {took * 1_000:6.1f} ms", end="")
    assert graphql(gateway, bearer(signed())).status_code == 200
