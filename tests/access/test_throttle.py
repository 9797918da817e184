"""Failed log-ins are slowed down, and nobody is locked out by what others do."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.access.login_throttle import BURST, EVERY, MOST, LoginThrottle
from gateway.errors import Throttled
from tests.access.asking import SEEN, Socket, basic, bearer, graphql, make_token, refusal, who
from tests.serving import Served

TOO_MANY = (429, "LIMIT_EXCEEDED", "Too many log-ins have failed: ask again later.")


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def wait(throttle: LoginThrottle, address: str, token: str | None = None) -> int:
    """Seconds that this address has to wait."""
    try:
        throttle.check(address, token)
    except Throttled as throttled:
        return throttled.retry_after
    return 0


def test_an_address_has_so_many_failures_and_gets_them_back() -> None:
    clock = Clock()
    throttle = LoginThrottle(clock)
    for _ in range(BURST):
        assert wait(throttle, "192.0.2.1") == 0
        throttle.failed("192.0.2.1", None)
    assert wait(throttle, "192.0.2.1") == EVERY
    assert wait(throttle, "192.0.2.2") == 0
    clock.now += EVERY
    assert wait(throttle, "192.0.2.1") == 0
    throttle.failed("192.0.2.1", None)
    assert wait(throttle, "192.0.2.1") == EVERY
    clock.now += BURST * EVERY
    assert wait(throttle, "192.0.2.1") == 0


def test_a_network_of_ipv6_is_one_address() -> None:
    throttle = LoginThrottle(Clock())
    for number in range(BURST):
        throttle.failed(f"2001:db8:1:2::{number:x}", None)
    assert wait(throttle, "2001:db8:1:2:ffff::1") == EVERY
    assert wait(throttle, "2001:db8:1:3::1") == 0
    for _ in range(BURST):
        throttle.failed("::ffff:192.0.2.1", None)
    assert wait(throttle, "192.0.2.1") == EVERY
    assert wait(throttle, "::ffff:192.0.2.2") == 0


def test_a_token_tried_from_everywhere_is_closed_to_who_has_failed() -> None:
    throttle = LoginThrottle(Clock())
    for number in range(BURST):
        throttle.failed(f"192.0.2.{number}", "sgw_1_…")
    assert wait(throttle, "192.0.2.1", "sgw_1_…") == EVERY
    assert wait(throttle, "192.0.2.1", "sgw_2_…") == 0
    assert wait(throttle, "198.51.100.1", "sgw_1_…") == 0  # whose it is comes in for the first time


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 20)), max_size=200))
def test_never_more_than_the_burst_and_what_came_back(steps: list[tuple[int, float]]) -> None:
    """In any time, an address is heard at most as often as the burst and that time allow."""
    clock = Clock()
    throttle = LoginThrottle(clock)
    heard: list[float] = []
    for address, later in steps:
        clock.now += later
        if wait(throttle, f"192.0.2.{address}") == 0:
            throttle.failed(f"192.0.2.{address}", None)
            if address == 0:
                heard.append(clock.now)
    for first, begin in enumerate(heard):
        for last, end in enumerate(heard[first:], first):
            assert last - first + 1 <= BURST + (end - begin) / EVERY + 1e-6


def test_it_remembers_so_many() -> None:
    throttle = LoginThrottle(Clock())
    for number in range(MOST + 10):
        throttle.failed(str(number), str(number))
    assert len(throttle._addresses._levels) == len(throttle._tokens._levels) == MOST


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)  # nothing here depends on the database
def test_who_fails_too_often_is_told_to_wait(
    gateway: Served, url: str, token: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert graphql(gateway, bearer(token)).json() == SEEN
    caplog.set_level(logging.INFO)
    for number in range(BURST):
        assert graphql(gateway, bearer(f"wrong{number}")).status_code == 401
    response = graphql(gateway, bearer("wrong again"))
    assert refusal(response) == TOO_MANY
    assert 1 <= int(response.headers["retry-after"]) <= BURST * EVERY
    rest = gateway.http.get("/api", headers=basic("ann", "wrong again"))
    assert rest.status_code == 429
    assert rest.json() == {
        "error": {
            "kind": "too_many_requests",
            "message": "Too many log-ins have failed: ask again later.",
            "klass": "Api::TooManyRequestsError",
        }
    }
    assert int(rest.headers["retry-after"]) >= 1
    with Socket(gateway, {"authorization": "Bearer wrong again"}) as socket:
        assert socket.closed()[1] == TOO_MANY[2]
    # Who was in stays in, though at the same address; who was not has to wait.
    assert who(gateway, bearer(token))[0] == "ci"
    gateway.gateway.authenticator._known.update(
        {digest: known._replace(until=0.0) for digest, known in gateway.gateway.authenticator._known.items()}
    )
    assert who(gateway, bearer(token))[0] == "ci"
    assert refusal(graphql(gateway, bearer(make_token(url, "late")))) == TOO_MANY
    assert graphql(gateway).status_code == 401  # without credentials nothing has failed
    lines = [record.getMessage() for record in caplog.records if "log-in" in record.getMessage()]
    assert len(lines) == BURST
    assert lines[0].startswith(
        "a log-in from 127.0.0.1 with credentials failed: The credentials are not valid. Request id "
    )
    assert "wrong" not in caplog.text
    assert token not in caplog.text


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)  # nothing here depends on the database
def test_the_same_wrong_credential_is_not_counted_again_and_again(gateway: Served, token: str) -> None:
    """A client that goes on with what has expired keeps nobody else at its address from coming in."""
    for _ in range(3 * BURST):
        assert graphql(gateway, bearer("sgw_1_" + "0" * 64)).status_code == 401
    assert graphql(gateway, bearer(token)).json() == SEEN
