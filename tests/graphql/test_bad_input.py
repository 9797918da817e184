"""What is wrong with a request is said in one clear message at the right place: ids, pages, sorts, documents."""

from typing import Any

import pytest

from tests.graphql.asking import CREATE
from tests.graphql.refusing import IDS, SNAPSHOTS, literal, nested, not_run, refused
from tests.serving import Served

# ---- ids


@pytest.mark.parametrize(
    "id_",
    ["", "11", "x", "vm-", "vm-x", "VM-11", "vm-011", "vm--1", "vm-11 ", "vm-1_1", "vm-٣", "vm-9223372036854775808"],
)
@pytest.mark.parametrize("field", ["vm", "instance", "snapshot", "operation", "node"])
def test_malformed_ids(gateway: Served, field: str, id_: str) -> None:
    query = f"query ($id: ID!) {{ found: {field}(id: $id) {{ id }} }}"
    refused(gateway, query, {"id": id_}, f"{id_!r} is not an id: {IDS}", ["found"])


@pytest.mark.parametrize("id_", ["vm-1\0", "x" * 41, "vm-\u200b1"], ids=ascii)
def test_malformed_ids_that_are_better_not_repeated(gateway: Served, id_: str) -> None:
    query = "query ($id: ID!) { vm(id: $id) { id } }"
    refused(gateway, query, {"id": id_}, f"this is not an id: {IDS}", ["vm"])


def test_ids_of_other_types_and_of_nothing_find_nothing(gateway: Served) -> None:
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
    message = "ids: at most 1000 can be asked for at once, not 1001"
    refused(gateway, query, {"ids": ["vm-11"] * 1001}, message, ["nodes"])


def test_a_wrong_field_leaves_its_neighbours_alone(gateway: Served) -> None:
    body = gateway.post('{ wrong: vm(id: "x") { id } right: vm(id: "vm-11") { name } }')
    assert body == {
        "errors": [
            {
                "message": f"'x' is not an id: {IDS}",
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
        ({"first": -1}, "first must be between 0 and 1000, not -1"),
        ({"first": 1001}, "first must be between 0 and 1000, not 1001"),
        ({"first": 2**31 - 1}, "first must be between 0 and 1000, not 2147483647"),
        ({"last": -1}, "last must be between 0 and 1000, not -1"),
        ({"last": 1001}, "last must be between 0 and 1000, not 1001"),
        ({"first": 1, "last": 1}, "first and last do not go together: ask for one end of the list"),
        ({"first": 0, "last": 0}, "first and last do not go together: ask for one end of the list"),
        ({"offset": -1}, "offset must not be negative, but is -1"),
        ({"offset": 0, "after": "x"}, "offset goes with first only, not with after"),
        ({"offset": 0, "before": "x"}, "offset goes with first only, not with before"),
        ({"offset": 0, "last": 1}, "offset goes with first only, not with last"),
        ({"offset": 1, "first": 1001}, "first must be between 0 and 1000, not 1001"),
    ],
    ids=str,
)
def test_page_arguments(gateway: Served, arguments: dict[str, Any], message: str) -> None:
    refused(gateway, SNAPSHOTS, arguments, message, ["snapshots"])


def test_page_arguments_of_a_nested_list(gateway: Served) -> None:
    """Said at the list's own place in the document, whether or not any row would lead there."""
    for query, path, column in (
        ('{ vm(id: "vm-11") { snapshots(first: 1001) { nodes { id } } } }', ["vm"], 21),
        ("{ machines(first: 0) { nodes { snapshots(first: 1001) { nodes { id } } } } }", ["machines"], 32),
        ("{ machines { nodes { name snapshots { nodes { children(first: 1001) { nodes { id } } } } } } }", None, 47),
    ):
        (error,) = gateway.post(query)["errors"]
        assert error == {
            "message": "first must be between 0 and 1000, not 1001",
            "locations": [{"line": 1, "column": column}],
            "path": path or ["machines"],
            "extensions": {"code": "BAD_USER_INPUT"},
        }


def test_an_offset_beyond_the_end_is_an_empty_page(gateway: Served) -> None:
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

IGNORE_CASE = "ignoreCase is for text"


@pytest.mark.parametrize(
    ("field", "sort", "message"),
    [
        ("snapshots", "[{field: NAME}, {field: NAME}]", "sort[1]: NAME is given twice"),
        ("snapshots", "[{field: NAME}, {field: ID}, {field: NAME, direction: DESC}]", "sort[2]: NAME is given twice"),
        ("snapshots", "[{field: NAME}, {field: NAME, ignoreCase: true}]", "sort[1]: NAME is given twice"),
        ("machines", "[{field: ID}, {field: ID}]", "sort[1]: ID is given twice"),
        ("operations", "[{field: FINISHED_AT}, {field: FINISHED_AT}]", "sort[1]: FINISHED_AT is given twice"),
        *[
            ("snapshots", f"[{{field: {name}, ignoreCase: true}}]", f"sort[0]: {IGNORE_CASE}, and {name} is not")
            for name in ("ID", "STATE", "SIZE_BYTES", "CREATED_AT")
        ],
        *[
            ("machines", f"[{{field: {name}, ignoreCase: true}}]", f"sort[0]: {IGNORE_CASE}, and {name} is not")
            for name in ("ID", "POWER_STATE", "CREATED_AT", "UPDATED_AT", "SNAPSHOT_COUNT")
        ],
    ],
)  # fmt: skip
def test_sorts(gateway: Served, field: str, sort: str, message: str) -> None:
    refused(gateway, f"{{ {field}(sort: {sort}) {{ nodes {{ id }} }} }}", {}, message, [field])


def test_sorts_of_a_wrong_type(gateway: Served) -> None:
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
         "The document has several operations: name one in `operationName`."),
        ("fragment F on Query { viewer { name } }", "GRAPHQL_VALIDATION_FAILED", "Fragment 'F' is never used."),
    ],
)  # fmt: skip
def test_documents(gateway: Served, query: str, code: str, message: str) -> None:
    not_run(gateway, query, None, code, message)


