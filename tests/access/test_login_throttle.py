"""Failed authentications are rate limited, and failures of others do not lock out a caller."""

import logging

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


def wait(throttle: LoginThrottle, address: str, token: str | None = None) -> int:
    """The seconds until a credential from this address is verified again."""
    try:
        throttle.check(address, token)
    except Throttled as throttled:
        return throttled.retry_after
    return 0


def test_failures_of_an_address_drain_over_time() -> None:
    clock = Clock()
    throttle = LoginThrottle(clock)
    for _ in range(BURST):
        assert wait(throttle, "192.0.2.1") == 0
        throttle.record_failure("192.0.2.1", None)
    assert wait(throttle, "192.0.2.1") == SECONDS_PER_FAILURE
    assert wait(throttle, "192.0.2.2") == 0
    clock.now += SECONDS_PER_FAILURE
    assert wait(throttle, "192.0.2.1") == 0
    throttle.record_failure("192.0.2.1", None)
    assert wait(throttle, "192.0.2.1") == SECONDS_PER_FAILURE
    clock.now += BURST * SECONDS_PER_FAILURE
    assert wait(throttle, "192.0.2.1") == 0


def test_an_ipv6_network_is_one_address() -> None:
    throttle = LoginThrottle(Clock())
    for number in range(BURST):
        throttle.record_failure(f"2001:db8:1:2::{number:x}", None)
    assert wait(throttle, "2001:db8:1:2:ffff::1") == SECONDS_PER_FAILURE
    assert wait(throttle, "2001:db8:1:3::1") == 0
    for _ in range(BURST):
        throttle.record_failure("::ffff:192.0.2.1", None)
    assert wait(throttle, "192.0.2.1") == SECONDS_PER_FAILURE
    assert wait(throttle, "::ffff:192.0.2.2") == 0


def test_the_limit_of_a_token_applies_to_addresses_with_failures() -> None:
    throttle = LoginThrottle(Clock())
    for number in range(BURST):
        throttle.record_failure(f"192.0.2.{number}", "sgw_1_…")
    assert wait(throttle, "192.0.2.1", "sgw_1_…") == SECONDS_PER_FAILURE
    assert wait(throttle, "192.0.2.1", "sgw_2_…") == 0
    assert wait(throttle, "198.51.100.1", "sgw_1_…") == 0  # an address without failures, such as the owner's


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 20)), max_size=200))
def test_failures_never_exceed_burst_and_drain_rate(steps: list[tuple[int, float]]) -> None:
    """In any period, an address fails at most as often as the burst and the length of the period allow."""
    clock = Clock()
    throttle = LoginThrottle(clock)
    accepted: list[float] = []
    for address, later in steps:
        clock.now += later
        if wait(throttle, f"192.0.2.{address}") == 0:
            throttle.record_failure(f"192.0.2.{address}", None)
            if address == 0:
                accepted.append(clock.now)
    for first, begin in enumerate(accepted):
        for last, end in enumerate(accepted[first:], first):
            assert last - first + 1 <= BURST + (end - begin) / SECONDS_PER_FAILURE + 1e-6


def test_the_number_of_entries_is_limited() -> None:
    throttle = LoginThrottle(Clock())
    for number in range(MAX_ENTRIES + 10):
        throttle.record_failure(str(number), str(number))
    assert [stats.size for stats in throttle.stats()] == [MAX_ENTRIES, MAX_ENTRIES]


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
    # At the same address, a token that was verified before is still accepted; a new one must wait.
    assert identity(gateway, bearer(token))[0] == "ci"
    gateway.clock.advance(CREDENTIALS_TRUSTED)
    assert identity(gateway, bearer(token))[0] == "ci"
    assert error_of(graphql(gateway, bearer(create_token(url, "late")))) == TOO_MANY
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
