"""Keys that are published: rotated, withdrawn, and on a host that is away, slow, huge or talks nonsense."""

from collections.abc import Iterator
from typing import Any

import pytest

from gateway.access import jwks
from gateway.access.jwks import BETWEEN, FRESH, LONGEST, STALE
from gateway.config import Settings
from tests.access.asking import SEEN, bearer, graphql, refusal
from tests.access.issuer import AUDIENCE, EC, NAME, OTHER_RSA, RSA, Published, jwk, publishing, signed
from tests.databases import Databases
from tests.serving import Served, served

AWAY = (503, "PROVIDER_UNAVAILABLE", "The keys that verify tokens cannot be fetched from their issuer now.")


class Clock:
    """The time, as keys age by it."""

    now = 1_000.0

    def __call__(self) -> float:
        return self.now


class World:
    """An issuer, a gateway that trusts it, and the time."""

    def __init__(self, published: Published, gateway: Served, clock: Clock) -> None:
        self.published = published
        self.gateway = gateway
        self.clock = clock

    def status(self, **signing: Any) -> int:
        """What a token that nobody has seen yet is answered."""
        self.gateway.gateway.authenticator._refused.clear()
        self.gateway.gateway.authenticator._throttle._addresses._levels.clear()
        response = graphql(self.gateway, bearer(signed(**signing)))
        assert response.status_code != 200 or response.json() == SEEN
        status: int = response.status_code
        return status

    def fetched(self, times: int) -> None:
        """How often the keys were fetched, when what goes on beside the requests is done."""

        async def wait() -> None:
            fetching = self.gateway.gateway.authenticator._jwts._keys._fetching  # type: ignore[union-attr]
            if fetching is not None:
                await fetching

        self.gateway.run(wait())
        assert self.published.asked == times


@pytest.fixture
def world(databases: Databases, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    clock = Clock()
    monkeypatch.setattr(jwks.JwksKeys.__init__, "__defaults__", (clock,))
    with publishing() as published:
        settings = Settings(
            database_url=databases.new("sqlite"), jwt_issuer=NAME, jwt_audience=(AUDIENCE,), jwt_jwks_url=published.url
        )
        with served(settings, demo=True) as gateway:
            yield World(published, gateway, clock)


def test_a_new_key_is_fetched_when_it_is_first_used(world: World) -> None:
    assert world.published.asked == 0
    assert world.status() == 200
    assert world.status(sub="bob") == 200
    world.fetched(1)
    world.published.keys = [jwk(RSA, "one"), jwk(EC, "two")]
    assert world.status(key=EC, algorithm="ES256", kid="two") == 401  # just fetched: not again so soon
    world.fetched(1)
    world.clock.now += BETWEEN
    assert world.status(key=EC, algorithm="ES256", kid="two") == 200
    world.fetched(2)
    for number in range(20):
        assert world.status(key=OTHER_RSA, kid=f"made up {number}") == 401
    world.fetched(2)
    world.clock.now += BETWEEN
    for number in range(20):
        assert world.status(key=OTHER_RSA, kid=f"made up {number}") == 401
    world.fetched(3)


def test_a_withdrawn_key_is_forgotten(world: World) -> None:
    assert world.status() == 200
    world.published.keys = [jwk(EC, "two")]
    world.clock.now += FRESH + 1
    assert world.status(sub="bob") == 200  # nobody waits: they are fetched beside this
    world.fetched(2)
    assert world.status(sub="carl") == 401
    assert world.status(key=EC, algorithm="ES256", kid="two") == 200
    world.fetched(2)


@pytest.mark.parametrize(
    "trouble",
    [
        {"status": 500},
        {"status": 404},
        {"status": 302, "headers": {"location": "/keys"}},
        {"body": b"<html>"},
        {"body": b"[]"},
        {"body": b"{}"},
        {"body": b'{"keys": {}}'},
        {"body": b'{"keys": []}'},
        {"body": b'{"keys": [7, null, {"kty": "RSA"}, {"kty": "EC", "crv": "P-256", "x": 1, "y": 2}]}'},
        {"body": b"\xff\xfe"},
        {"body": b'{"keys": [' + b" " * LONGEST + b"]}"},
        {"body": b"[" * 100_000},
    ],
    ids=lambda trouble: str(trouble)[:40],
)
def test_a_host_in_trouble(world: World, trouble: dict[str, Any]) -> None:
    """Known keys go on for an hour; then, and before there are any, nothing can be told."""
    well = vars(world.published).copy()
    vars(world.published).update(trouble)
    assert refusal(graphql(world.gateway, bearer(signed()))) == AWAY
    world.fetched(1)
    assert refusal(graphql(world.gateway, bearer(signed()))) == AWAY  # at once, without another fetch
    world.fetched(1)
    vars(world.published).update({name: well[name] for name in trouble})
    world.clock.now += BETWEEN
    assert world.status() == 200
    world.fetched(2)
    vars(world.published).update(trouble)
    world.clock.now += STALE
    assert world.status(sub="bob") == 200
    world.fetched(3)
    world.clock.now += BETWEEN
    assert refusal(graphql(world.gateway, bearer(signed(sub="carl")))) == AWAY
    world.fetched(4)
    vars(world.published).update({name: well[name] for name in trouble})
    world.clock.now += BETWEEN
    assert world.status(sub="carl") == 200


def test_nobody_waits_for_a_host_that_hangs_but_who_needs_a_new_key(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert world.status() == 200
    world.published.go_on.clear()
    world.clock.now += FRESH + 1
    assert world.status(sub="bob") == 200
    monkeypatch.setattr(jwks, "TIMEOUT", 0.05)
    world.published.go_on.set()
    world.fetched(2)
    world.published.go_on.clear()
    world.clock.now += BETWEEN
    assert world.status(key=EC, algorithm="ES256", kid="two") == 401  # after the time that a fetch may take
    assert world.status(sub="carl") == 200
    world.fetched(3)


def test_a_gateway_stops_in_the_middle_of_a_fetch(world: World) -> None:
    assert world.status() == 200
    world.published.go_on.clear()
    world.clock.now += FRESH + 1
    assert world.status(sub="bob") == 200


def test_keys_off_this_machine_come_by_tls_alone() -> None:
    for url in ("http://issuer.example/keys", "ftp://127.0.0.1/keys", "/keys", "file:///etc/passwd", "https://"):
        with pytest.raises(Exception, match="must be an https:// URL"):
            jwks.JwksKeys(url)
