"""Messages about values show them as the client sent them: as JSON, not as Python."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.graphql.input_messages import json_text
from tests.serving import Served

SNAPSHOTS = (
    "query ($filter: SnapshotFilter, $sort: [SnapshotSort!], $first: Int)"
    " { snapshots(filter: $filter, sort: $sort, first: $first) { totalCount } }"
)
NULL = "Expected value of non-null type '{}' not to be null."


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"filter": {"and": [None]}}, f"at .and[0]: {NULL.format('SnapshotFilter!')}"),
        ({"sort": [None]}, f"at [0]: {NULL.format('SnapshotSort!')}"),
        ({"filter": {"memory": {"eq": "it's"}}}, 'Boolean cannot represent a non boolean value: "it\'s"'),
        ({"filter": {"memory": {"eq": "é\n"}}}, 'Boolean cannot represent a non boolean value: "é\\n"'),
        ({"filter": {"memory": {"eq": []}}}, "Boolean cannot represent a non boolean value: []"),
        ({"filter": {"memory": {"eq": [None, True, {"a": {"b": [1]}}]}}},
         'Boolean cannot represent a non boolean value: [null, true, {"a": {...}}]'),
        ({"filter": {"memory": {"eq": "x" * 300}}},
         f'Boolean cannot represent a non boolean value: "{"x" * 236}...'),
        ({"first": True}, "Int cannot represent non-integer value: true"),
        ({"first": 1.5}, "Int cannot represent non-integer value: 1.5"),
        ({"first": {"a": None}}, 'Int cannot represent non-integer value: {"a": null}'),
        ({"filter": {"state": {"eq": False}}}, "Enum 'SnapshotState' cannot represent non-string value: false."),
        ({"filter": {"createdAt": {"eq": True}}}, "; found: true."),
        ({"filter": {"sizeBytes": {"eq": [1] * 11}}}, "; found: [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, ...]."),
        ({"filter": [{"name": None}, True]}, "to be an object, found: [{\"name\": null}, true]."),
        ({"filter": {"name": {"eq": "None"}, "None": None}}, "not to include unknown field 'None'"),
        ({"sort": [{"nulls": "FIRST"}]}, 'to include required field \'field\', found: {"nulls": "FIRST"}.'),
    ],
)  # fmt: skip
def test_values_are_shown_as_json(gateway: Served, variables: dict[str, Any], message: str) -> None:
    ((code, found),) = gateway.errors(SNAPSHOTS, **variables)
    assert code == "BAD_USER_INPUT"
    assert message in found
    assert "found: {'" not in found


def test_a_text_that_reads_as_python_is_not_changed(gateway: Served) -> None:
    ((_, message),) = gateway.errors(SNAPSHOTS, filter={"state": {"eq": "not to be None."}})
    assert message == (
        "Variable '$filter' has invalid value at .state.eq: Value 'not to be None.' does not exist in 'SnapshotState'"
        " enum."
    )


SHORT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | SHORT
SHALLOW = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SHORT, inner, max_size=3))


def _depth(value: Any) -> int:
    match value:
        case list():
            return 1 + max(map(_depth, value), default=0)
        case dict():
            return 1 + max(map(_depth, value.values()), default=0)
        case _:
            return 0


@given(SHALLOW.filter(lambda value: _depth(value) <= 2))
def test_a_short_value_is_shown_in_full(value: Any) -> None:
    assert json.loads(json_text(value)) == value
