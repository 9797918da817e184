"""Spans arrive at a collector with the right parents and without the content of requests."""

import sys

import pytest

from gateway.config import Settings
from tests.cli.programs import refusal
from tests.databases import KINDS, Databases
from tests.graphql.client import CREATE
from tests.serving import served
from tests.telemetry.collector import ReceivedSpan, running_collector
from tests.waiting import until

pytestmark = pytest.mark.thorough  # starts servers and waits in real time

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
NAMES = "query Names($id: ID!) { vm(id: $id) { name } machines(first: 1) { totalCount } }"


def ask(gateway: object, query: str, **variables: object) -> dict[str, object]:
    body = {"query": query, "variables": variables}
    response = gateway.http.post("/graphql", json=body, headers=PARENT)  # type: ignore[attr-defined]
    data: dict[str, object] = response.json()["data"]
    return data


@pytest.mark.parametrize("kind", KINDS)
def test_spans_of_a_request_and_its_operation(databases: Databases, kind: str) -> None:
    with running_collector() as collector:
        settings = Settings(database_url=databases.new(kind, demo=True), traces_endpoint=collector.endpoint)
        with served(settings) as gateway:
            for _ in range(2):
                ask(gateway, NAMES, id="vm-11")
            made = ask(gateway, CREATE, input={"machineId": "vm-12", "name": "hunter2"})
            operation = made["createSnapshot"]["operation"]["id"]  # type: ignore[index]
            gateway.await_operation(operation)
    # The client's span > request > GraphQL operation > transaction > statements.
    (query,) = collector.named("query Names")
    request = parent_of(collector.spans, query)
    assert (request.name, request.trace, request.parent) == ("POST", TRACE, CALLER)
    assert request.attributes["url.path"] == "/graphql"
    assert request.attributes["http.response.status_code"] == 200
    (read,) = collector.children(query)
    statements = collector.children(read)
    assert (read.name, {span.name for span in statements}) == ("read", {"SELECT"})
    assert len(statements) >= 2
    assert {span.attributes["db.system.name"] for span in statements} == {kind}
    # The mutation's span names the operation. The operation has a trace of its own, linked to that span.
    (mutation,) = [span for span in collector.spans if span.attributes.get("gateway.operations") == [operation]]
    (work,) = collector.named("CREATE_SNAPSHOT")
    assert (work.parent, work.links, work.attributes["gateway.operation"]) == ("", [mutation.id], operation)
    assert work.trace != TRACE
    assert work.attributes["gateway.operation.state"] == "SUCCEEDED"
    assert "lab create" in {span.name for span in collector.children(work)}
    assert {span.name for span in collector.children(work)} >= {"write", "lab create"}
    assert "snapshot-gateway" in collector.services
    assert "hunter2" not in repr([span.attributes for span in collector.spans])


def test_idle_background_loops_are_not_traced(databases: Databases) -> None:
    with running_collector() as collector:
        settings = Settings(database_url=databases.new("sqlite"), traces_endpoint=collector.endpoint)
        with served(settings) as gateway:
            before = gateway.statements
            until(lambda: gateway.statements >= before + 10)
    assert collector.spans == []


def test_an_unavailable_collector_does_not_affect_requests(databases: Databases) -> None:
    with running_collector() as collector:
        gone = collector.endpoint
    with served(Settings(database_url=databases.new("sqlite", demo=True), traces_endpoint=gone)) as gateway:
        assert ask(gateway, NAMES, id="vm-11")["vm"] == {"name": "web-01"}


def test_the_endpoint_defaults_to_the_variable_of_opentelemetry() -> None:
    usual = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}
    assert Settings.from_environment(usual).traces_endpoint == "http://collector:4318"
    ours = usual | {"GATEWAY_TRACES_ENDPOINT": "http://other:4318"}
    assert Settings.from_environment(ours).traces_endpoint == "http://other:4318"
    assert Settings.from_environment({}).traces_endpoint == ""


def test_tracing_requires_the_optional_dependency(databases: Databases, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gateway.telemetry.tracing", None)
    settings = {"database_url": databases.new("sqlite"), "traces_endpoint": "http://127.0.0.1:4318"}
    assert refusal("serve", "--port", "0", **settings) == (
        "GATEWAY_TRACES_ENDPOINT requires an optional dependency. Run: pip install 'snapshot-gateway[telemetry]'"
    )


def parent_of(spans: list[ReceivedSpan], child: ReceivedSpan) -> ReceivedSpan:
    (found,) = [span for span in spans if span.id == child.parent]
    return found
