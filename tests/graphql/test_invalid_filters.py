"""Invalid filters are refused with the path of the error, both as variables and as literals in the document."""

import re
from typing import Any, NamedTuple

import pytest

from tests.graphql.error_assertions import IDS, SNAPSHOTS, assert_field_error, literal, nested
from tests.serving import Served

NULL = (
    "Null is not allowed inside a filter. Omit the member, or pass the whole filter as one variable."
    " To find rows without a value, use `isNull: true`."
)
EMPTY = (
    "An operator is missing, such as {eq: …}. If its value is a variable that may be omitted, pass the whole filter"
    " as one variable."
)
UNFIT = "A text must not contain NUL or an unpaired surrogate."
BIG_INT = "A BigInt must be an integer of at most 64 bits, as a decimal string or a JSON integer."


class InvalidFilter(NamedTuple):
    filter: dict[str, Any]
    place: str
    message: str


INVALID_FILTERS = [
    InvalidFilter({"name": None}, "filter.name", NULL),
    InvalidFilter({"not": None}, "filter.not", NULL),
    InvalidFilter({"and": None}, "filter.and", NULL),
    InvalidFilter({"or": None}, "filter.or", NULL),
    InvalidFilter({"machine": None}, "filter.machine", NULL),
    InvalidFilter({"name": {"eq": None}}, "filter.name.eq", NULL),
    InvalidFilter({"name": {"in": None}}, "filter.name.in", NULL),
    InvalidFilter({"name": {"eq": "x", "isNull": None}}, "filter.name.isNull", NULL),
    InvalidFilter({"sizeBytes": {"gt": None}}, "filter.sizeBytes.gt", NULL),
    InvalidFilter({"createdAt": {"lte": None}}, "filter.createdAt.lte", NULL),
    InvalidFilter({"state": {"ne": None}}, "filter.state.ne", NULL),
    InvalidFilter({"memory": {"eq": None}}, "filter.memory.eq", NULL),
    InvalidFilter({"parentId": {"eq": None}}, "filter.parentId.eq", NULL),
    InvalidFilter({"and": [{}, {"name": {"eq": None}}]}, "filter.and[1].name.eq", NULL),
    InvalidFilter({"or": [{"not": {"name": None}}]}, "filter.or[0].not.name", NULL),
    InvalidFilter({"machine": {"host": {"eq": None}}}, "filter.machine.host.eq", NULL),
    InvalidFilter({"machine": {"someSnapshot": {"name": None}}}, "filter.machine.someSnapshot.name", NULL),
    InvalidFilter({"name": {}}, "filter.name", EMPTY),
    InvalidFilter({"name": {"ignoreCase": True}}, "filter.name", EMPTY),
    InvalidFilter({"name": {"ignoreCase": False}}, "filter.name", EMPTY),
    InvalidFilter({"id": {}}, "filter.id", EMPTY),
    InvalidFilter({"state": {}}, "filter.state", EMPTY),
    InvalidFilter({"memory": {}}, "filter.memory", EMPTY),
    InvalidFilter({"sizeBytes": {}}, "filter.sizeBytes", EMPTY),
    InvalidFilter({"createdAt": {}}, "filter.createdAt", EMPTY),
    InvalidFilter({"machine": {"snapshotCount": {}}}, "filter.machine.snapshotCount", EMPTY),
    InvalidFilter(
        {"name": {"like": "a\\b"}}, "filter.name.like", "A backslash is only allowed before `*` or another backslash."
    ),
    InvalidFilter(
        {"name": {"like": "*\\"}}, "filter.name.like", "A backslash is only allowed before `*` or another backslash."
    ),
    InvalidFilter({"name": {"like": "*" * 17}}, "filter.name.like", "A pattern may have at most 16 wildcards `*`."),
    InvalidFilter({"name": {"eq": "a\0"}}, "filter.name.eq", UNFIT),
    InvalidFilter({"name": {"in": ["a", "\0"]}}, "filter.name.in[1]", UNFIT),
    InvalidFilter({"name": {"contains": "\0", "ignoreCase": True}}, "filter.name.contains", UNFIT),
    InvalidFilter({"name": {"like": "\0*"}}, "filter.name.like", UNFIT),
    InvalidFilter(
        {"name": {"startsWith": "x" * 4001}}, "filter.name.startsWith", "A text may have at most 4000 characters."
    ),
    InvalidFilter({"id": {"eq": "x"}}, "filter.id.eq", f"'x' is not an id. {IDS}"),
    InvalidFilter({"id": {"in": ["snapshot-3", "3"]}}, "filter.id.in[1]", f"'3' is not an id. {IDS}"),
    InvalidFilter({"machineId": {"notIn": [""]}}, "filter.machineId.notIn[0]", f"'' is not an id. {IDS}"),
    InvalidFilter(
        {"or": [{"name": {"eq": "x"}}] * 250}, "filter.or[249].name.eq", "A filter may have at most 500 conditions."
    ),
    InvalidFilter(nested(33, {}), "filter" + ".not" * 33, "A filter may be nested at most 32 levels deep."),
    InvalidFilter(
        nested(31, {"name": {"eq": "x"}}),
        "filter" + ".not" * 31 + ".name.eq",
        "A filter may be nested at most 32 levels deep.",
    ),
]
INVALID_FILTER_IDS = [f"{number} {invalid.place[:40]}" for number, invalid in enumerate(INVALID_FILTERS)]


