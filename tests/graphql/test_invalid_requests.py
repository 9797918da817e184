"""Invalid ids, pages, sorts, documents and bodies are refused with one message and the path of the error."""

from typing import Any

import pytest

from tests.graphql.client import CREATE
from tests.graphql.error_assertions import IDS, SNAPSHOTS, assert_field_error, assert_request_error, literal, nested
from tests.serving import Served

# ---- ids


@pytest.mark.parametrize(
    "id_",
    ["", "11", "x", "vm-", "vm-x", "VM-11", "vm-011", "vm--1", "vm-11 ", "vm-1_1", "vm-٣", "vm-9223372036854775808"],
)
@pytest.mark.parametrize("field", ["vm", "instance", "snapshot", "operation", "node"])
def test_malformed_ids(gateway: Served, field: str, id_: str) -> None:
    query = f"query ($id: ID!) {{ found: {field}(id: $id) {{ id }} }}"
    assert_field_error(gateway, query, {"id": id_}, f"{id_!r} is not an id. {IDS}", ["found"])


@pytest.mark.parametrize("id_", ["vm-1\0", "x" * 41, "vm-\u200b1"], ids=ascii)
def test_long_or_unprintable_ids_are_not_repeated_in_the_message(gateway: Served, id_: str) -> None:
    query = "query ($id: ID!) { vm(id: $id) { id } }"
    assert_field_error(gateway, query, {"id": id_}, f"The value is not an id. {IDS}", ["vm"])


def test_ids_of_other_types_and_unknown_ids_return_null(gateway: Served) -> None:
    ids = ["vm-11", "instance-201", "snapshot-3", "operation-1"]
    fields = ["vm", "instance", "snapshot", "operation"]
    selections = [f'{field}{n}: {field}(id: "{id_}") {{ id }}' for field in fields for n, id_ in enumerate(ids)]
    found = gateway.ask("{ " + " ".join(selections) + " }")
    assert {name: row["id"] for name, row in found.items() if row} == {
        f"{field}{n}": ids[n] for n, field in enumerate(fields)
    }
    nothing = ["vm-0", "vm-201", "instance-11", "snapshot-9223372036854775807", "operation-999999", "x", ""]
    assert gateway.ask("query ($ids: [ID!]!) { nodes(ids: $ids) { id } }", ids=["vm-11", *nothing, "vm-11"]) == {
        "nodes": [{"id": "vm-11"}, *[None] * len(nothing), {"id": "vm-11"}]
    }


def test_too_many_ids(gateway: Served) -> None:
    query = "query ($ids: [ID!]!) { nodes(ids: $ids) { id } }"
    assert len(gateway.ask(query, ids=["vm-11"] * 1000)["nodes"]) == 1000
    message = "`ids` may have at most 1000 items, not 1001."
    assert_field_error(gateway, query, {"ids": ["vm-11"] * 1001}, message, ["nodes"])


def test_error_in_one_field_does_not_affect_other_fields(gateway: Served) -> None:
    body = gateway.post('{ wrong: vm(id: "x") { id } right: vm(id: "vm-11") { name } }')
    assert body == {
        "errors": [
            {
                "message": f"'x' is not an id. {IDS}",
                "locations": [{"line": 1, "column": 3}],
                "path": ["wrong"],
                "extensions": {"code": "BAD_USER_INPUT"},
            }
        ],
        "data": {"wrong": None, "right": {"name": "web-01"}},
    }


# ---- pages


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"first": -1}, "`first` must be between 0 and 1000, not -1."),
        ({"first": 1001}, "`first` must be between 0 and 1000, not 1001."),
        ({"first": 2**31 - 1}, "`first` must be between 0 and 1000, not 2147483647."),
        ({"last": -1}, "`last` must be between 0 and 1000, not -1."),
        ({"last": 1001}, "`last` must be between 0 and 1000, not 1001."),
        ({"first": 1, "last": 1}, "`first` and `last` cannot be combined. Pass one of them."),
        ({"first": 0, "last": 0}, "`first` and `last` cannot be combined. Pass one of them."),
        ({"offset": -1}, "`offset` must not be negative, but is -1."),
        ({"offset": 0, "after": "x"}, "`offset` can only be combined with `first`, not with `after`."),
        ({"offset": 0, "before": "x"}, "`offset` can only be combined with `first`, not with `before`."),
        ({"offset": 0, "last": 1}, "`offset` can only be combined with `first`, not with `last`."),
        ({"offset": 1, "first": 1001}, "`first` must be between 0 and 1000, not 1001."),
    ],
    ids=str,
)
def test_invalid_page_arguments(gateway: Served, arguments: dict[str, Any], message: str) -> None:
    assert_field_error(gateway, SNAPSHOTS, arguments, message, ["snapshots"])