def test_documents_that_are_too_large(gateway: Served) -> None:
    (error,) = gateway.post("{ viewer { " + "name " * 5000 + "} }")["errors"]
    assert error["message"] == "Syntax Error: Document contains more than 5000 tokens. Parsing aborted."
    assert error["extensions"] == {"code": "GRAPHQL_PARSE_FAILED"}
    (error,) = gateway.post("{ snapshots(filter: " + "{not: " * 1000 + "{}" + "}" * 1000 + ") { totalCount } }")[
        "errors"
    ]
    assert error["message"] == "Syntax Error: Document is nested too deeply. Parsing aborted."
    assert error["extensions"] == {"code": "GRAPHQL_PARSE_FAILED"}
    not_run(gateway, SNAPSHOTS, {"filter": nested(900, {})}, "BAD_USER_INPUT", "Variable values are nested too deeply.")


@pytest.mark.parametrize("where", ["name", "key", "filter"])
def test_half_a_surrogate_pair_is_not_json(gateway: Served, where: str) -> None:
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
    assert error["message"].startswith("The body is not JSON in UTF-8: ")
    assert error["extensions"] == {"code": "BAD_USER_INPUT"}


def test_a_fault_in_what_is_asked_back_is_found_before_anything_is_done(gateway: Served) -> None:
    query = (
        'mutation { createSnapshot(input: {machineId: "vm-11", name: "n"}) {'
        " machine { snapshots(first: -1) { nodes { id } } } } }"
    )
    (error,) = gateway.post(query)["errors"]
    assert error["message"] == "first must be between 0 and 1000, not -1"
    assert error["extensions"] == {"code": "BAD_USER_INPUT"}


def test_a_mutation_by_get(gateway: Served) -> None:
    query = 'mutation { deleteSnapshots(input: {ids: ["snapshot-3"]}) { acceptedCount } }'
    answer = gateway.http.get("/graphql", params={"query": query}, headers={"accept": "application/json"})
    assert answer.status_code == 405
    assert answer.json() == {
        "errors": [
            {
                "message": "A mutation must come by POST: only queries are served by GET.",
                "extensions": {"code": "BAD_USER_INPUT"},
            }
        ]
    }
