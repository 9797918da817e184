"""What tests of bad input share: how an answer looks that says no, and the words of it."""

from typing import Any

import orjson

from tests.serving import Served

IDS = "ids read like vm-11, instance-201, snapshot-3 or operation-7"

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


def literal(value: Any) -> str:
    """GraphQL's literal for JSON data."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {literal(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(literal, value)) + "]"
    return orjson.dumps(value).decode()


def nested(levels: int, bottom: dict[str, Any]) -> dict[str, Any]:
    """A filter inside so many `not`."""
    for _ in range(levels):
        bottom = {"not": bottom}
    return bottom
