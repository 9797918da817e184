"""Serializing in slices gives the bytes of `orjson.dumps`, and lets other tasks run."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.reads.serialization import SLICE_BYTES, dump_in_slices

OPTION = orjson.OPT_UTC_Z
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.text(max_size=5),
    st.just(datetime(2026, 1, 1, tzinfo=UTC)),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=40),
        st.dictionaries(st.text(max_size=3), inner, max_size=4),
        inner.map(lambda one: [one] * 50),
    ),
    max_leaves=10,
)


@given(value=VALUES)
def test_the_bytes_are_those_of_orjson(value: Any) -> None:
    expected = orjson.dumps(value, option=OPTION)
    assert asyncio.run(dump_in_slices(value, OPTION)) == expected


def test_other_tasks_run_between_the_slices() -> None:
    row = {"name": "x" * 1_000, "inner": [{"id": str(number)} for number in range(20)]}
    value = {"data": {"list": {"nodes": [row] * 3_000}}}
    expected = orjson.dumps(value)
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        for _ in range(1_000_000):
            await asyncio.sleep(0)
            turns += 1

    async def dump() -> bytes:
        counting = asyncio.create_task(count_turns())
        try:
            return await dump_in_slices(value)
        finally:
            counting.cancel()

    body = asyncio.run(dump())
    assert body == expected
    assert turns >= len(body) // (2 * SLICE_BYTES)


def test_a_value_that_is_no_json_is_an_error() -> None:
    value = {"first": [1] * 50, "a": [[{"b": [object()] * 20}]]}
    with pytest.raises(orjson.JSONEncodeError):
        asyncio.run(dump_in_slices(value))
    assert value["first"] == [1] * 50
