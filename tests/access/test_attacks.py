"""The attack list of tokens as one table: each is refused, and `-s` prints the answer and the time that it took."""

import time
from collections.abc import Iterator

import pytest

from gateway.config import Settings
from tests.access.asking import bearer, graphql, refusal
from tests.access.issuer import AUDIENCE, NAME, OTHER_RSA, RSA, claims, forged, jwk, pem, publishing, signed
from tests.databases import Databases
from tests.serving import Served, served

HEAD, BODY, SIGNATURE = signed().split(".")
RAISED = signed(roles=["admin"]).split(".")[1]

ATTACKS = {
    "another payload": f"{HEAD}.{RAISED}.{SIGNATURE}",
    "another signature": f"{HEAD}.{BODY}.{signed(sub='bob').split('.')[2]}",
    "no signature": f"{HEAD}.{BODY}.",
    "alg: none": forged({"alg": "none"}, claims()),
    "alg: nOnE, and a signature": forged({"alg": "nOnE"}, claims(), b"x"),
    "key confusion": forged({"alg": "HS256", "kid": "one"}, claims(), pem(RSA)),
    "a key of one's own": signed(OTHER_RSA),
    "a key that is a path": forged({"alg": "RS256", "kid": "../../../../dev/null"}, claims(), b""),
    "a key that is SQL": forged({"alg": "RS256", "kid": "' OR 1=1 --"}, claims(), b""),
    "expired": signed(exp=int(time.time()) - 3_600),
    "not valid yet": signed(nbf=int(time.time()) + 3_600),
    "without an end": signed(exp=None),
    "another audience": signed(aud=f"{AUDIENCE}-of-others"),
    "another issuer": signed(iss="https://elsewhere.example"),
    "without a tenant": signed(tenant=None),
    "8 KB of it": "x" * 9_000,
    "dots": "." * 100,
}


@pytest.fixture(scope="module")
def gateway(databases: Databases) -> Iterator[Served]:
    with publishing() as published:
        published.keys = [jwk(RSA, "one")]
        settings = Settings(
            database_url=databases.new("sqlite"),
            jwt_issuer=NAME,
            jwt_audience=(AUDIENCE,),
            jwt_jwks_url=published.url,
        )
        with served(settings, demo=True) as gateway:
            assert graphql(gateway, bearer(signed())).status_code == 200
            yield gateway


@pytest.mark.parametrize("name", ATTACKS)
def test_it_is_refused(gateway: Served, name: str) -> None:
    begun = time.perf_counter()
    answer = graphql(gateway, bearer(ATTACKS[name]))
    took = time.perf_counter() - begun
    # Too many wrong ones from one address are not looked at for a while.
    assert (answer.status_code, refusal(answer)[1]) in [(401, "UNAUTHENTICATED"), (429, "LIMIT_EXCEEDED")]
    print(f"\n{name:28} {answer.status_code} {refusal(answer)[2]:75} {took * 1_000:6.1f} ms", end="")
    assert graphql(gateway, bearer(signed())).status_code == 200
