"""Metrics of requests, operations and providers, their limits, and their aggregation over processes."""

import re
import socket
from contextlib import ExitStack
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from gateway.telemetry.exposition import render
from gateway.telemetry.gauges import database_gauges
from gateway.telemetry.metrics import BUCKET_BOUNDS, FAMILIES, AggregatedMetrics, Metrics, Sample
from tests.cli.programs import Program, refusal, serving
from tests.databases import Databases
from tests.graphql.client import CREATE
from tests.rules.markdown import ROOT, table
from tests.rules.tables import metrics_table
from tests.serving import Served, http_client
from tests.waiting import until

pytestmark = pytest.mark.thorough

NAME = 'query %s { vm(id: "vm-11") { name } }'


def values_of(samples: list[Sample]) -> dict[str, float]:
    """The values by name and labels, as Prometheus parses them."""
    found = {}
    for family in text_string_to_metric_families(render(samples).decode()):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def scrape(gateway: Served) -> dict[str, float]:
    """The current values of all metrics of a gateway."""
    return values_of([*gateway.gateway.metrics.samples(), *gateway.run(database_gauges(gateway.gateway.database))])


def test_requests_and_their_outcomes(server: Served) -> None:
    for _ in range(3):
        server.ask(NAME % "Known")
    server.post('{ vm(id: "vm-11") { nothing } }')
    server.post("{ nodes(ids: []) { id } vms(first: 2000) { totalCount } }")
    server.http.post("/graphql", content=b"[", headers={"content-type": "application/json"})
    assert server.http.get("/api/vms").status_code == 200
    assert server.http.get("/api/nothing").status_code == 400
    found = scrape(server)
    graphql = "gateway_requests_total{kind=%s,outcome=%s,transport=http}"
    assert found[graphql % ("query", "ok")] == 3
    assert found[graphql % ("unknown", "refused")] == 1
    assert found[graphql % ("query", "error")] == 1
    assert found["gateway_http_refused_total{status=400}"] == 1
    assert found["gateway_requests_total{kind=query,outcome=ok,transport=rest}"] == 1
    assert found["gateway_requests_total{kind=query,outcome=refused,transport=rest}"] == 1
    assert found["gateway_request_seconds_count{operation=Known}"] == 2  # from its second use on
    assert found["gateway_request_seconds_count{operation=REST}"] == 2
    assert found["gateway_documents_total{result=kept}"] == 2
    assert found["gateway_database_up"] == 1


def test_the_number_of_operation_names_is_limited(server: Served) -> None:
    for number in range(250):
        for _ in range(2):
            server.ask(NAME % f"Invented{number}")
    names = [name for name in scrape(server) if name.startswith("gateway_request_seconds_count")]
    assert len(names) == 200
    assert "gateway_request_seconds_count{operation=other}" in names


def test_operations_and_providers(demo: Served) -> None:
    operation = demo.ask(CREATE, input={"machineId": "vm-11", "name": "n"})["createSnapshot"]["operation"]["id"]
    assert demo.await_operation(operation)["state"] == "SUCCEEDED"
    ended = "gateway_operations_finished_total{kind=CREATE_SNAPSHOT,state=SUCCEEDED}"
    until(lambda: scrape(demo).get(ended) == 1)
    found = scrape(demo)
    assert found["gateway_driver_seconds_count{call=create,provider=lab}"] == 1
    assert found["gateway_operations{state=RUNNING}"] == 0
    assert {"gateway_provider_problem{provider=lab}", "gateway_provider_problem{provider=cloud}"} <= set(found)


def test_open_streams(server: Served) -> None:
    body = {"query": "subscription { snapshotChanged { kind } }"}
    with server.http.stream("POST", "/graphql", json=body, headers={"accept": "text/event-stream"}) as response:
        lines = response.iter_lines()  # held, because the stream is closed when it is deleted
        assert next(lines) == ":"
        until(lambda: scrape(server)["gateway_subscriptions"] == 1)
        found = scrape(server)
        assert found["gateway_streams"] == 1
    assert found["gateway_requests_total{kind=subscription,outcome=ok,transport=http}"] == 1


def test_all_metrics_are_documented_and_exist(demo: Served) -> None:
    assert table(ROOT / "docs/operating.md", "Metric") == metrics_table()
    rare = {"gateway_driver_errors_total", "gateway_http_refused_total", "gateway_process_ends_total"}
    rare |= {"gateway_operations_finished_total", "gateway_requests_total", "gateway_request_seconds"}

    def found() -> set[str]:
        samples = [*demo.gateway.metrics.samples(), *demo.run(database_gauges(demo.gateway.database))]
        return {name for name, _, _ in samples}

    until(lambda: found() | rare >= set(FAMILIES))


