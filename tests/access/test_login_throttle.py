"""Failed authentications are rate limited, and valid credentials are accepted however often others fail."""

import logging
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.access.login_throttle import BURST, MAX_ENTRIES, SECONDS_PER_FAILURE, LoginThrottle
from gateway.errors import Throttled
from tests.access.clients import VM_RESPONSE, Socket, basic, bearer, create_token, error_of, graphql, identity
from tests.access.conftest import CREDENTIALS_TRUSTED
from tests.serving import Served

TOO_MANY = (429, "LIMIT_EXCEEDED", "Too many failed login attempts. Retry later.")


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def wait(throttle: LoginThrottle, address: str) -> int:
    """The seconds until a failure of this address is not throttled."""
    try:
        throttle.check(address)
    except Throttled as throttled:
        return throttled.retry_after
    return 0


def fail(throttle: LoginThrottle, address: str) -> int:
    """Records a failure. The seconds that it is throttled for; 0 if it was counted."""
    try:
        throttle.record_failure(address)
    except Throttled as throttled:
        return throttled.retry_after
    return 0


def test_failures_of_an_address_drain_over_time() -> None:
    clock = Clock()
    throttle = LoginThrottle(clock)
    for _ in range(BURST):
        assert wait(throttle, "192.0.2.1") == 0
        assert fail(throttle, "192.0.2.1") == 0
    assert wait(throttle, "192.0.2.1") == SECONDS_PER_FAILURE
    assert wait(throttle, "192.0.2.2") == 0
    clock.now += SECONDS_PER_FAILURE
    assert wait(throttle, "192.0.2.1") == 0
    assert fail(throttle, "192.0.2.1") == 0
    # Further failures are not counted, so that a flood of them does not delay the next one.
    assert [fail(throttle, "192.0.2.1") for _ in range(1_000)] == [SECONDS_PER_FAILURE] * 1_000
    assert wait(throttle, "192.0.2.1") == SECONDS_PER_FAILURE
    clock.now += BURST * SECONDS_PER_FAILURE
    assert wait(throttle, "192.0.2.1") == 0


def test_an_ipv6_network_is_one_address() -> None:
    throttle = LoginThrottle(Clock())
    for number in range(BURST):
        assert fail(throttle, f"2001:db8:1:2::{number:x}") == 0
    assert wait(throttle, "2001:db8:1:2:ffff::1") == SECONDS_PER_FAILURE
    assert wait(throttle, "2001:db8:1:3::1") == 0
    for _ in range(BURST):
        assert fail(throttle, "::ffff:192.0.2.1") == 0
    assert wait(throttle, "192.0.2.1") == SECONDS_PER_FAILURE
    assert wait(throttle, "::ffff:192.0.2.2") == 0


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 20)), max_size=200))
def test_failures_never_exceed_burst_and_drain_rate(steps: list[tuple[int, float]]) -> None:
    """In any period, an address fails at most as often as the burst and the length of the period allow."""
    clock = Clock()
    throttle = LoginThrottle(clock)
    accepted: list[float] = []
    for address, later in steps:
        clock.now += later
        free = wait(throttle, f"192.0.2.{address}") == 0
        assert (fail(throttle, f"192.0.2.{address}") == 0) is free
        if free and address == 0:
            accepted.append(clock.now)
    for first, begin in enumerate(accepted):
        for last, end in enumerate(accepted[first:], first):
            assert last - first + 1 <= BURST + (end - begin) / SECONDS_PER_FAILURE + 1e-6


def test_the_number_of_entries_is_limited() -> None:
    throttle = LoginThrottle(Clock())
    for number in range(MAX_ENTRIES + 10):
        throttle.record_failure(str(number))
    assert throttle.stats().size == MAX_ENTRIES


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)  # nothing here depends on the database
def test_too_many_failures_are_answered_with_429(
    gateway: Served, url: str, token: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert graphql(gateway, bearer(token)).json() == VM_RESPONSE
    caplog.set_level(logging.INFO)
    for number in range(BURST):
        assert graphql(gateway, bearer(f"wrong{number}")).status_code == 401
    response = graphql(gateway, bearer("wrong again"))
    assert error_of(response) == TOO_MANY
    assert 1 <= int(response.headers["retry-after"]) <= BURST * SECONDS_PER_FAILURE
    rest = gateway.http.get("/api", headers=basic("ann", "wrong again"))
    assert rest.status_code == 429
    assert rest.json() == {
        "error": {
            "kind": "too_many_requests",
            "message": "Too many failed login attempts. Retry later.",
            "klass": "Api::TooManyRequestsError",
        }
    }
    assert int(rest.headers["retry-after"]) >= 1
    with Socket(gateway, {"authorization": "Bearer wrong again"}) as socket:
        assert socket.await_close()[1] == TOO_MANY[2]
    # At the same address, tokens are still accepted: one that was verified before, and a new one.
    assert identity(gateway, bearer(token))[0] == "ci"
    gateway.clock.advance(CREDENTIALS_TRUSTED)
    assert identity(gateway, bearer(token))[0] == "ci"
    assert identity(gateway, bearer(create_token(url, "late")))[0] == "late"
    # A wrong credential is refused in the same way when it is repeated, without being verified again.
    assert error_of(graphql(gateway, bearer("wrong again"))) == TOO_MANY
    assert graphql(gateway).status_code == 401  # a request without credentials is not a failed attempt
    lines = [record.getMessage() for record in caplog.records if "Authentication failed" in record.getMessage()]
    assert len(lines) == BURST
    assert lines[0].startswith("Authentication failed address=127.0.0.1 token=- request_id=")
    assert lines[0].endswith(" error=The credentials are not valid.")
    assert "wrong" not in caplog.text
    assert token not in caplog.text


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)  # nothing here depends on the database
def test_a_repeated_wrong_credential_is_counted_once(gateway: Served, token: str) -> None:
    """A client that keeps sending an expired token does not lock out others at its address."""
    for _ in range(3 * BURST):
        assert graphql(gateway, bearer("sgw_1_" + "0" * 64)).status_code == 401
    assert graphql(gateway, bearer(token)).json() == VM_RESPONSE


def test_failures_of_others_at_the_address_do_not_lock_out_a_caller(gateway: Served, url: str, token: str) -> None:
    """A colleague behind the same network address, whose credential the gateway has not verified before.

    A session is another kind of token. `test_jwts.py` has the same test with renewed JWTs.
    """
    with ThreadPoolExecutor(8) as attackers:
        numbers = range(20 * BURST)
        wrong = attackers.map(lambda number: graphql(gateway, bearer(f"sgw_1_{number:064x}")).status_code, numbers)
        for number in range(5):
            new = create_token(url, f"new{number}")
            assert identity(gateway, bearer(new))[0] == f"new{number}"
            given = gateway.http.get("/api/auth", headers=basic("", new)).json()
            assert identity(gateway, {"x-auth-token": given["auth_token"]})[0] == f"new{number}"
        statuses = list(wrong)
    assert set(statuses) == {401, 429}
    assert statuses.count(401) >= BURST
    assert identity(gateway, bearer(token))[0] == "ci"
