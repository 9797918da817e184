"""Two gateways on one database do the periodic work once, not twice."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from gateway.config import Settings
from tests.databases import SLOW_KINDS, Databases
from tests.jobs.world import PAST, execute
from tests.serving import Served, served
from tests.waiting import until

PROVIDERS = ("lab", "cloud")


@pytest.fixture(params=SLOW_KINDS)
def pair(request: pytest.FixtureRequest, databases: Databases) -> Iterator[list[Served]]:
    """Two gateways on one database with the demo world."""
    url = databases.new(request.param, demo=True)
    settings = Settings(database_url=url, refresh_interval=86_400.0, drain_timeout=0.1)
    with ExitStack() as stack:
        yield [stack.enter_context(served(settings)) for _ in range(2)]


def lists(gateways: list[Served]) -> dict[str, int]:
    """How often the gateways together have listed the machines of each provider, as each refresh does."""
    found = dict.fromkeys(PROVIDERS, 0)
    for gateway in gateways:
        for name in PROVIDERS:
            found[name] += int(sum(gateway.gateway.metrics.driver_seconds.get((name, "machines"), [0])[:-1]))
    return found


def await_refreshes(gateways: list[Served], number: int) -> None:
    """Waits until the gateways together have refreshed each provider that many times."""

    def ended() -> int:
        runs = [gateway.gateway.metrics.job_runs for gateway in gateways]
        return min(sum(counter.get((f"refresh:{name}", "succeeded"), 0) for counter in runs) for name in PROVIDERS)

    until(lambda: ended() >= number)


def look(gateways: list[Served]) -> None:
    """All gateways look for jobs that are due, at the same time."""
    for looking in [gateway.submit(gateway.gateway.jobs.look()) for gateway in gateways]:
        looking.result(60)


def let_an_interval_pass(gateway: Served) -> None:
    gateway.run(execute(gateway.gateway.database, f"UPDATE job_lease SET next_run_at = '{PAST}'"))


def test_each_provider_is_refreshed_once_per_interval(pair: list[Served]) -> None:
    """At the start, where only one of the gateways may use the provider, and then whenever the interval has passed."""
    for interval in range(1, 5):
        await_refreshes(pair, interval)
        look(pair)
        look(pair)
        assert lists(pair) == dict.fromkeys(PROVIDERS, interval)
        let_an_interval_pass(pair[0])
        look(pair)


def test_a_gateway_that_stops_leaves_its_jobs_to_the_other(pair: list[Served]) -> None:
    await_refreshes(pair, 1)
    one, other = pair
    one.run(one.gateway.jobs.stop())
    before = lists([one])
    let_an_interval_pass(other)
    look([other])
    await_refreshes(pair, 2)
    assert lists([one]) == before
    assert lists(pair) == dict.fromkeys(PROVIDERS, 2)
