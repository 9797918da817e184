"""What is wrong with a request is said in one clear message at the right place, and nothing is changed by it."""

import base64
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson
import pytest

from gateway.config import Settings
from tests.api.asking import CANCEL, CREATE, CREATE_SEVERAL, DELETE, REFRESH, REVERT, dump, wish
from tests.databases import KINDS, Databases
from tests.serving import Served, served


@pytest.fixture(scope="module", params=KINDS)
def gateway(request: pytest.FixtureRequest, databases: Databases) -> Iterator[Served]:
    """The demo world; no test here changes it, and at the end that is looked at."""
    with served(Settings(database_url=databases.new(request.param)), demo=True) as gateway:
        before = dump(gateway)
        yield gateway
        assert dump(gateway) == before


IDS = "ids read like vm-11, instance-201, snapshot-3 or operation-7"
NULL = (
    "null is not allowed inside a filter; leave the member out, or pass the whole filter as one variable"
    " (`isNull: true` finds what has no value)"
)
EMPTY = (
    "an operator is missing, such as {eq: …}; a variable that was left out leaves none:"
    " pass the whole filter as one variable"
)
UNFIT = "the text holds a NUL or half a surrogate pair, which no text here can"
MOMENT = "a DateTime reads like 2026-11-23T18:25:44Z, with Z or an offset"
BIG_INT = "a BigInt is a whole number of at most 64 bits, as a decimal string or a JSON integer"
NO_CURSOR = "after is not a cursor"

SNAPSHOTS = (
    "query ($filter: SnapshotFilter, $sort: [SnapshotSort!], $first: Int, $after: String, $last: Int, $before: String,"
    " $offset: Int) { snapshots(filter: $filter, sort: $sort, first: $first, after: $after, last: $last,"
    " before: $before, offset: $offset) { nodes { id } } }"
)


def refused(gateway: Served, query: str, variables: dict[str, Any], message: str, path: list[Any]) -> None:
    """The answer has this one error of a field, and no data for it."""
    body = gateway.post(query, variables)
    (error,) = body["errors"]
    assert error.pop("locations")
    assert error == {"message": message, "path": path, "extensions": {"code": "BAD_USER_INPUT"}}
    assert not body["data"] or body["data"] == {path[0]: None}


def not_run(gateway: Served, query: str, variables: dict[str, Any] | None, code: str, message: str) -> None:
    """The request was not run at all, for this one reason."""
    body = gateway.post(query, variables)
    assert list(body) == ["errors"]
    (error,) = body["errors"]
    error.pop("locations", None)
    assert error == {"message": message, "extensions": {"code": code}}


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


# ---- cursors


def cursor(gateway: Served, sort: list[dict[str, str]] | None = None, **change: Any) -> list[Any]:
    """What is in the cursor of the first snapshot under a sort."""
    query = "query ($sort: [SnapshotSort!]) { snapshots(sort: $sort, first: 1) { pageInfo { endCursor } } }"
    text = gateway.ask(query, sort=sort)["snapshots"]["pageInfo"]["endCursor"]
    values: list[Any] = orjson.loads(base64.urlsafe_b64decode(text))
    return values


def encoded(values: Any) -> str:
    return base64.urlsafe_b64encode(values if isinstance(values, bytes) else orjson.dumps(values)).decode()


@pytest.mark.parametrize(
    "text",
    ["", "x", "é", "====", "!!!!", "a b=", encoded(b"\xff\xfe"), encoded(b"not json"), encoded({}), encoded([]),
     encoded(None), encoded("text"), encoded([None]), encoded([[1]]), encoded([1.5]), "A" * 16_385],
    ids=lambda text: f"{len(text)} {ascii(text[:12])}",
)  # fmt: skip
@pytest.mark.parametrize("argument", ["after", "before"])
def test_what_is_not_a_cursor(gateway: Served, argument: str, text: str) -> None:
    body = gateway.post(SNAPSHOTS, {argument: text})
    assert body["data"] is None
    (error,) = body["errors"]
    assert error["path"] == ["snapshots"]
    assert error["extensions"] == {"code": "BAD_USER_INPUT"}
    another = f"{argument} is a cursor of another sort: a cursor goes with the sort it came from"
    assert error["message"] in (f"{argument} is not a cursor", another)


