"""`/readyz` names the jobs that fail or are stuck, and the metrics show them; requests are served all the same."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.app import JobParts, periodic_jobs
from gateway.config import Settings
from gateway.jobs.periodic_job import PeriodicJob, Scope
from gateway.telemetry.exposition import render
from gateway.telemetry.gauges import database_gauges
from tests.databases import SLOW_KINDS, Databases
from tests.jobs.world import PAST, execute
from tests.serving import Served, served
from tests.waiting import until


def with_jobs(*jobs: PeriodicJob) -> Callable[[JobParts], Sequence[PeriodicJob]]:
    """The jobs of a gateway, and these."""
    return lambda parts: [*periodic_jobs(parts), *jobs]


async def fail() -> None:
    raise ValueError("secret detail of the failure")


async def hang() -> None:
    await asyncio.Event().wait()


def job_states(response: httpx2.Response) -> dict[str, str]:
    return {name: state for name, state in response.json().items() if name.startswith("job ")}


def scrape(gateway: Served) -> dict[tuple[str, ...], float]:
    """The values of the metrics of jobs, by name and labels."""
    samples = [*gateway.gateway.metrics.samples(), *gateway.run(database_gauges(gateway.gateway.database))]
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(render(samples).decode())
        for sample in family.samples
        if sample.name.startswith("gateway_job")
    }


@pytest.mark.parametrize("kind", SLOW_KINDS)
def test_a_job_that_fails_is_named(databases: Databases, kind: str) -> None:
    """The reason is in the log alone, because `/readyz` needs no credentials."""
    jobs = with_jobs(
        PeriodicJob("broken here", 0.01, fail, Scope.PROCESS), PeriodicJob("broken", 0.01, fail, Scope.CLUSTER)
    )
    with served(Settings(database_url=databases.new(kind)), jobs=jobs) as gateway:
        response = until(lambda: found if len(job_states(found := gateway.http.get("/readyz"))) == 2 else None)
        assert (response.status_code, response.json()["status"]) == (200, "degraded")
        for name, state in job_states(response).items():
            assert name in {"job broken", "job broken here"}
            assert state.startswith("has failed in its last ")
        assert "secret" not in response.text
        assert gateway.http.get("/healthz").json()["status"] == "ok"
        found = scrape(gateway)
        for name in ("broken", "broken here"):
            assert found["gateway_job_failures", name] >= 1
            assert found["gateway_job_runs_total", name, "failed"] >= 1
            assert found["gateway_job_seconds_count", name] >= 1
            assert found["gateway_job_age_seconds", name] >= 0


@pytest.mark.parametrize("kind", SLOW_KINDS)
def test_a_job_that_is_stuck_is_named_by_every_process(databases: Databases, kind: str) -> None:
    settings = Settings(database_url=databases.new(kind))
    here = PeriodicJob("stuck here", 0.01, hang, Scope.PROCESS, stuck_after=0.0)
    cluster = PeriodicJob("stuck", 0.01, hang, Scope.CLUSTER, stuck_after=0.0)
    with served(settings, jobs=with_jobs(here, cluster)) as gateway:
        response = until(lambda: found if len(job_states(found := gateway.http.get("/readyz"))) == 2 else None)
        assert (response.status_code, response.json()["status"]) == (200, "degraded")
        assert {"job stuck", "job stuck here"} == {*job_states(response)}
        assert all(state.startswith("has been stuck for ") for state in job_states(response).values())
        with served(settings, jobs=with_jobs(cluster)) as other:
            assert {*job_states(other.http.get("/readyz"))} == {"job stuck"}
        found = scrape(gateway)
        assert {("gateway_job_age_seconds", name) for name in ("stuck", "stuck here")} < set(found)


@pytest.mark.parametrize("kind", SLOW_KINDS)
def test_a_cluster_job_that_no_process_runs_is_named(databases: Databases, kind: str) -> None:
    with served(Settings(database_url=databases.new(kind))) as gateway:
        until(lambda: scrape(gateway).get(("gateway_job_runs_total", "sweep", "succeeded")) == 1)
        gateway.run(gateway.gateway.jobs.stop())
        gateway.run(execute(gateway.gateway.database, f"UPDATE job_lease SET next_run_at = '{PAST}'"))
        response = gateway.http.get("/readyz")
        assert (response.status_code, response.json()["status"], response.json()["jobs"]) == (
            503,
            "unavailable",
            "has ended",
        )
        assert {name: state.startswith("is overdue by ") for name, state in job_states(response).items()} == {
            "job quota-deletion": True,
            "job sweep": True,
        }


def test_all_jobs_of_a_gateway_succeed(demo: Served) -> None:
    """Each cluster job runs when the gateway starts with an empty table of leases; none needs attention."""

    def runs() -> dict[str, float]:
        return {key[1]: value for key, value in scrape(demo).items() if key[0] == "gateway_job_runs_total"}

    expected = {"refresh:cloud", "refresh:lab", "sweep", "quota-deletion"}
    until(lambda: expected <= {*runs()})
    assert {name: runs()[name] for name in expected} == dict.fromkeys(expected, 1)
    assert demo.http.get("/readyz").json()["status"] == "ok"
    found = scrape(demo)
    for name in expected:
        assert found["gateway_job_failures", name] == 0
        assert found["gateway_job_age_seconds", name] >= 0
        assert found["gateway_job_runs_total", name, "succeeded"] == 1


def test_quotas_are_exchanged_and_counts_recorded_in_every_process(server: Served) -> None:
    def process_jobs() -> dict[str, Any]:
        return dict(server.gateway.jobs.process_jobs)

    assert {"quota-sync", "refusal-counts"} <= {*process_jobs()}