def test_metrics_are_served_on_their_own_listener(databases: Databases) -> None:
    url = databases.new("sqlite")
    with serving("--database-url", url, metrics_address="127.0.0.1:0") as program:
        found = re.search(r"(http://\S+)/metrics", program.greeting)
        assert found is not None
        response = httpx2.get(f"{found[1]}/metrics", timeout=30, trust_env=False)
        assert "gateway_processes 1.0\n" in response.text
        assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        # DNS rebinding: the page of another host name reaches this address.
        other = {"host": "evil.example"}
        assert httpx2.get(f"{found[1]}/metrics", headers=other, timeout=30, trust_env=False).status_code == 421
        assert program.http.get("/metrics").status_code == 404


def test_the_listener_of_the_metrics_has_limits(databases: Databases) -> None:
    """Its connections share the open files and the event loop of the process."""
    settings: dict[str, Any] = {"metrics_address": "127.0.0.1:0", "head_timeout": 60.0}
    with serving(database_url=databases.new("sqlite"), **settings) as program, ExitStack() as opened:
        address = metrics_of(program)
        idle = [opened.enter_context(socket.create_connection(address, 30)) for _ in range(16)]
        with http_client(f"http://127.0.0.1:{address[1]}") as http:
            refused = http.get("/metrics")
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
            idle[0].close()
            until(lambda: http.get("/metrics").status_code == 200)


def test_the_listener_of_the_metrics_closes_idle_connections(databases: Databases) -> None:
    settings: dict[str, Any] = {"metrics_address": "127.0.0.1:0", "head_timeout": 0.1}
    with (
        serving(database_url=databases.new("sqlite"), **settings) as program,
        socket.create_connection(metrics_of(program), 30) as idle,
    ):
        assert idle.recv(1) == b""


def metrics_of(program: Program) -> tuple[str, int]:
    """The address of the listener of the metrics."""
    found = re.search(r":(\d+)/metrics", program.greeting)
    assert found is not None
    return "127.0.0.1", int(found[1])


@pytest.mark.parametrize("address", ["9464", "localhost:9464", "127.0.0.1:", "127.0.0.1:99999"])
def test_an_invalid_metrics_address(databases: Databases, address: str) -> None:
    message = refusal("serve", "--port", "0", "--database-url", databases.new("sqlite"), metrics_address=address)
    assert message == f"GATEWAY_METRICS_ADDRESS must be ADDRESS:PORT, such as 127.0.0.1:9464, not {address!r}."


# ---- laws


def _samples() -> st.SearchStrategy[list[Sample]]:
    def of(observations: list[tuple[str, float]]) -> list[Sample]:
        metrics = Metrics()
        for name, seconds in observations:
            metrics.requests.add(("http", "query", name))
            metrics.duration.observe((name,), seconds)
        return metrics.samples()

    return st.lists(st.tuples(st.sampled_from(["ok", "error"]), st.floats(0, 1_000))).map(of)


@given(st.lists(_samples(), max_size=4), st.data())
def test_aggregated_counters_never_decrease(processes: list[list[Sample]], data: st.DataObject) -> None:
    """When processes end. Prometheus interprets a counter that decreases as a restart."""
    aggregated = AggregatedMetrics()
    for number, samples in enumerate(processes):
        aggregated.replace(number, samples)
    before = values_of(aggregated.samples())
    for number in range(len(processes)):
        if data.draw(st.booleans()):
            aggregated.end(number)
    assert values_of(aggregated.samples()) == pytest.approx(before)
    counted = [value for name, value in before.items() if name.startswith("gateway_requests_total")]
    assert sum(counted) == sum(sum(s[2] for s in samples if s[0] == "gateway_requests_total") for samples in processes)  # type: ignore[misc]


@given(st.lists(st.floats(0, 2_000)))
def test_histogram_buckets_are_cumulative(seconds: list[float]) -> None:
    metrics = Metrics()
    for one in seconds:
        metrics.duration.observe(("a",), one)
    found = values_of(metrics.samples())
    for bound in BUCKET_BOUNDS if seconds else ():
        assert found[f"gateway_request_seconds_bucket{{le={bound},operation=a}}"] == sum(s <= bound for s in seconds)
