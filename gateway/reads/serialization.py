"""Serializes large responses in slices, between which the event loop runs other tasks.

`orjson.dumps` takes about 1.5 ms for a megabyte and holds the event loop meanwhile. So a long list is serialized a few
items at a time: the slices become one `orjson.Fragment`, which takes the place of the list. Nothing else changes, so
the result is that of `orjson.dumps`.
"""

import asyncio
from typing import Any

import orjson

SLICE_BYTES = 200_000  # that are serialized without a pause
_SHORT = 16  # items of a list that is not sliced itself, but searched for long lists


async def dump_in_slices(value: Any, option: int = 0) -> bytes:
    """The JSON of a value. `option` is that of orjson. Raises orjson.JSONEncodeError as `orjson.dumps` does."""
    return orjson.dumps(await _with_fragments(value, option), option=option)


async def _with_fragments(value: Any, option: int) -> Any:
    if isinstance(value, dict):
        return {key: await _with_fragments(member, option) for key, member in value.items()}
    if isinstance(value, list):
        if len(value) > _SHORT:
            return await _list_fragment(value, option)
        return [await _with_fragments(item, option) for item in value]
    return value


async def _list_fragment(items: list[Any], option: int) -> orjson.Fragment:
    """Begins with one item, because it is unknown how large they are."""
    slices, start, count = [], 0, 1
    while start < len(items):
        part = orjson.dumps(items[start : start + count], option=option)
        slices.append(part[1:-1])
        start += count
        count = max(1, min(2 * count, count * SLICE_BYTES // len(part)))
        await asyncio.sleep(0)
    return orjson.Fragment(b"[" + b",".join(slices) + b"]")
