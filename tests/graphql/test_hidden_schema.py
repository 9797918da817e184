"""The schema as a file, and a gateway that does not tell of it."""

import json
from collections.abc import Iterator

import pytest
from graphql import get_introspection_query

from gateway.config import Settings
from tests.databases import Databases
from tests.serving import Served, served


@pytest.fixture(scope="module")
def gateway(databases: Databases) -> Iterator[Served]:
    with served(Settings(database_url=databases.new("sqlite")), demo=True) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def silent(databases: Databases) -> Iterator[Served]:
    """Suggests nothing."""
    with served(Settings(database_url=databases.new("sqlite"), suggestions=False), demo=True) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def closed(databases: Databases) -> Iterator[Served]:
    """Knows no introspection, and therefore suggests nothing either."""
    with served(Settings(database_url=databases.new("sqlite"), introspection=False), demo=True) as gateway:
        yield gateway


def test_the_file(gateway: Served) -> None:
    answer = gateway.http.get("/schema.graphql")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/graphql; charset=utf-8")
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


def test_no_introspection(closed: Served) -> None:
    for query, fields in (
        (get_introspection_query(), ["__schema"]),
        ('{ __type(name: "Vm") { name } }', ["__type"]),
        ("{ ...F } fragment F on Query { a: __schema { types { name } } }", ["__schema"]),
    ):
        body = closed.post(query)
        assert list(body) == ["errors"]
        assert [(error["extensions"]["code"], error["message"]) for error in body["errors"]][: len(fields)] == [
            (
                "GRAPHQL_VALIDATION_FAILED",
                f"GraphQL introspection has been disabled, but the requested query contained the field '{field}'.",
            )
            for field in fields
        ]
    assert closed.ask('{ __typename vm(id: "vm-11") { __typename name } }') == {
        "__typename": "Query",
        "vm": {"__typename": "Vm", "name": "web-01"},
    }


def test_no_file_where_there_is_no_introspection(closed: Served, gateway: Served) -> None:
    assert closed.http.get("/schema.graphql").status_code == 404
    assert "/schema.graphql" not in closed.http.get("/").text
    assert "/schema.graphql" in gateway.http.get("/").text


# What nearly fits, wherever it can stand in a request: in the document, and in the variables.
NEARLY = [
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


@pytest.mark.parametrize(("query", "variables", "name"), NEARLY)
def test_no_suggestions(
    gateway: Served, silent: Served, closed: Served, query: str, variables: dict[str, object], name: str
) -> None:
    headers = {"accept": "application/json, text/event-stream"}
    request = {"query": query, "variables": variables}
    told = gateway.http.post("/graphql", json=request, headers=headers).json()
    for server in (silent, closed):
        hidden = server.http.post("/graphql", json=request, headers=headers).json()
        assert "Did you mean" not in json.dumps(hidden)
        assert [error["extensions"] for error in hidden["errors"]] == [error["extensions"] for error in told["errors"]]
        for error, open_error in zip(hidden["errors"], told["errors"], strict=True):
            assert error["message"].startswith(open_error["message"].partition(". Did you mean")[0])
    assert "Did you mean" in json.dumps(told)
    assert f"'{name}'" in json.dumps(told)