def test_letters_around_a_cursor_make_it_another_text(gateway: Served) -> None:
    good = encoded(cursor(gateway))
    assert gateway.ask(SNAPSHOTS, after=good)
    for bad in (good + "!", "\n" + good, good[:4] + " " + good[4:], good.rstrip("=") + "====", good[:-5]):
        refused(gateway, SNAPSHOTS, {"after": bad}, NO_CURSOR, ["snapshots"])


def test_a_cursor_of_another_sort(gateway: Served) -> None:
    message = "before is a cursor of another sort: a cursor goes with the sort it came from"
    sorts: list[list[dict[str, Any]]] = [
        [{"field": "NAME"}],
        [{"field": "NAME", "direction": "DESC"}],
        [{"field": "NAME", "ignoreCase": True}],
        [{"field": "NAME"}, {"field": "CREATED_AT"}],
        [{"field": "CREATED_AT"}],
        [{"field": "ID"}],
        [{"field": "DESCRIPTION"}],
        [{"field": "DESCRIPTION", "nulls": "FIRST"}],
    ]
    for given in sorts:
        text = encoded(cursor(gateway, given))
        for other in sorts:
            if other is given:
                assert gateway.ask(SNAPSHOTS, before=text, sort=other)["snapshots"] == {"nodes": []}
            else:
                refused(gateway, SNAPSHOTS, {"before": text, "sort": other}, message, ["snapshots"])


MOMENTS = ["2026", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00.000000", "2026-01-01T00:00:00.000000+00:00",
           "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2026-02-30T00:00:00.000000Z", "now", "infinity",
           1, 1.5, None, True, [], {}]  # fmt: skip
NUMBERS = [None, True, "1", 1.5, 2**63, -(2**63) - 1, 10**30, [], {}]
TEXTS = [None, 1, True, [], {}, "\0"]


@pytest.mark.parametrize(
    ("sort", "place", "values"),
    [
        ([{"field": "CREATED_AT"}], 1, MOMENTS),
        ([{"field": "CREATED_AT"}], 2, NUMBERS),
        ([{"field": "NAME"}], 1, TEXTS),
        ([{"field": "NAME", "ignoreCase": True}], 1, TEXTS),
        ([{"field": "DESCRIPTION"}], 1, TEXTS[1:]),
        ([{"field": "SIZE_BYTES"}], 1, NUMBERS[1:]),
        ([{"field": "STATE"}], 1, NUMBERS),
        ([{"field": "MACHINE_NAME"}], 1, TEXTS),
        ([{"field": "ID"}], 1, NUMBERS),
    ],
    ids=lambda value: value[0]["field"] if isinstance(value, list) and isinstance(value[0], dict) else None,
)
def test_tampered_cursors(gateway: Served, sort: list[dict[str, str]], place: int, values: list[Any]) -> None:
    good = cursor(gateway, sort)
    for value in values:
        bad = [value if number == place else kept for number, kept in enumerate(good)]
        text = base64.urlsafe_b64encode(_json(bad)).decode()
        refused(gateway, SNAPSHOTS, {"after": text, "sort": sort}, NO_CURSOR, ["snapshots"])
    for bad in (good[:-1], [*good, 1]):
        refused(gateway, SNAPSHOTS, {"after": encoded(bad), "sort": sort}, NO_CURSOR, ["snapshots"])


def _json(value: list[Any]) -> bytes:
    """Numbers of any size, which orjson does not write."""
    parts = [str(item).encode() if type(item) is int else orjson.dumps(item) for item in value]
    return b"[" + b",".join(parts) + b"]"


def test_extreme_places_are_places(gateway: Served) -> None:
    """A forged cursor that is well-formed names a place, whether or not a row was ever there."""
    size, number = ([{"field": "SIZE_BYTES"}], [{"field": "ID"}])
    for sort, extreme, found in (
        (number, 2**63 - 1, 0),
        (number, -(2**63), 50),
        (size, 2**63 - 1, 0),
        (size, -(2**63), 50),
    ):
        good = cursor(gateway, sort)
        text = encoded([good[0], extreme, *good[2:]])
        assert len(gateway.ask(SNAPSHOTS, after=text, sort=sort)["snapshots"]["nodes"]) == found
    by_name = [{"field": "NAME"}]
    text = encoded([cursor(gateway, by_name)[0], "\U0010ffff" * 3000, 1])
    assert gateway.ask(SNAPSHOTS, after=text, sort=by_name)["snapshots"]["nodes"] == []


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


