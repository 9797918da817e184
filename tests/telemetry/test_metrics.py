"""Metrics: what is asked is counted, what clients invent is not told apart, and several processes are one."""

import re

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from gateway.telemetry.exposition import render
from gateway.telemetry.gauges import stored
from gateway.telemetry.metrics import BOUNDS, FAMILIES, Measures, Sample, Sum
from tests.cli.programs import refusal, serving
from tests.databases import Databases
from tests.graphql.asking import CREATE
from tests.rules.markdown import ROOT, table
from tests.rules.tables import metrics_table
from tests.serving import Served

pytestmark = pytest.mark.thorough

NAME = 'query %s { vm(id: "vm-11") { name } }'


def numbers(samples: list[Sample]) -> dict[str, float]:
    """As Prometheus would understand them: by name and labels."""
    found = {}
    for family in text_string_to_metric_families(render(samples).decode()):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def measured(gateway: Served) -> dict[str, float]:
    return numbers([*gateway.gateway.measures.samples(), *gateway.run(stored(gateway.gateway.database))])


def test_requests_and_their_outcomes(server: Served) -> None:
    for _ in range(3):
        server.ask(NAME % "Known")
    server.post('{ vm(id: "vm-11") { nothing } }')
    server.post("{ nodes(ids: []) { id } vms(first: 2000) { totalCount } }")
    server.http.post("/graphql", content=b"[", headers={"content-type": "application/json"})
    assert server.http.get("/api/vms").status_code == 200
    assert server.http.get("/api/nothing").status_code == 400
    found = measured(server)
    graphql = "gateway_requests_total{kind=%s,outcome=%s,transport=http}"
    assert found[graphql % ("query", "ok")] == 3
    assert found[graphql % ("unknown", "refused")] == 1
    assert found[graphql % ("query", "error")] == 1
    assert found["gateway_http_refused_total{status=400}"] == 1
    assert found["gateway_requests_total{kind=query,outcome=ok,transport=rest}"] == 1
    assert found["gateway_requests_total{kind=query,outcome=refused,transport=rest}"] == 1
    assert found["gateway_request_seconds_count{operation=Known}"] == 2  # since it came again
    assert found["gateway_request_seconds_count{operation=REST}"] == 2
    assert found["gateway_documents_total{result=kept}"] == 2
    assert found["gateway_database_up"] == 1


def test_names_that_clients_invent_are_not_told_apart_for_ever(server: Served) -> None:
    for number in range(250):
        for _ in range(2):
            server.ask(NAME % f"Invented{number}")
    names = [name for name in measured(server) if name.startswith("gateway_request_seconds_count")]
    assert len(names) == 200
    assert "gateway_request_seconds_count{operation=other}" in names


def test_operations_and_providers(demo: Served) -> None:
    operation = demo.ask(CREATE, input={"machineId": "vm-11", "name": "n"})["createSnapshot"]["operation"]["id"]
    assert demo.await_operation(operation)["state"] == "SUCCEEDED"
    ended = "gateway_operations_finished_total{kind=CREATE_SNAPSHOT,state=SUCCEEDED}"
    while (found := measured(demo)).get(ended) != 1:
        pass
    assert found["gateway_driver_seconds_count{call=create,provider=lab}"] == 1
    assert found["gateway_operations{state=RUNNING}"] == 0
    assert {"gateway_provider_problem{provider=lab}", "gateway_provider_problem{provider=cloud}"} <= set(found)


def test_open_streams(server: Served) -> None:
    body = {"query": "subscription { snapshotChanged { kind } }"}
    with server.http.stream("POST", "/graphql", json=body, headers={"accept": "text/event-stream"}) as answer:
        lines = answer.iter_lines()  # kept, for it closes the stream when it goes
        assert next(lines) == ":"
        while (found := measured(server))["gateway_subscriptions"] != 1:
            pass
        assert found["gateway_streams"] == 1
    assert found["gateway_requests_total{kind=subscription,outcome=ok,transport=http}"] == 1


def test_all_that_is_told_of_is_there_and_explained(demo: Served) -> None:
    assert table(ROOT / "docs/operating.md", "Metric") == metrics_table()
    rare = {"gateway_driver_errors_total", "gateway_http_refused_total", "gateway_process_ends_total"}
    rare |= {"gateway_operations_finished_total", "gateway_requests_total", "gateway_request_seconds"}
    while rare | {name for name, _, _ in demo.gateway.measures.samples()} < set(FAMILIES) - {
        name for name, _, _ in demo.run(stored(demo.gateway.database))
    }:
        pass


def test_they_are_served_apart_to_who_asks_properly(databases: Databases) -> None:
    url = databases.new("sqlite")
    with serving("--database-url", url, metrics_address="127.0.0.1:0") as program:
        found = re.search(r"(http://\S+)/metrics", program.greeting)
        assert found is not None
        answer = httpx2.get(f"{found[1]}/metrics", trust_env=False)
        assert "gateway_processes 1.0\n" in answer.text
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        # A page that points its name at this machine.
        assert httpx2.get(f"{found[1]}/metrics", headers={"host": "evil.example"}, trust_env=False).status_code == 421
        assert program.http.get("/metrics").status_code == 404


@pytest.mark.parametrize("address", ["9464", "localhost:9464", "127.0.0.1:", "127.0.0.1:99999"])
def test_an_address_that_is_none(databases: Databases, address: str) -> None:
    told = refusal("serve", "--port", "0", "--database-url", databases.new("sqlite"), metrics_address=address)
    assert told == f"GATEWAY_METRICS_ADDRESS must be ADDRESS:PORT, such as 127.0.0.1:9464, not {address!r}"


# ---- laws


def _samples() -> st.SearchStrategy[list[Sample]]:
    def of(measures: list[tuple[str, float]]) -> list[Sample]:
        made = Measures()
        for name, seconds in measures:
            made.requests.add(("http", "query", name))
            made.duration.observe((name,), seconds)
        return made.samples()

    return st.lists(st.tuples(st.sampled_from(["ok", "error"]), st.floats(0, 1_000))).map(of)


@given(st.lists(_samples(), max_size=4), st.data())
def test_what_was_counted_is_never_less(processes: list[list[Sample]], data: st.DataObject) -> None:
    """Whatever process ends at whatever time: Prometheus takes a counter that falls for one that began anew."""
    sum_ = Sum()
    for number, samples in enumerate(processes):
        sum_.replace(number, samples)
    before = numbers(sum_.samples())
    for number in range(len(processes)):
        if data.draw(st.booleans()):
            sum_.end(number)
    assert numbers(sum_.samples()) == pytest.approx(before)
    counted = [value for name, value in before.items() if name.startswith("gateway_requests_total")]
    assert sum(counted) == sum(sum(s[2] for s in samples if s[0] == "gateway_requests_total") for samples in processes)  # type: ignore[misc]


@given(st.lists(st.floats(0, 2_000)))
def test_a_histogram_counts_up_to_its_bounds(seconds: list[float]) -> None:
    measures = Measures()
    for one in seconds:
        measures.duration.observe(("a",), one)
    found = numbers(measures.samples())
    for bound in BOUNDS if seconds else ():
        assert found[f"gateway_request_seconds_bucket{{le={bound},operation=a}}"] == sum(s <= bound for s in seconds)
