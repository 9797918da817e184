"""Malformed and modified cursors, and cursors of another sort, are refused."""

import base64
from typing import Any

import orjson
import pytest

from tests.graphql.error_assertions import SNAPSHOTS, assert_field_error
from tests.serving import Served

NO_CURSOR = "`after` is not a valid cursor."


def cursor(gateway: Served, sort: list[dict[str, str]] | None = None, **change: Any) -> list[Any]:
    """The decoded cursor of the first snapshot with the given sort."""
    query = "query ($sort: [SnapshotSort!]) { snapshots(sort: $sort, first: 1) { pageInfo { endCursor } } }"
    text = gateway.ask(query, sort=sort)["snapshots"]["pageInfo"]["endCursor"]
    values: list[Any] = orjson.loads(base64.b64decode(text))
    return values


def encoded(values: Any) -> str:
    return base64.b64encode(values if isinstance(values, bytes) else orjson.dumps(values)).decode()


@pytest.mark.parametrize(
    "text",
    ["", "x", "é", "====", "!!!!", "a b=", encoded(b"\xff\xfe"), encoded(b"not json"), encoded({}), encoded([]),
     encoded(None), encoded("text"), encoded([None]), encoded([[1]]), encoded([1.5]), "A" * 500_001],
    ids=lambda text: f"{len(text)} {text[:12]!a}",
)  # fmt: skip
@pytest.mark.parametrize("argument", ["after", "before"])
def test_malformed_cursor_is_refused(gateway: Served, argument: str, text: str) -> None:
    body = gateway.post(SNAPSHOTS, {argument: text})
    assert body["data"] is None
    (error,) = body["errors"]
    assert error["path"] == ["snapshots"]
    assert error["extensions"] == {"code": "BAD_USER_INPUT"}
    another = f"`{argument}` is a cursor of another sort. Pass the sort that the cursor came from."
    assert error["message"] in (f"`{argument}` is not a valid cursor.", another)


def test_cursor_with_added_or_missing_characters_is_refused(gateway: Served) -> None:
    good = encoded(cursor(gateway))
    assert gateway.ask(SNAPSHOTS, after=good)
    for bad in (good + "!", "\n" + good, good[:4] + " " + good[4:], good.rstrip("=") + "====", good[:-5]):
        assert_field_error(gateway, SNAPSHOTS, {"after": bad}, NO_CURSOR, ["snapshots"])


def test_cursor_of_another_sort_is_refused(gateway: Served) -> None:
    message = "`before` is a cursor of another sort. Pass the sort that the cursor came from."
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
                assert_field_error(gateway, SNAPSHOTS, {"before": text, "sort": other}, message, ["snapshots"])


MOMENTS: list[Any] = ["2026", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00.000000", "2026-01-01T00:00:00.000000+00:00",
           "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2026-02-30T00:00:00.000000Z", "now", "infinity",
           1, 1.5, None, True, [], {}]  # fmt: skip
NUMBERS: list[Any] = [None, True, "1", 1.5, 2**63, -(2**63) - 1, 10**30, [], {}]
TEXTS: list[Any] = [None, 1, True, [], {}, "\0"]


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
def test_cursor_with_invalid_values_is_refused(
    gateway: Served, sort: list[dict[str, str]], place: int, values: list[Any]
) -> None:
    good = cursor(gateway, sort)
    for value in values:
        bad = [value if number == place else kept for number, kept in enumerate(good)]
        text = base64.b64encode(_json(bad)).decode()
        assert_field_error(gateway, SNAPSHOTS, {"after": text, "sort": sort}, NO_CURSOR, ["snapshots"])
    for bad in (good[:-1], [*good, 1]):
        assert_field_error(gateway, SNAPSHOTS, {"after": encoded(bad), "sort": sort}, NO_CURSOR, ["snapshots"])


def _json(value: list[Any]) -> bytes:
    """Encodes integers of any size, which orjson does not support."""
    parts = [str(item).encode() if type(item) is int else orjson.dumps(item) for item in value]
    return b"[" + b",".join(parts) + b"]"


def test_cursor_with_extreme_values_is_accepted(gateway: Served) -> None:
    """A well-formed cursor denotes a position, even if no row ever had its values."""
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
    text = encoded([cursor(gateway, by_name)[0], "\U0010ffff" * 90_000, 1])
    assert gateway.ask(SNAPSHOTS, after=text, sort=by_name)["snapshots"]["nodes"] == []
