"""Filters that make no sense are refused with the place of the fault, as variables and in the document alike."""

import re
from typing import Any, NamedTuple

import pytest

from tests.graphql.refusing import IDS, SNAPSHOTS, literal, nested, refused
from tests.serving import Served

NULL = (
    "null is not allowed inside a filter; leave the member out, or pass the whole filter as one variable"
    " (`isNull: true` finds what has no value)"
)
EMPTY = (
    "an operator is missing, such as {eq: …}; a variable that was left out leaves none:"
    " pass the whole filter as one variable"
)
UNFIT = "the text holds a NUL or half a surrogate pair, which no text here can"
BIG_INT = "a BigInt is a whole number of at most 64 bits, as a decimal string or a JSON integer"


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
    Fault(nested(33, {}), "filter" + ".not" * 33, "a filter may be nested at most 32 deep"),
    Fault(
        nested(31, {"name": {"eq": "x"}}), "filter" + ".not" * 31 + ".name.eq", "a filter may be nested at most 32 deep"
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


def test_the_largest_filters_that_are_taken(gateway: Served) -> None:
    everything = gateway.ask("{ snapshots { totalCount } }")["snapshots"]["totalCount"]
    count = "query ($filter: SnapshotFilter) { snapshots(filter: $filter) { totalCount } }"
    for taken, expected in (
        ({"or": [{"name": {"eq": "test-base"}}] * 249}, 1),
        (nested(32, {}), everything),
        (nested(30, {"name": {"eq": "test-base"}}), 1),
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
              "2026-01-01T00:00:00.Z", "2026-01-01T00:00:00.1234567890Z", "\uff12026-01-01T00:00:00Z"]  # fmt: skip
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