def test_invalid_page_arguments_of_a_nested_list(gateway: Served) -> None:
    """The error has the location of the nested list, even if no row contains it."""
    for query, path, column in (
        ('{ vm(id: "vm-11") { snapshots(first: 1001) { nodes { id } } } }', ["vm"], 21),
        ("{ machines(first: 0) { nodes { snapshots(first: 1001) { nodes { id } } } } }", ["machines"], 32),
        ("{ machines { nodes { name snapshots { nodes { children(first: 1001) { nodes { id } } } } } } }", None, 47),
    ):
        (error,) = gateway.post(query)["errors"]
        assert error == {
            "message": "`first` must be between 0 and 1000, not 1001.",
            "locations": [{"line": 1, "column": column}],
            "path": path or ["machines"],
            "extensions": {"code": "BAD_USER_INPUT"},
        }


def test_offset_beyond_the_end_returns_an_empty_page(gateway: Served) -> None:
    query = (
        "{ snapshots(offset: 2147483647) { totalCount nodes { id }"
        " pageInfo { hasNextPage hasPreviousPage startCursor endCursor } } }"
    )
    page = gateway.ask(query)["snapshots"]
    assert page == {
        "totalCount": 286,
        "nodes": [],
        "pageInfo": {"hasNextPage": False, "hasPreviousPage": True, "startCursor": None, "endCursor": None},
    }


# ---- sorts

IGNORE_CASE = "`ignoreCase` requires a text key"


@pytest.mark.parametrize(
    ("field", "sort", "message"),
    [
        ("snapshots", "[{field: NAME}, {field: NAME}]", "sort[1]: The key NAME occurs twice."),
        ("snapshots", "[{field: NAME}, {field: ID}, {field: NAME, direction: DESC}]",
         "sort[2]: The key NAME occurs twice."),
        ("snapshots", "[{field: NAME}, {field: NAME, ignoreCase: true}]", "sort[1]: The key NAME occurs twice."),
        ("machines", "[{field: ID}, {field: ID}]", "sort[1]: The key ID occurs twice."),
        ("operations", "[{field: FINISHED_AT}, {field: FINISHED_AT}]", "sort[1]: The key FINISHED_AT occurs twice."),
        *[
            ("snapshots", f"[{{field: {name}, ignoreCase: true}}]", f"sort[0]: {IGNORE_CASE}, which {name} is not.")
            for name in ("ID", "STATE", "SIZE_BYTES", "CREATED_AT")
        ],
        *[
            ("machines", f"[{{field: {name}, ignoreCase: true}}]", f"sort[0]: {IGNORE_CASE}, which {name} is not.")
            for name in ("ID", "POWER_STATE", "CREATED_AT", "UPDATED_AT", "SNAPSHOT_COUNT")
        ],
    ],
)  # fmt: skip
def test_invalid_sorts(gateway: Served, field: str, sort: str, message: str) -> None:
    assert_field_error(gateway, f"{{ {field}(sort: {sort}) {{ nodes {{ id }} }} }}", {}, message, [field])


def test_sort_of_wrong_type_is_refused(gateway: Served) -> None:
    for sort, message in (
        ([{"field": "NOPE"}], "at [0].field: Value 'NOPE' does not exist in 'SnapshotSortField' enum."),
        ([{"field": "NAME", "nulls": None}], "at [0].nulls: Expected value of non-null type 'NullsOrder!'"),
        ([{}], "at [0]: Expected value of type 'SnapshotSort' to include required field 'field'"),
        ([None], "at [0]: Expected value of non-null type 'SnapshotSort!'"),
    ):
        (error,) = gateway.post(SNAPSHOTS, {"sort": sort})["errors"]
        assert error["message"].startswith(f"Variable '$sort' has invalid value {message}")
        assert error["extensions"] == {"code": "BAD_USER_INPUT"}


