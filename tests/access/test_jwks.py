"""Fetching keys from a JWKS URL: rotation, withdrawal, and responses that are missing, slow, too long or malformed."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from gateway.access import jwks
from gateway.access.issuer import read_jwt_verifier
from gateway.access.jwks import MAX_AGE, MAX_BYTES, MIN_INTERVAL, REFRESH_AFTER
from gateway.access.login_throttle import BURST, SECONDS_PER_FAILURE
from gateway.config import Settings
from tests.access.clients import VM_RESPONSE, bearer, error_of, graphql
from tests.access.issuer import AUDIENCE, EC, ISSUER, OTHER_RSA, RSA, JwksServer, jwk, jwks_server, signed
from tests.databases import Databases
from tests.serving import Served, served
from tests.waiting import until

UNAVAILABLE = (
    503,
    "SERVICE_UNAVAILABLE",
    "The keys that verify tokens cannot be fetched from their issuer. Retry later.",
)


class Clock:
    """The clock of the key source, which tests move forward. Sleeping ends once `open` is set, at the right time."""

    now = 1_000.0

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.sleeping = 0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.sleeping += 1
        await asyncio.to_thread(self.open.wait, 60)
        self.sleeping -= 1
        self.now += seconds


class World:
    """An issuer, a gateway that trusts it, and the clock of its key source."""

    def __init__(self, published: JwksServer, gateway: Served, clock: Clock) -> None:
        self.published = published
        self.gateway = gateway
        self.clock = clock

    def status(self, **signing: Any) -> int:
        """The status of a response to a new token, without caches and throttle."""
        self.gateway.clock.advance(BURST * SECONDS_PER_FAILURE)
        response = graphql(self.gateway, bearer(signed(**signing)))
        assert response.status_code != 200 or response.json() == VM_RESPONSE
        status: int = response.status_code
        return status

    def assert_fetches(self, times: int) -> None:
        """Waits for the running fetch and asserts the number of fetches so far."""

        async def wait() -> None:
            await asyncio.gather(*(task for task in asyncio.all_tasks() if task.get_name() == "jwks"))

        self.gateway.run(wait())
        assert self.published.request_count == times


@pytest.fixture
def world(databases: Databases, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    clock = Clock()
    monkeypatch.setattr("gateway.app.read_jwt_verifier", partial(read_jwt_verifier, clock=clock, sleep=clock.sleep))
    with jwks_server() as published:
        settings = Settings(
            database_url=databases.new("sqlite", demo=True),
            jwt_issuer=ISSUER,
            jwt_audience=(AUDIENCE,),
            jwt_jwks_url=published.url,
        )
        with served(settings) as gateway:
            yield World(published, gateway, clock)


def test_a_new_key_is_fetched_when_it_is_first_used(world: World) -> None:
    assert world.published.request_count == 0
    assert world.status() == 200
    assert world.status(sub="bob") == 200
    world.assert_fetches(1)
    world.published.keys = [jwk(RSA, "one"), jwk(EC, "two")]
    began = world.clock.now
    assert world.status(key=EC, algorithm="ES256", kid="two") == 200
    assert world.clock.now == began + MIN_INTERVAL  # the keys were fetched just before
    world.assert_fetches(2)
    assert world.status(key=EC, algorithm="ES256", kid="two", sub="bob") == 200
    world.assert_fetches(2)


def test_made_up_keys_do_not_keep_a_new_one_from_working(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """All tokens with unknown keys that arrive within MIN_INTERVAL wait for one fetch, which begins at its end."""
    assert world.status() == 200
    world.published.keys = [jwk(RSA, "one"), jwk(EC, "two")]
    began = world.clock.now
    world.clock.open.clear()
    find, asked = jwks.JwksKeySource.find, list[str | None]()

    async def recorded_find(source: jwks.JwksKeySource, id: str | None, algorithm: str) -> Any:
        asked.append(id)
        return await find(source, id, algorithm)

    monkeypatch.setattr(jwks.JwksKeySource, "find", recorded_find)
    with ThreadPoolExecutor(21) as threads:
        made_up = [threads.submit(world.status, key=OTHER_RSA, kid=f"made up {number}") for number in range(20)]
        new = threads.submit(world.status, key=EC, algorithm="ES256", kid="two")
        until(lambda: len(asked) == 21)
        assert (world.clock.sleeping, world.published.request_count) == (1, 1)
        world.clock.open.set()
        assert new.result(60) == 200
        assert {refused.result(60) for refused in made_up} == {401}
    assert world.clock.now == began + MIN_INTERVAL
    world.assert_fetches(2)
    for number in range(20):  # what was not found is not fetched again
        assert world.status(key=OTHER_RSA, kid=f"made up {number}", sub="bob") == 401
    assert world.clock.now == began + MIN_INTERVAL
    world.assert_fetches(2)
    world.clock.now += MIN_INTERVAL
    for number in range(20):
        assert world.status(key=OTHER_RSA, kid=f"made up {number}", sub="carl") == 401
        world.assert_fetches(3 + number)
    assert world.clock.now == began + 21 * MIN_INTERVAL


def test_a_withdrawn_key_is_rejected_after_the_refresh(world: World) -> None:
    assert world.status() == 200
    world.published.keys = [jwk(EC, "two")]
    world.clock.now += REFRESH_AFTER + 1
    assert world.status(sub="bob") == 200  # the keys are fetched in the background
    world.assert_fetches(2)
    assert world.status(sub="carl") == 401  # after another fetch, in which the key might have been published again
    assert world.status(key=EC, algorithm="ES256", kid="two") == 200
    world.assert_fetches(3)


@pytest.mark.parametrize(
    "failure",
    [
        {"status": 500},
        {"body": b'{"keys": [{"kty": "RSA", "key_ops": 7, "kid": []}, {"kty": [], "use": {}}]}'},
        {"body": b'{"keys": [' + b" " * MAX_BYTES + b"]}"},
        pytest.param({"status": 404}, marks=pytest.mark.thorough),
        pytest.param({"status": 302, "headers": {"location": "/keys"}}, marks=pytest.mark.thorough),
        pytest.param({"body": b"<html>"}, marks=pytest.mark.thorough),
        pytest.param({"body": b"[]"}, marks=pytest.mark.thorough),
        pytest.param({"body": b"{}"}, marks=pytest.mark.thorough),
        pytest.param({"body": b'{"keys": {}}'}, marks=pytest.mark.thorough),
        pytest.param({"body": b'{"keys": []}'}, marks=pytest.mark.thorough),
        pytest.param(
            {"body": b'{"keys": [7, null, {"kty": "RSA"}, {"kty": "EC", "crv": "P-256", "x": 1, "y": 2}]}'},
            marks=pytest.mark.thorough,
        ),
        pytest.param({"body": b"\xff\xfe"}, marks=pytest.mark.thorough),
        pytest.param({"body": b"[" * 100_000}, marks=pytest.mark.thorough),
    ],
    ids=lambda failure: str(failure)[:40],
)
def test_a_failing_server(world: World, failure: dict[str, Any]) -> None:
    """Fetched keys are used for one hour. After that, and before the first fetch, tokens cannot be verified."""
    normal = vars(world.published).copy()
    vars(world.published).update(failure)
    assert error_of(graphql(world.gateway, bearer(signed()))) == UNAVAILABLE
    world.assert_fetches(1)
    assert error_of(graphql(world.gateway, bearer(signed()))) == UNAVAILABLE  # immediately, without another fetch
    world.assert_fetches(1)
    vars(world.published).update({name: normal[name] for name in failure})
    world.clock.now += MIN_INTERVAL
    assert world.status() == 200
    world.assert_fetches(2)
    vars(world.published).update(failure)
    world.clock.now += MAX_AGE
    assert world.status(sub="bob") == 200
    world.assert_fetches(3)
    world.clock.now += MIN_INTERVAL
    assert error_of(graphql(world.gateway, bearer(signed(sub="carl")))) == UNAVAILABLE
    world.assert_fetches(4)
    vars(world.published).update({name: normal[name] for name in failure})
    world.clock.now += MIN_INTERVAL
    assert world.status(sub="carl") == 200


def test_only_a_token_with_an_unknown_key_waits_for_a_slow_server(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert world.status() == 200
    world.published.responding.clear()
    world.clock.now += REFRESH_AFTER + 1
    assert world.status(sub="bob") == 200
    monkeypatch.setattr(jwks, "FETCH_TIMEOUT", 0.05)
    world.published.responding.set()
    world.assert_fetches(2)
    world.published.responding.clear()
    world.clock.now += MIN_INTERVAL
    assert world.status(key=EC, algorithm="ES256", kid="two") == 401  # after FETCH_TIMEOUT
    assert world.status(sub="carl") == 200
    world.assert_fetches(3)


def test_the_gateway_stops_during_a_fetch(world: World) -> None:
    assert world.status() == 200
    world.published.responding.clear()
    world.clock.now += REFRESH_AFTER + 1
    assert world.status(sub="bob") == 200


def test_a_remote_jwks_url_requires_https() -> None:
    for url in (
        "http://issuer.example/keys",
        "ftp://127.0.0.1/keys",
        "/keys",
        "file:///etc/passwd",
        "https://",
        "http://127.0.0.1.example/",
    ):
        with pytest.raises(Exception, match="must be an https:// URL"):
            jwks.JwksKeySource(url)
