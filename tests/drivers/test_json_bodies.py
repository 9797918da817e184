"""Tests the JSON parser of responses: it agrees with Python's, and takes what providers pass on from their users."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http_client.json_bodies import parse_json

_SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(st.characters(codec=None))
_VALUES = st.recursive(_SCALARS, lambda values: st.lists(values) | st.dictionaries(st.text(), values), max_leaves=20)


@given(_VALUES)
def test_it_agrees_with_pythons_parser(value: Any) -> None:
    """Texts may contain half surrogates, which orjson refuses."""
    assert parse_json(json.dumps(value).encode()) == value


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"name": "a\x01\nb"}', {"name": "a\x01\nb"}),
        (b'{"name": "a\xff\xfeb"}', {"name": "a\ufffd\ufffdb"}),
        (b'{"name": "\\ud800"}', {"name": "\ud800"}),
        (b'{"size": Infinity}', {"size": float("inf")}),
        (b'{"size": ' + b"7" * 1_000_000 + b"}", {"size": float("inf")}),
        (b'{"a": ' + b'{"b": [' * 5_000 + b"]}" * 5_000 + b', "name": "x"}', "x"),
        (b'{"a": ' + b"[" * 5_000 + b'"]\\"]"' + b"]" * 5_000 + b', "name": "x"}', "x"),
    ],
    ids=["control characters", "no UTF-8", "half a surrogate", "infinity", "1,000,000 digits", "deep", "deep texts"],
)
def test_odd_values_cost_no_other(body: bytes, value: Any) -> None:
    found = parse_json(body)
    assert (found if isinstance(value, dict) else found["name"]) == value


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b'{"a"', b'"', b"[" * 1_000_000, b'{"a": ' + b"[" * 5_000, b'"\\"' * 100_000]
)
def test_what_is_no_json_is_an_error(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_json(body)