# ---- documents and bodies


@pytest.mark.parametrize(
    ("query", "code", "message"),
    [
        ("{", "GRAPHQL_PARSE_FAILED", "Syntax Error: Expected Name, found <EOF>."),
        ('{ vm(id: "\\uD800") { id } }', "GRAPHQL_PARSE_FAILED",
         "Syntax Error: Invalid Unicode escape sequence: '\\uD800'."),
        ("{ nope }", "GRAPHQL_VALIDATION_FAILED",
         "Cannot query field 'nope' on type 'Query'. Did you mean 'node' or 'nodes'?"),
        ("query A { viewer { name } } query B { viewer { name } }", "BAD_USER_INPUT",
         "The document has several operations. Name one of them in `operationName`."),
        ("fragment F on Query { viewer { name } }", "GRAPHQL_VALIDATION_FAILED", "Fragment 'F' is never used."),
    ],
)  # fmt: skip
def test_invalid_documents(gateway: Served, query: str, code: str, message: str) -> None:
    assert_request_error(gateway, query, None, code, message)


def test_too_large_documents_are_refused(gateway: Served) -> None:
    (error,) = gateway.post("{ viewer { " + "name " * 5000 + "} }")["errors"]
    assert error["message"] == "Syntax Error: Document contains more than 5000 tokens. Parsing aborted."
    assert error["extensions"] == {"code": "GRAPHQL_PARSE_FAILED"}
    (error,) = gateway.post("{ snapshots(filter: " + "{not: " * 1000 + "{}" + "}" * 1000 + ") { totalCount } }")[
        "errors"
    ]
    assert error["message"] == "Syntax Error: Document is nested too deeply. Parsing aborted."
    assert error["extensions"] == {"code": "GRAPHQL_PARSE_FAILED"}
    assert_request_error(
        gateway, SNAPSHOTS, {"filter": nested(900, {})}, "BAD_USER_INPUT", "Variable values are nested too deeply."
    )


@pytest.mark.parametrize("where", ["name", "key", "filter"])
def test_lone_surrogate_is_not_valid_json(gateway: Served, where: str) -> None:
    bodies = {
        "name": (CREATE, '{"input": {"machineId": "vm-11", "name": "\\ud800"}}'),
        "key": (CREATE, '{"input": {"machineId": "vm-11", "name": "n", "idempotencyKey": "\\udfff"}}'),
        "filter": (SNAPSHOTS, '{"filter": {"name": {"eq": "a\\ud800b"}}}'),
    }
    query, variables = bodies[where]
    content = f'{{"query": {literal(query)}, "variables": {variables}}}'
    answer = gateway.http.post("/graphql", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    (error,) = answer.json()["errors"]
    assert error["message"].startswith("The request body is not valid UTF-8 JSON: ")
    assert error["extensions"] == {"code": "BAD_USER_INPUT"}


def test_invalid_selection_of_a_mutation_is_refused_before_it_is_executed(gateway: Served) -> None:
    query = (
        'mutation { createSnapshot(input: {machineId: "vm-11", name: "n"}) {'
        " machine { snapshots(first: -1) { nodes { id } } } } }"
    )
    (error,) = gateway.post(query)["errors"]
    assert error["message"] == "`first` must be between 0 and 1000, not -1."
    assert error["extensions"] == {"code": "BAD_USER_INPUT"}


def test_mutation_by_get_is_refused(gateway: Served) -> None:
    query = 'mutation { deleteSnapshots(input: {ids: ["snapshot-3"]}) { acceptedCount } }'
    answer = gateway.http.get("/graphql", params={"query": query}, headers={"accept": "application/json"})
    assert answer.status_code == 405
    assert answer.json() == {
        "errors": [
            {
                "message": "A mutation must be sent by POST. Only queries can be sent by GET.",
                "extensions": {"code": "BAD_USER_INPUT"},
            }
        ]
    }