@pytest.mark.parametrize("invalid", INVALID_FILTERS, ids=INVALID_FILTER_IDS)
def test_invalid_filter_as_variable(gateway: Served, invalid: InvalidFilter) -> None:
    message = f"{invalid.place}: {invalid.message}"
    assert_field_error(gateway, SNAPSHOTS, {"filter": invalid.filter}, message, ["snapshots"])


@pytest.mark.parametrize("invalid", INVALID_FILTERS, ids=INVALID_FILTER_IDS)
def test_invalid_filter_as_literal(gateway: Served, invalid: InvalidFilter) -> None:
    query = f"{{ snapshots(filter: {literal(invalid.filter)}) {{ nodes {{ id }} }} }}"
    assert_field_error(gateway, query, {}, f"{invalid.place}: {invalid.message}", ["snapshots"])


def test_filters_at_the_limits_are_accepted(gateway: Served) -> None:
    everything = gateway.ask("{ snapshots { totalCount } }")["snapshots"]["totalCount"]
    count = "query ($filter: SnapshotFilter) { snapshots(filter: $filter) { totalCount } }"
    for accepted, expected in (
        ({"or": [{"name": {"eq": "test-base"}}] * 249}, 1),
        (nested(32, {}), everything),
        (nested(30, {"name": {"eq": "test-base"}}), 1),
        ({"name": {"in": ["test-base", *["x"] * 5000]}}, 1),
        ({"name": {"notIn": []}}, everything),
        ({"name": {"like": "*" * 16}}, everything),
        ({"name": {"startsWith": "x" * 4000}}, 0),
    ):
        assert gateway.ask(count, filter=accepted) == {"snapshots": {"totalCount": expected}}


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
         "A backslash is only allowed before `*` or another backslash."),
    ],
)  # fmt: skip
def test_null_or_omitted_variables_inside_a_filter(
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
    assert_field_error(gateway, query, variables, f"{place}: {message}", ["snapshots"])


def test_omitted_filter_or_member_is_no_condition(gateway: Served) -> None:
    """In GraphQL an omitted variable omits the member. Only an object without an operator is refused."""
    query = "query ($filter: SnapshotFilter, $name: StringFilter) { a: snapshots(filter: $filter) { totalCount }"
    query += " b: snapshots(filter: {name: $name}) { totalCount } c: snapshots(filter: null) { totalCount } }"
    assert [part["totalCount"] for part in gateway.ask(query).values()] == [286, 286, 286]


@pytest.mark.parametrize(
    ("filter", "place", "message"),
    [
        ({"nope": 1}, "", "Expected value of type 'SnapshotFilter' not to include unknown field 'nope'."),
        ({"name": "x"}, ".name", "Expected value of type 'StringFilter' to be an object"),
        ({"name": {"in": [None]}}, ".name.in[0]", "Expected value of non-null type 'String!' not to be null."),
        ({"and": [None]}, ".and[0]", "Expected value of non-null type 'SnapshotFilter!' not to be null."),
        ({"name": {"eq": 5}}, ".name.eq", "String cannot represent a non string value: 5"),
        ({"name": {"eq": "x", "ignoreCase": None}}, ".name.ignoreCase",
         "Expected value of non-null type 'Boolean!' not to be null."),
        ({"memory": {"eq": "true"}}, ".memory.eq", "Boolean cannot represent a non boolean value: \"true\""),
        ({"state": {"eq": "READYY"}}, ".state.eq", "Value 'READYY' does not exist in 'SnapshotState' enum."),
        ({"state": {"in": ["ready"]}}, ".state.in[0]", "Value 'ready' does not exist in 'SnapshotState' enum."),
    ],
    ids=str,
)  # fmt: skip
def test_filter_of_wrong_type_is_refused(gateway: Served, filter: dict[str, Any], place: str, message: str) -> None:
    body = gateway.post(SNAPSHOTS, {"filter": filter})
    (error,) = body["errors"]
    at = f" at {place}" if place else ""
    assert error["message"].startswith(f"Variable '$filter' has invalid value{at}: {message}")
    assert error["extensions"] == {"code": "BAD_USER_INPUT"}
    assert "data" not in body


# ---- scalars

INVALID_DATE_TIMES = ["", "now", "2026", "2026-01-01", "2026-01-01T00:00:00", "2026-01-01 00:00:00Z",
              "2026-01-01T00:00Z",
              "2026-13-01T00:00:00Z", "2026-01-01T25:00:00Z", "2026-02-30T00:00:00Z", "2026-01-01T00:00:00+25:00",
              "2026-01-01T00:00:60Z", "0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00",
              "2026-01-01T00:00:00.Z", "2026-01-01T00:00:00.1234567890Z", "\uff12026-01-01T00:00:00Z"]  # fmt: skip
INVALID_BIG_INTS = [
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
        ("createdAt", [*INVALID_DATE_TIMES, 1, 1.5, True], "DateTime"),
        ("sizeBytes", INVALID_BIG_INTS, "BigInt"),
    ],
)
def test_invalid_scalars_are_refused(gateway: Served, field: str, values: list[Any], scalar: str) -> None:
    for value in values:
        for variables, query, code in (
            ({"filter": {field: {"eq": value}}}, SNAPSHOTS, "BAD_USER_INPUT"),
            ({}, f"{{ snapshots(filter: {literal({field: {'eq': value}})}) {{ nodes {{ id }} }} }}",
             "GRAPHQL_VALIDATION_FAILED"),
        ):  # fmt: skip
            body = gateway.post(query, variables)
            (error,) = body["errors"]
            assert f"Expected value of type '{scalar}', but encountered error 'A {scalar} " in error["message"], value
            assert error["extensions"] == {"code": code}
            assert error["locations"]
            assert "data" not in body


def test_big_int_literals(gateway: Served) -> None:
    query = "{ snapshots(filter: {sizeBytes: {gt: %s}}) { totalCount } }"
    for number, found in (("9223372036854775807", 0), ("-9223372036854775808", 286), ('"0"', 286), ("-0", 286)):
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
def test_accepted_date_time_formats(gateway: Served, moment: str, found: int) -> None:
    query = "query ($filter: SnapshotFilter) { snapshots(filter: $filter) { totalCount } }"
    assert gateway.ask(query, filter={"createdAt": {"gt": moment}}) == {"snapshots": {"totalCount": found}}
