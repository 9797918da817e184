"""The errors of an invalid request are few and short, whatever the request contains."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.config import Settings
from gateway.errors import MAX_MESSAGE
from gateway.graphql.error_format import MAX_LOCATIONS
from gateway.graphql.execution.document_limits import (
    LENGTH_PER_TOKEN,
    MAX_ERRORS,
    MAX_VARIABLE_OBJECTS,
    MAX_VARIABLE_VALUES,
)
from tests.databases import Databases
from tests.serving import Served, served

MAX_TOKENS = Settings().max_tokens
MAX_ANSWER = (MAX_ERRORS + 1) * (4 * MAX_MESSAGE + 40 * MAX_LOCATIONS + 100)  # bytes
FILTER = "query ($f: MachineFilter) { vms(filter: $f) { totalCount } }"


@pytest.fixture(scope="module")
def gateway(databases: Databases) -> Iterator[Served]:
    with served(Settings(database_url=databases.new("sqlite", demo=True))) as gateway:
        yield gateway


def refused(gateway: Served, query: str, variables: Any = None) -> list[tuple[str, str]]:
    """The code and message of each error of a request that is not executed."""
    response = gateway.http.post("/graphql", json={"query": query, "variables": variables})
    assert len(response.content) <= MAX_ANSWER
    body = response.json()
    assert list(body) == ["errors"]
    assert len(body["errors"]) <= MAX_ERRORS + 1
    found = [(error["extensions"]["code"], error["message"]) for error in body["errors"]]
    assert all(len(message) <= MAX_MESSAGE for _, message in found)
    return found


def names(count: int, text: str) -> str:
    return " ".join(f"{text}{number}" for number in range(count))


def members(count: int, text: str) -> str:
    return " ".join(f"{text}{number}: 1" for number in range(count))


def repeated(count: int, item: str) -> str:
    return " ".join([item] * count)


def documents(count: int, text: str) -> dict[str, str]:
    """Invalid documents, by what is wrong `count` times. Their names begin with `text`."""
    few = min(count, 30)
    aliases = " ".join(f'a{number}: vms(first: "{text}") {{ totalCount }}' for number in range(few))
    filter_ = f"and: [{repeated(count, '{}')}] {members(MAX_ERRORS, text)}"
    return {
        "unknown members": f"{{ vms(filter: {{ {members(count, text)} }}) {{ totalCount }} }}",
        "unknown members of a large object": f"{{ vms(filter: {{ {filter_} }}) {{ totalCount }} }}",
        "unknown fields": f"{{ {names(count, text)} }}",
        "unknown fields of a type": f"{{ vms {{ nodes {{ {names(count, text)} }} }} }}",
        "unknown arguments": f"{{ vms({members(count, text)}) {{ totalCount }} }}",
        "unknown enum values": f"{{ vms(sort: [{repeated(count, f'{{field: {text}}}')}]) {{ totalCount }} }}",
        "wrong values": f"{{ {aliases} }}",
        "unknown fragments": f"{{ ...{names(count, text).replace(' ', ' ...')} }}",
        "unused variables": f"query (${names(count, text).replace(' ', ': Int $')}: Int) {{ __typename }}",
        "conflicts": f"{{ vms {{ nodes {{ {repeated(few, f'{text}: id {text}: name')} }} }} }}",
        "repeated arguments": f"{{ vm({repeated(count, f'{text}: 1')}) {{ id }} }}",
    }


@pytest.mark.parametrize("kind", documents(1, "x"))
@given(count=st.integers(25, 400), length=st.integers(1, 200))
@example(count=400, length=30)
@example(count=30, length=3_000)
def test_the_errors_of_a_document_are_limited(gateway: Served, kind: str, count: int, length: int) -> None:
    query = documents(count, "x" * length)[kind]
    if len(query) <= LENGTH_PER_TOKEN * MAX_TOKENS:
        assert {code for code, _ in refused(gateway, query)} == {"GRAPHQL_VALIDATION_FAILED"}


def test_a_short_literal_is_printed_whole(gateway: Served) -> None:
    ((_, message),) = refused(gateway, '{ vms(filter: {nope:{a:[1,2]} name:{eq:"x"}}) { totalCount } }')
    assert message == (
        "Expected value of type 'MachineFilter' not to include unknown field 'nope'. Did you mean 'name' or 'not'?"
        ' Found: { nope: { a: [1, 2] }, name: { eq: "x" } }.'
    )


def test_the_number_of_errors_is_the_limit_and_a_last_one(gateway: Served) -> None:
    found = refused(gateway, f"{{ {names(MAX_ERRORS, 'x')} }}")
    assert len(found) == MAX_ERRORS
    found = refused(gateway, f"{{ {names(MAX_ERRORS + 1, 'x')} }}")
    assert len(found) == MAX_ERRORS + 1
    assert found[-1][1] == "Too many validation errors, error limit reached. Validation aborted."


VARIABLES: dict[str, Callable[[int, str], Any]] = {
    "unknown members": lambda count, text: {f"{text}{n}": n for n in range(count)},
    "wrong types": lambda count, text: {"or": [{"name": {"eq": {text: n}}} for n in range(count)]},
    "unknown enum values": lambda count, text: {"kind": {"in": [f"{text}{n}" for n in range(count)]}},
    "wrong times": lambda count, text: {"or": [{"createdAt": {"gt": text}}] * count},
    "nulls": lambda count, _text: {"and": [None] * count},
}


@pytest.mark.parametrize("kind", VARIABLES)
@given(count=st.integers(25, 300), length=st.integers(1, 200))
@example(count=25, length=30_000)
def test_the_errors_of_variables_are_limited(gateway: Served, kind: str, count: int, length: int) -> None:
    assert {code for code, _ in refused(gateway, FILTER, {"f": VARIABLES[kind](count, "x" * length)})} == {
        "BAD_USER_INPUT"
    }


def test_the_length_of_a_document_is_limited(gateway: Served) -> None:
    length = LENGTH_PER_TOKEN * MAX_TOKENS
    text = "{ __typename } #"
    assert gateway.ask(text + "x" * (length - len(text))) == {"__typename": "Query"}
    message = f"The document has more than {length} characters."
    assert refused(gateway, text + "x" * (length - len(text) + 1)) == [("LIMIT_EXCEEDED", message)]


@pytest.mark.parametrize("end", ["\n", "\r"])
def test_the_lines_of_a_document_are_limited(gateway: Served, end: str) -> None:
    assert gateway.ask(end * MAX_TOKENS + "{ __typename }") == {"__typename": "Query"}
    message = f"The document has more than {MAX_TOKENS} lines."
    assert refused(gateway, end * (MAX_TOKENS + 1) + "{ __typename }") == [("LIMIT_EXCEEDED", message)]


@given(depth=st.integers(0, 3))
@example(depth=0)
def test_the_number_of_values_in_variables_is_limited(gateway: Served, depth: int) -> None:
    """`f` and each list and object count as values too."""
    query = "query ($f: SnapshotFilter) { snapshots(filter: $f) { totalCount } }"

    def value(count: int) -> Any:
        found: Any = {"name": {"in": ["x"] * count}}
        for _ in range(depth):
            found = {"and": [found]}
        return found

    others = 3 + 2 * depth  # `f`, `name` and `in`, and for each level `and` and its item
    assert gateway.ask(query, f=value(MAX_VARIABLE_VALUES - others)) == {"snapshots": {"totalCount": 0}}
    message = f"The variables have more than {MAX_VARIABLE_VALUES} values, including those in lists and objects."
    assert refused(gateway, query, {"f": value(MAX_VARIABLE_VALUES - others + 1)}) == [("LIMIT_EXCEEDED", message)]


def test_the_number_of_objects_in_variables_is_limited(gateway: Served) -> None:
    """The variables themselves and the filter are two."""
    items: list[dict[str, Any]] = [{}] * (MAX_VARIABLE_OBJECTS - 2)
    assert list(gateway.ask(FILTER, f={"and": items})) == ["vms"]
    message = f"The variables have more than {MAX_VARIABLE_OBJECTS} objects."
    assert refused(gateway, FILTER, {"f": {"and": [*items, {}]}}) == [("LIMIT_EXCEEDED", message)]


def test_the_error_of_a_long_operation_name_is_short(gateway: Served) -> None:
    body = gateway.post("{ __typename }", operationName="x" * 500_000)
    (error,) = body["errors"]
    assert len(error["message"]) == MAX_MESSAGE
