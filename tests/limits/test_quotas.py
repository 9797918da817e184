"""Quotas: the rate limit as a property test, the other limits, and the bound on remembered callers."""

from math import isclose
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.access.quotas import MAX_CALLERS, CallerQuota, Quotas
from gateway.config import Settings
from gateway.errors import Throttled


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def make_quotas(clock: Clock, **settings: Any) -> Quotas:
    return Quotas(Settings(**settings), clock)


@given(
    quota=st.integers(1, 20),
    window=st.floats(0.5, 100),
    steps=st.lists(st.floats(0, 30), min_size=1, max_size=200),
)
def test_no_interval_exceeds_the_quota(quota: int, window: float, steps: list[float]) -> None:
    """Any interval has at most a full bucket and its refill. Requests are only rejected when the bucket is empty."""
    clock = Clock()
    quotas = make_quotas(clock, caller_quota=quota, caller_window=window)
    caller, rate = quotas.find("a"), quota / window
    served: list[float] = []
    for step in steps:
        clock.now += step
        try:
            with quotas.request(caller):
                served.append(clock.now)
        except Throttled as error:
            assert caller.bucket.tokens < 1
            clock.now += error.retry_after
            with quotas.request(caller):  # `retry_after` is exact
                served.append(clock.now)
    for first, started in enumerate(served):
        for last in range(first, len(served)):
            allowed = quota + (served[last] - started) * rate
            assert last - first + 1 <= allowed or isclose(last - first + 1, allowed, rel_tol=1e-6)


def test_concurrent_requests() -> None:
    quotas = make_quotas(Clock(), caller_requests=2)
    one, other = quotas.find("one"), quotas.find("other")
    with quotas.request(one), quotas.request(one):
        with pytest.raises(Throttled, match="2 running requests"):
            quotas.begin_request(one)
        with quotas.request(other):
            pass
    with quotas.request(one), quotas.request(one):
        pass
    assert not one.busy


def test_streams_and_subscriptions() -> None:
    quotas = make_quotas(Clock(), caller_streams=1, caller_subscriptions=2, max_subscriptions=3)
    one, other = quotas.find("one"), quotas.find("other")
    with quotas.open_stream(one):
        with pytest.raises(Throttled, match="1 open streams"), quotas.open_stream(one):
            pass
        with quotas.open_stream(other):
            pass
    with quotas.open_subscription(one), quotas.open_subscription(one), quotas.open_subscription(other):
        with pytest.raises(Throttled, match="You have 2 subscriptions"), quotas.open_subscription(one):
            pass
        with pytest.raises(Throttled, match="maximum number of subscriptions"), quotas.open_subscription(other):
            pass
    with quotas.open_subscription(one), quotas.open_subscription(one), quotas.open_stream(one):
        pass
    assert not one.busy
    assert not other.busy


def test_heavy_use_is_synchronized() -> None:
    quotas = make_quotas(Clock(), caller_quota=40)
    due: list[CallerQuota] = []
    quotas.on_sync_due = due.append
    caller = quotas.find("a")
    with quotas.request(caller):
        assert due == []
    with quotas.request(caller):
        assert due == [caller]


def test_idle_callers_are_evicted_and_busy_callers_are_not() -> None:
    quotas = make_quotas(Clock(), caller_quota=2)
    busy, idle = quotas.find("busy"), quotas.find("idle")
    with quotas.request(busy), quotas.request(idle):
        pass
    with quotas.request(busy):
        for number in range(MAX_CALLERS + 10):
            quotas.find(f"caller {number}")
        assert quotas.find("busy") is busy
        assert quotas.find("idle") is not idle
        assert quotas.stats().size == MAX_CALLERS
