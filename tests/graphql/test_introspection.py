"""The schema file `/schema.graphql`, and the settings that disable introspection and suggestions."""

import json
import sys
from collections.abc import Iterator

import pytest
from graphql import get_introspection_query

from gateway.config import Settings
from tests.databases import Databases
from tests.serving import Served, served


@pytest.fixture(scope="module")
def gateway(databases: Databases) -> Iterator[Served]:
    with served(Settings(database_url=databases.new("sqlite", demo=True))) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def without_suggestions(databases: Databases) -> Iterator[Served]:
    """A gateway without suggestions in validation errors."""
    with served(Settings(database_url=databases.new("sqlite", demo=True), suggestions=False)) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def without_introspection(databases: Databases) -> Iterator[Served]:
    """A gateway without introspection, and therefore also without suggestions."""
    with served(Settings(database_url=databases.new("sqlite", demo=True), introspection=False)) as gateway:
        yield gateway


def test_schema_file_and_its_etag(gateway: Served) -> None:
    answer = gateway.http.get("/schema.graphql")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/plain; charset=utf-8")
    assert answer.headers["content-disposition"] == 'inline; filename="schema.graphql"'
    assert answer.headers["cache-control"] == "no-cache"
    assert "type Subscription {" in answer.text
    tag = answer.headers["etag"]
    for known in (tag, f'"other", {tag}', f"W/{tag}", f'W/"other",W/{tag}', "*"):
        again = gateway.http.get("/schema.graphql", headers={"if-none-match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    for unknown in ('"other"', tag.strip('"'), ""):
        again = gateway.http.get("/schema.graphql", headers={"if-none-match": unknown})
        assert (again.status_code, again.text) == (200, answer.text)
    head = gateway.http.head("/schema.graphql")
    assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", tag)
    assert head.headers["content-disposition"] == answer.headers["content-disposition"]


@pytest.mark.parametrize("accept", ["text/html,*/*;q=0.8", "application/graphql", "application/json", ""])
def test_schema_file_is_the_same_for_every_accept_header(gateway: Served, accept: str) -> None:
    expected = gateway.http.get("/schema.graphql")
    answer = gateway.http.get("/schema.graphql", headers={"accept": accept})
    assert (answer.status_code, answer.text) == (200, expected.text)
    for name in ("content-type", "etag"):
        assert answer.headers[name] == expected.headers[name]


def test_disabled_introspection(without_introspection: Served) -> None:
    for query, fields in (
        (get_introspection_query(), ["__schema"]),
        ('{ __type(name: "Vm") { name } }', ["__type"]),
        ("{ ...F } fragment F on Query { a: __schema { types { name } } }", ["__schema"]),
    ):
        body = without_introspection.post(query)
        assert list(body) == ["errors"]
        assert [(error["extensions"]["code"], error["message"]) for error in body["errors"]][: len(fields)] == [
            (
                "GRAPHQL_VALIDATION_FAILED",
                f"GraphQL introspection has been disabled, but the requested query contained the field '{field}'.",
            )
            for field in fields
        ]
    assert without_introspection.ask('{ __typename vm(id: "vm-11") { __typename name } }') == {
        "__typename": "Query",
        "vm": {"__typename": "Vm", "name": "web-01"},
    }


def test_schema_file_is_absent_without_introspection(without_introspection: Served, gateway: Served) -> None:
    assert without_introspection.http.get("/schema.graphql").status_code == 404
    assert "/schema.graphql" not in without_introspection.http.get("/").text
    assert "/schema.graphql" in gateway.http.get("/").text


# Misspelled names at every position of a request: in the document and in the variables.
MISSPELLED = [
    ("{ viewr { name } }", {}, "viewer"),
    ('{ vm(id: "vm-11") { nam } }', {}, "name"),
    ('{ node(id: "vm-11") { powerState } }', {}, "Vm"),
    ('{ node(id: "vm-11") { ... on Machin { id } } }', {}, "Machine"),
    ('{ vm(idd: "vm-11") { id } }', {}, "id"),
    ("{ vms(filter: {nam: {}}) { totalCount } }", {}, "name"),
    ("{ vms(sort: [{field: NAM}]) { totalCount } }", {}, "NAME"),
    ('{ vms(sort: [{field: "NAME"}]) { totalCount } }', {}, "NAME"),
    ("query ($f: MachineFilte) { vms(filter: $f) { totalCount } }", {}, "MachineFilter"),
    ("query ($f: MachineFilter) { vms(filter: $f) { totalCount } }", {"f": {"nam": {}}}, "name"),
    ("query ($f: MachineFilter) { vms(filter: $f) { totalCount } }", {"f": {"powerState": {"eq": "ONN"}}}, "ON"),
    ("query ($s: [MachineSort!]) { vms(sort: $s) { totalCount } }", {"s": [{"field": "NAM"}]}, "NAME"),
    ("mutation { createSnapsho(input: {}) { errors { code } } }", {}, "createSnapshot"),
    ("subscription { snapshotChange { kind } }", {}, "snapshotChanged"),
]


@pytest.mark.parametrize(("query", "variables", "name"), MISSPELLED)
def test_disabled_suggestions(
    gateway: Served,
    without_suggestions: Served,
    without_introspection: Served,
    query: str,
    variables: dict[str, object],
    name: str,
) -> None:
    headers = {"accept": "application/json, text/event-stream"}
    request = {"query": query, "variables": variables}
    detailed = gateway.http.post("/graphql", json=request, headers=headers).json()
    for server in (without_suggestions, without_introspection):
        hidden = server.http.post("/graphql", json=request, headers=headers).json()
        assert "Did you mean" not in json.dumps(hidden)
        assert [error["extensions"] for error in hidden["errors"]] == [
            error["extensions"] for error in detailed["errors"]
        ]
        for error, detailed_error in zip(hidden["errors"], detailed["errors"], strict=True):
            assert error["message"].startswith(detailed_error["message"].partition(". Did you mean")[0])
    assert "Did you mean" in json.dumps(detailed)
    assert f"'{name}'" in json.dumps(detailed)


def test_introspection_returns_the_interpreter_soon(gateway: Served) -> None:
    """It runs in a thread, which would otherwise keep each row of the reads of other callers waiting for 5 ms."""
    assert gateway.post("{ __schema { types { name } } }")["data"]
    assert sys.getswitchinterval() == pytest.approx(0.0005)
