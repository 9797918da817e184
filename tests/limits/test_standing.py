"""The law of the quota, and that the memory of callers is bounded."""

from math import isclose
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.access.quotas import MOST_KNOWN, CallerQuota, Quotas
from gateway.config import Settings
from gateway.errors import Throttled


class Clock:
    """Stands still unless it is told."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def callers(clock: Clock, **settings: Any) -> Quotas:
    return Quotas(Settings(**settings), clock)


@given(
    quota=st.integers(1, 20),
    window=st.floats(0.5, 100),
    steps=st.lists(st.floats(0, 30), min_size=1, max_size=200),
)
def test_no_time_has_more_than_its_quota(quota: int, window: float, steps: list[float]) -> None:
    """Whatever the time between requests: any stretch has at most what is full and what fills in it, and no less."""
    clock = Clock()
    gate = callers(clock, caller_quota=quota, caller_window=window)
    standing, rate = gate.find("a"), quota / window
    served: list[float] = []
    for step in steps:
        clock.now += step
        try:
            with gate.request(standing):
                served.append(clock.now)
        except Throttled as refused:
            assert standing.left < 1
            clock.now += refused.retry_after
            with gate.request(standing):  # what it was told is true
                served.append(clock.now)
    for first, begun in enumerate(served):
        for last in range(first, len(served)):
            allowed = quota + (served[last] - begun) * rate
            assert last - first + 1 <= allowed or isclose(last - first + 1, allowed, rel_tol=1e-6)


def test_requests_at_once() -> None:
    gate = callers(Clock(), caller_requests=2)
    one, other = gate.find("one"), gate.find("other")
    with gate.request(one), gate.request(one):
        with pytest.raises(Throttled, match="2 requests under way"):
            gate.begin(one)
        with gate.request(other):
            pass
    with gate.request(one), gate.request(one):
        pass
    assert not one.busy


def test_streams_and_subscriptions() -> None:
    gate = callers(Clock(), caller_streams=1, caller_subscriptions=2, max_subscriptions=3)
    one, other = gate.find("one"), gate.find("other")
    with gate.streaming(one):
        with pytest.raises(Throttled, match="1 streams open"), gate.streaming(one):
            pass
        with gate.streaming(other):
            pass
    with gate.subscribed(one), gate.subscribed(one), gate.subscribed(other):
        with pytest.raises(Throttled, match="You have 2 subscriptions"), gate.subscribed(one):
            pass
        with pytest.raises(Throttled, match="as many subscriptions as it serves"), gate.subscribed(other):
            pass
    with gate.subscribed(one), gate.subscribed(one), gate.streaming(one):
        pass
    assert not one.busy
    assert not other.busy


def test_heavy_use_is_told_of() -> None:
    gate = callers(Clock(), caller_quota=40)
    told: list[CallerQuota] = []
    gate.heavy = told.append
    standing = gate.find("a")
    with gate.request(standing):
        assert told == []
    with gate.request(standing):
        assert told == [standing]


def test_callers_are_forgotten_but_not_what_they_have_under_way() -> None:
    gate = callers(Clock(), caller_quota=2)
    busy, idle = gate.find("busy"), gate.find("idle")
    with gate.request(busy), gate.request(idle):
        pass
    with gate.request(busy):
        for number in range(MOST_KNOWN + 10):
            gate.find(f"stranger {number}")
        assert gate.find("busy") is busy
        assert gate.find("idle") is not idle
        assert len(gate._known) == MOST_KNOWN