# ---- filters


def deep(levels: int, bottom: dict[str, Any]) -> dict[str, Any]:
    for _ in range(levels):
        bottom = {"not": bottom}
    return bottom


class Fault(NamedTuple):
    filter: dict[str, Any]
    place: str
    message: str


FAULTS = [
    Fault({"name": None}, "filter.name", NULL),
    Fault({"not": None}, "filter.not", NULL),
    Fault({"and": None}, "filter.and", NULL),
    Fault({"or": None}, "filter.or", NULL),
    Fault({"machine": None}, "filter.machine", NULL),
    Fault({"name": {"eq": None}}, "filter.name.eq", NULL),
    Fault({"name": {"in": None}}, "filter.name.in", NULL),
    Fault({"name": {"eq": "x", "isNull": None}}, "filter.name.isNull", NULL),
    Fault({"sizeBytes": {"gt": None}}, "filter.sizeBytes.gt", NULL),
    Fault({"createdAt": {"lte": None}}, "filter.createdAt.lte", NULL),
    Fault({"state": {"ne": None}}, "filter.state.ne", NULL),
    Fault({"memory": {"eq": None}}, "filter.memory.eq", NULL),
    Fault({"parentId": {"eq": None}}, "filter.parentId.eq", NULL),
    Fault({"and": [{}, {"name": {"eq": None}}]}, "filter.and[1].name.eq", NULL),
    Fault({"or": [{"not": {"name": None}}]}, "filter.or[0].not.name", NULL),
    Fault({"machine": {"host": {"eq": None}}}, "filter.machine.host.eq", NULL),
    Fault({"machine": {"someSnapshot": {"name": None}}}, "filter.machine.someSnapshot.name", NULL),
    Fault({"name": {}}, "filter.name", EMPTY),
    Fault({"name": {"ignoreCase": True}}, "filter.name", EMPTY),
    Fault({"name": {"ignoreCase": False}}, "filter.name", EMPTY),
    Fault({"id": {}}, "filter.id", EMPTY),
    Fault({"state": {}}, "filter.state", EMPTY),
    Fault({"memory": {}}, "filter.memory", EMPTY),
    Fault({"sizeBytes": {}}, "filter.sizeBytes", EMPTY),
    Fault({"createdAt": {}}, "filter.createdAt", EMPTY),
    Fault({"machine": {"snapshotCount": {}}}, "filter.machine.snapshotCount", EMPTY),
    Fault({"name": {"like": "a\\b"}}, "filter.name.like", "a backslash stands before `*` or another backslash only"),
    Fault({"name": {"like": "*\\"}}, "filter.name.like", "a backslash stands before `*` or another backslash only"),
    Fault({"name": {"like": "*" * 17}}, "filter.name.like", "a pattern may have at most 16 stars"),
    Fault({"name": {"eq": "a\0"}}, "filter.name.eq", UNFIT),
    Fault({"name": {"in": ["a", "\0"]}}, "filter.name.in[1]", UNFIT),
    Fault({"name": {"contains": "\0", "ignoreCase": True}}, "filter.name.contains", UNFIT),
    Fault({"name": {"like": "\0*"}}, "filter.name.like", UNFIT),
    Fault({"name": {"startsWith": "x" * 4001}}, "filter.name.startsWith", "at most 4000 characters can be compared"),
    Fault({"id": {"eq": "x"}}, "filter.id.eq", f"'x' is not an id: {IDS}"),
    Fault({"id": {"in": ["snapshot-3", "3"]}}, "filter.id.in[1]", f"'3' is not an id: {IDS}"),
    Fault({"machineId": {"notIn": [""]}}, "filter.machineId.notIn[0]", f"'' is not an id: {IDS}"),
    Fault({"or": [{"name": {"eq": "x"}}] * 250}, "filter.or[249].name.eq", "a filter may have at most 500 conditions"),
    Fault(deep(33, {}), "filter" + ".not" * 33, "a filter may be nested at most 32 deep"),
    Fault(
        deep(31, {"name": {"eq": "x"}}), "filter" + ".not" * 31 + ".name.eq", "a filter may be nested at most 32 deep"
    ),
]
FAULT_IDS = [f"{number} {fault.place[:40]}" for number, fault in enumerate(FAULTS)]


