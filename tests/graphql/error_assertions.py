"""Assertions and data shared by tests of invalid input."""

from typing import Any

import orjson

from tests.serving import Served

IDS = "Ids look like vm-11, instance-201, snapshot-3 or operation-7."

SNAPSHOTS = (
    "query ($filter: SnapshotFilter, $sort: [SnapshotSort!], $first: Int, $after: String, $last: Int, $before: String,"
    " $offset: Int) { snapshots(filter: $filter, sort: $sort, first: $first, after: $after, last: $last,"
    " before: $before, offset: $offset) { nodes { id } } }"
)


def assert_field_error(gateway: Served, query: str, variables: dict[str, Any], message: str, path: list[Any]) -> None:
    """Asserts that the response has exactly this field error, and no data for the field."""
    body = gateway.post(query, variables)
    (error,) = body["errors"]
    assert error.pop("locations")
    assert error == {"message": message, "path": path, "extensions": {"code": "BAD_USER_INPUT"}}
    assert not body["data"] or body["data"] == {path[0]: None}


def assert_request_error(
    gateway: Served, query: str, variables: dict[str, Any] | None, code: str, message: str
) -> None:
    """Asserts that the request was not executed and has exactly this error."""
    body = gateway.post(query, variables)
    assert list(body) == ["errors"]
    (error,) = body["errors"]
    error.pop("locations", None)
    assert error == {"message": message, "extensions": {"code": code}}


def literal(value: Any) -> str:
    """JSON data as a GraphQL literal."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {literal(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(literal, value)) + "]"
    return orjson.dumps(value).decode()


def nested(levels: int, innermost: dict[str, Any]) -> dict[str, Any]:
    """A filter nested in `levels` objects `not`."""
    for _ in range(levels):
        innermost = {"not": innermost}
    return innermost