@pytest.mark.parametrize("fault", FAULTS, ids=FAULT_IDS)
def test_filters_as_a_variable(gateway: Served, fault: Fault) -> None:
    message = f"{fault.place}: {fault.message}"
    refused(gateway, SNAPSHOTS, {"filter": fault.filter}, message, ["snapshots"])


@pytest.mark.parametrize("fault", FAULTS, ids=FAULT_IDS)
def test_filters_in_the_document(gateway: Served, fault: Fault) -> None:
    query = f"{{ snapshots(filter: {literal(fault.filter)}) {{ nodes {{ id }} }} }}"
    refused(gateway, query, {}, f"{fault.place}: {fault.message}", ["snapshots"])


def literal(value: Any) -> str:
    """GraphQL's literal for JSON data."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {literal(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(literal, value)) + "]"
    return orjson.dumps(value).decode()


def test_the_largest_filters_that_are_taken(gateway: Served) -> None:
    everything = gateway.ask("{ snapshots { totalCount } }")["snapshots"]["totalCount"]
    count = "query ($filter: SnapshotFilter) { snapshots(filter: $filter) { totalCount } }"
    for taken, expected in (
        ({"or": [{"name": {"eq": "test-base"}}] * 249}, 1),
        (deep(32, {}), everything),
        (deep(30, {"name": {"eq": "test-base"}}), 1),
        ({"name": {"in": ["test-base", *["x"] * 5000]}}, 1),
        ({"name": {"notIn": []}}, everything),
        ({"name": {"like": "*" * 16}}, everything),
        ({"name": {"startsWith": "x" * 4000}}, 0),
    ):
        assert gateway.ask(count, filter=taken) == {"snapshots": {"totalCount": expected}}


@pytest.mark.parametrize(
    ("filter", "variables", "place", "message"),
    [
        ("{name: {eq: $text}}", {}, "filter.name", EMPTY),
        ("{name: {eq: $text, ignoreCase: true}}", {}, "filter.name", EMPTY),
        ("{name: {eq: $text}}", {"text": None}, "filter.name.eq", NULL),
        ("{name: {eq: $text, contains: \"x\"}}", {"text": None}, "filter.name.eq", NULL),
        ("{name: {in: $texts}}", {}, "filter.name", EMPTY),
        ("{name: {in: $texts}}", {"texts": None}, "filter.name.in", NULL),
        ("{name: $name}", {"name": None}, "filter.name", NULL),
        ("{and: [{name: $name}]}", {"name": None}, "filter.and[0].name", NULL),
        ("{and: [{name: $name}]}", {"name": {"eq": None}}, "filter.and[0].name.eq", NULL),
        ("{not: $whole}", {"whole": None}, "filter.not", NULL),
        ("{not: $whole}", {"whole": {"name": {}}}, "filter.not.name", EMPTY),
        ("{or: $several}", {"several": [{"name": {"like": "\\"}}]}, "filter.or[0].name.like",
         "a backslash stands before `*` or another backslash only"),
    ],
)  # fmt: skip
def test_variables_inside_a_filter(
    gateway: Served, filter: str, variables: dict[str, Any], place: str, message: str
) -> None:
    declared = {
        "text": "String",
        "texts": "[String!]",
        "name": "StringFilter",
        "whole": "SnapshotFilter",
        "several": "[SnapshotFilter!]",
    }
    used = ", ".join(f"${name}: {declared[name]}" for name in re.findall(r"\$(\w+)", filter))
    query = f"query ({used}) {{ snapshots(filter: {filter}) {{ nodes {{ id }} }} }}"
    refused(gateway, query, variables, f"{place}: {message}", ["snapshots"])


def test_a_whole_filter_or_member_that_is_left_out_is_no_condition(gateway: Served) -> None:
    """As GraphQL has it: the member is not there. Only what would be an object without an operator is refused."""
    query = "query ($filter: SnapshotFilter, $name: StringFilter) { a: snapshots(filter: $filter) { totalCount }"
    query += " b: snapshots(filter: {name: $name}) { totalCount } c: snapshots(filter: null) { totalCount } }"
    assert [part["totalCount"] for part in gateway.ask(query).values()] == [286, 286, 286]


@pytest.mark.parametrize(
    ("filter", "place", "message"),
    [
        ({"nope": 1}, "", "Expected value of type 'SnapshotFilter' not to include unknown field 'nope'."),
        ({"name": "x"}, ".name", "Expected value of type 'StringFilter' to be an object"),
        ({"name": {"in": [None]}}, ".name.in[0]", "Expected value of non-null type 'String!' not to be None."),
        ({"and": [None]}, ".and[0]", "Expected value of non-null type 'SnapshotFilter!' not to be None."),
        ({"name": {"eq": 5}}, ".name.eq", "String cannot represent a non string value: 5"),
        ({"name": {"eq": "x", "ignoreCase": None}}, ".name.ignoreCase",
         "Expected value of non-null type 'Boolean!' not to be None."),
        ({"memory": {"eq": "true"}}, ".memory.eq", "Boolean cannot represent a non boolean value: 'true'"),
        ({"state": {"eq": "READYY"}}, ".state.eq", "Value 'READYY' does not exist in 'SnapshotState' enum."),
        ({"state": {"in": ["ready"]}}, ".state.in[0]", "Value 'ready' does not exist in 'SnapshotState' enum."),
    ],
    ids=str,
)  # fmt: skip
def test_filters_of_a_wrong_type(gateway: Served, filter: dict[str, Any], place: str, message: str) -> None:
    body = gateway.post(SNAPSHOTS, {"filter": filter})
    (error,) = body["errors"]
    at = f" at {place}" if place else ""
    assert error["message"].startswith(f"Variable '$filter' has invalid value{at}: {message}")
    assert error["extensions"] == {"code": "BAD_USER_INPUT"}
    assert "data" not in body


# ---- scalars

NO_MOMENTS = ["", "now", "2026", "2026-01-01", "2026-01-01T00:00:00", "2026-01-01 00:00:00Z", "2026-01-01T00:00Z",
              "2026-13-01T00:00:00Z", "2026-01-01T25:00:00Z", "2026-02-30T00:00:00Z", "2026-01-01T00:00:00+25:00",
              "2026-01-01T00:00:60Z", "0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00",
              "2026-01-01T00:00:00.Z", "2026-01-01T00:00:00.1234567890Z", "２026-01-01T00:00:00Z"]  # fmt: skip
NO_BIG_INTS = [
    "",
    "x",
    1.5,
    True,
    2**63,
    "1.0",
    "+1",
    " 1",
    "1 ",
    "1_000",
    "0x10",
    "٣",
    "9223372036854775808",
    "-9223372036854775809",
]


@pytest.mark.parametrize(
    ("field", "values", "scalar"),
    [
        ("createdAt", [*NO_MOMENTS, 1, 1.5, True], "DateTime"),
        ("sizeBytes", NO_BIG_INTS, "BigInt"),
    ],
)
def test_scalars(gateway: Served, field: str, values: list[Any], scalar: str) -> None:
    for value in values:
        for variables, query, code in (
            ({"filter": {field: {"eq": value}}}, SNAPSHOTS, "BAD_USER_INPUT"),
            ({}, f"{{ snapshots(filter: {literal({field: {'eq': value}})}) {{ nodes {{ id }} }} }}",
             "GRAPHQL_VALIDATION_FAILED"),
        ):  # fmt: skip
            body = gateway.post(query, variables)
            (error,) = body["errors"]
            assert f"Expected value of type '{scalar}', but encountered error 'a {scalar} " in error["message"], value
            assert error["extensions"] == {"code": code}
            assert error["locations"]
            assert "data" not in body


def test_big_ints_in_the_document(gateway: Served) -> None:
    query = "{ snapshots(filter: {sizeBytes: {gt: %s}}) { totalCount } }"
    for number, found in (("9223372036854775807", 0), ("-9223372036854775807", 286), ('"0"', 286), ("-0", 286)):
        assert gateway.ask(query % number) == {"snapshots": {"totalCount": found}}
    for number in ("9223372036854775808", "1e3", "1.0", "true", "[1]", "{a: 1}"):
        (error,) = gateway.post(query % number)["errors"]
        assert error["extensions"] == {"code": "GRAPHQL_VALIDATION_FAILED"}
        assert BIG_INT in error["message"]


@pytest.mark.parametrize(
    ("moment", "found"),
    [
        ("2000-01-01T00:00:00Z", 286),
        ("2000-01-01t00:00:00z", 286),
        ("2000-01-01T00:00:00.123456789Z", 286),
        ("2000-01-01T00:00:00+14:00", 286),
        ("2000-01-01T00:00:00-00:00", 286),
        ("0001-01-01T00:00:00Z", 286),
        ("9999-12-31T23:59:59.999999Z", 0),
    ],
)
def test_forms_of_moments_that_are_taken(gateway: Served, moment: str, found: int) -> None:
    query = "query ($filter: SnapshotFilter) { snapshots(filter: $filter) { totalCount } }"
    assert gateway.ask(query, filter={"createdAt": {"gt": moment}}) == {"snapshots": {"totalCount": found}}


# ---- sorts


@pytest.mark.parametrize(
    ("field", "sort", "message"),
    [
        ("snapshots", "[{field: NAME}, {field: NAME}]", "sort[1]: NAME is given twice"),
        ("snapshots", "[{field: NAME}, {field: ID}, {field: NAME, direction: DESC}]", "sort[2]: NAME is given twice"),
        ("snapshots", "[{field: NAME}, {field: NAME, ignoreCase: true}]", "sort[1]: NAME is given twice"),
        ("machines", "[{field: ID}, {field: ID}]", "sort[1]: ID is given twice"),
        ("operations", "[{field: FINISHED_AT}, {field: FINISHED_AT}]", "sort[1]: FINISHED_AT is given twice"),
        *[
            ("snapshots", f"[{{field: {name}, ignoreCase: true}}]", f"sort[0]: ignoreCase is for text, and {name} is not")
            for name in ("ID", "STATE", "SIZE_BYTES", "CREATED_AT")
        ],
        *[
            ("machines", f"[{{field: {name}, ignoreCase: true}}]", f"sort[0]: ignoreCase is for text, and {name} is not")
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
        ("{ nope }", "GRAPHQL_VALIDATION_FAILED", "Cannot query field 'nope' on type 'Query'. Did you mean 'node' or 'nodes'?"),
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
    not_run(gateway, SNAPSHOTS, {"filter": deep(900, {})}, "BAD_USER_INPUT", "Variable values are nested too deeply.")


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


# ---- mutations


def refusal(code: str, message: str, *path: str, conflict: str | None = None) -> dict[str, Any]:
    return {
        "code": code,
        "message": message,
        "path": ["input", *path],
        "conflict": conflict and {"id": conflict},
    }


def invalid_id(text: str, *path: str) -> dict[str, Any]:
    return refusal("INVALID", f"{text!r} is not an id: {IDS}", *path)


NAMES = [
    ("", "the name is blank; it must have 1 to 255 characters"),
    (" \t\n\u3000", "the name is blank; it must have 1 to 255 characters"),
    ("x" * 256, "the name has 256 characters; at most 255 are allowed"),
    ("a\0b", "the name contains a NUL character"),
]


@pytest.mark.parametrize(("name", "message"), NAMES, ids=lambda text: ascii(text)[:12])
@pytest.mark.parametrize("machine", ["vm-11", "instance-201", "vm-999"])
def test_names(gateway: Served, machine: str, name: str, message: str) -> None:
    assert wish(gateway, CREATE, machineId=machine, name=name) == {
        "operation": None,
        "snapshot": None,
        "snapshotEdge": None,
        "machine": None,
        "errors": [refusal("INVALID", message, "name")],
    }
    assert wish(gateway, CREATE_SEVERAL, machineIds=[machine, "vm-11"], name=name) == {
        "acceptedCount": 0,
        "refusedCount": 0,
        "results": [],
        "errors": [refusal("INVALID", message, "name")],
    }


@pytest.mark.parametrize(
    ("more", "argument", "message"),
    [
        ({"description": "x" * 4001}, "description", "the description has 4001 characters; at most 4000 are allowed"),
        ({"description": "\0"}, "description", "the description contains a NUL character"),
        ({"idempotencyKey": ""}, "idempotencyKey", "the idempotency key has 0 characters; it must have 1 to 255"),
        ({"idempotencyKey": "k" * 256}, "idempotencyKey",
         "the idempotency key has 256 characters; it must have 1 to 255"),
        ({"idempotencyKey": "\0"}, "idempotencyKey", "the idempotency key contains a NUL character"),
    ],
    ids=["long description", "NUL in description", "empty key", "long key", "NUL in key"],
)  # fmt: skip
def test_descriptions_and_keys(gateway: Served, more: dict[str, str], argument: str, message: str) -> None:
    for mutation, input in (
        (CREATE, {"machineId": "vm-11", "name": "n"}),
        (CREATE_SEVERAL, {"machineIds": ["vm-11"], "name": "n"}),
        (REVERT, {"snapshotId": "snapshot-3"}),
        (DELETE, {"ids": ["snapshot-3"]}),
        (REFRESH, {"machineId": "vm-11"}),
    ):
        if argument == "description" and "name" not in input:
            continue
        assert wish(gateway, mutation, **input, **more)["errors"] == [refusal("INVALID", message, argument)]


# A text that is no id, and those of nothing or of something else.
MACHINES = [
    ("vm-x", invalid_id("vm-x", "machineId")),
    ("", invalid_id("", "machineId")),
    ("vm-999", refusal("NOT_FOUND", "there is no machine vm-999", "machineId")),
    ("vm-201", refusal("NOT_FOUND", "there is no machine vm-201", "machineId")),
    ("instance-11", refusal("NOT_FOUND", "there is no machine instance-11", "machineId")),
    ("snapshot-3", refusal("NOT_FOUND", "there is no machine snapshot-3", "machineId")),
    ("operation-1", refusal("NOT_FOUND", "there is no machine operation-1", "machineId")),
]
SNAPSHOT_IDS = [
    ("x", invalid_id("x", "snapshotId")),
    ("snapshot-", invalid_id("snapshot-", "snapshotId")),
    ("snapshot-999999", refusal("NOT_FOUND", "there is no snapshot snapshot-999999", "snapshotId")),
    ("vm-11", refusal("NOT_FOUND", "there is no snapshot vm-11", "snapshotId")),
    ("operation-1", refusal("NOT_FOUND", "there is no snapshot operation-1", "snapshotId")),
]


@pytest.mark.parametrize(("machine", "error"), MACHINES, ids=[machine or "empty" for machine, _ in MACHINES])
def test_machines(gateway: Served, machine: str, error: dict[str, Any]) -> None:
    nothing = {"operation": None, "machine": None, "errors": [error]}
    assert wish(gateway, REFRESH, machineId=machine) == nothing
    assert wish(gateway, CREATE, machineId=machine, name="n") == nothing | {"snapshot": None, "snapshotEdge": None}
    several = wish(gateway, CREATE_SEVERAL, machineIds=[machine, machine], name="n")
    at = [error | {"path": ["input", "machineIds", str(place)]} for place in range(2)]
    assert several == {
        "acceptedCount": 0,
        "refusedCount": 2,
        "results": [
            {"machineId": machine, "operation": None, "snapshot": None, "errors": [each]} for each in at
        ],
        "errors": [],
    }  # fmt: skip


@pytest.mark.parametrize(("snapshot", "error"), SNAPSHOT_IDS, ids=[snapshot for snapshot, _ in SNAPSHOT_IDS])
@pytest.mark.parametrize("dry", [False, True], ids=["", "dry"])
def test_snapshots(gateway: Served, snapshot: str, error: dict[str, Any], dry: bool) -> None:
    reverted = wish(gateway, REVERT, snapshotId=snapshot, dryRun=dry)
    assert reverted == {"operation": None, "vm": None, "snapshot": None, "errors": [error]}
    deleted = wish(gateway, DELETE, ids=[snapshot], dryRun=dry, withDescendants=True)
    assert deleted == {
        "acceptedCount": 0,
        "refusedCount": 1,
        "results": [
            {
                "snapshotId": snapshot,
                "isDescendant": False,
                "operation": None,
                "snapshot": None,
                "errors": [error | {"path": ["input", "ids", "0"]}],
            }
        ],
        "errors": [],
    }


@pytest.mark.parametrize("dry", [False, True], ids=["", "dry"])
def test_an_instance_is_not_reverted(gateway: Served, dry: bool) -> None:
    error = refusal("UNSUPPORTED", "only Vms can be reverted to a snapshot; an Instance cannot", "snapshotId")
    reverted = wish(gateway, REVERT, snapshotId="snapshot-7", dryRun=dry)
    assert reverted == {"operation": None, "vm": None, "snapshot": None, "errors": [error]}


def test_an_instance_has_no_memory_to_keep(gateway: Served) -> None:
    error = refusal("UNSUPPORTED", "this cloud does not save the memory of instances", "machineId")
    assert wish(gateway, CREATE, machineId="instance-201", name="n", memory=True)["errors"] == [error]


@pytest.mark.parametrize("count", [0, 101])
def test_too_few_and_too_many(gateway: Served, count: int) -> None:
    for mutation, argument, more in (
        (DELETE, "ids", {}),
        (DELETE, "ids", {"dryRun": True}),
        (CREATE_SEVERAL, "machineIds", {"name": "n"}),
    ):
        ids = [f"snapshot-{number}" for number in range(count)]
        message = f"`{argument}` has {count} ids; it must have 1 to 100"
        assert wish(gateway, mutation, **{argument: ids, **more}) == {
            "acceptedCount": 0,
            "refusedCount": 0,
            "results": [],
            "errors": [refusal("INVALID", message, argument)],
        }


def test_operations_to_cancel(gateway: Served) -> None:
    for text, error in (
        ("x", invalid_id("x", "operationId")),
        ("operation-999999", refusal("NOT_FOUND", "there is no operation operation-999999", "operationId")),
        ("vm-11", refusal("NOT_FOUND", "there is no operation vm-11", "operationId")),
        ("operation-1", refusal("CONFLICT", "operation-1 has already ended: SUCCEEDED", "operationId")),
    ):
        assert wish(gateway, CANCEL, operationId=text) == {"operation": None, "errors": [error]}


@pytest.mark.parametrize(
    ("mutation", "input", "place", "message"),
    [
        (CREATE, {"machineId": "vm-11"}, "", "to include required field 'name'"),
        (CREATE, {"machineId": "vm-11", "name": None}, ".name", "Expected value of non-null type 'String!'"),
        (CREATE, {"machineId": "vm-11", "name": 5}, ".name", "String cannot represent a non string value: 5"),
        (CREATE, {"machineId": "vm-11", "name": "n", "memory": None}, ".memory", "non-null type 'Boolean!'"),
        (CREATE, {"machineId": "vm-11", "name": "n", "nope": 1}, "", "unknown field 'nope'"),
        (DELETE, {"ids": None}, ".ids", "Expected value of non-null type '[ID!]!'"),
        (DELETE, {"ids": [None]}, ".ids[0]", "Expected value of non-null type 'ID!'"),
        (REVERT, {}, "", "to include required field 'snapshotId'"),
    ],
)
def test_inputs_of_a_wrong_type(
    gateway: Served, mutation: str, input: dict[str, Any], place: str, message: str
) -> None:
    body = gateway.post(mutation, {"input": input})
    (error,) = body["errors"]
    at = f" at {place}" if place else ""
    assert error["message"].startswith(f"Variable '$input' has invalid value{at}: ")
    assert message in error["message"]
    assert error["extensions"] == {"code": "BAD_USER_INPUT"}
    assert "data" not in body


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
