"""Serializes large responses in slices, between which the event loop runs other tasks.

`orjson.dumps` takes about 1.5 ms for a megabyte and holds the event loop meanwhile. So a long list is serialized a few
items at a time: the slices become one `orjson.Fragment`, which takes the place of the list. Nothing else changes, so
the result is that of `orjson.dumps`. Freeing the items takes as long, so that is done in slices too.
"""

import asyncio
from typing import Any

import orjson

SLICE_BYTES = 200_000  # that are serialized without a pause
_SHORT = 16  # items of a list that is not sliced itself, but searched for long lists


async def dump_in_slices(value: Any, option: int = 0) -> bytes:
    """The JSON of a value, whose long lists are empty afterwards. `option` is that of orjson.

    Raises orjson.JSONEncodeError as `orjson.dumps` does. The value is then unchanged.
    """
    slices = _Slices(option)
    body = orjson.dumps(await slices.replace_lists(value), option=option)
    await slices.free_lists()
    return body


class _Slices:
    """Serializes the long lists of one value."""

    def __init__(self, option: int) -> None:
        self._option = option
        self._left = SLICE_BYTES  # until the next pause
        self._lists: list[tuple[list[Any], int]] = []  # those that were replaced, and the items of a slice

    async def replace_lists(self, value: Any) -> Any:
        """The value with a fragment in place of each long list."""
        if isinstance(value, dict):
            return {key: await self.replace_lists(member) for key, member in value.items()}
        if isinstance(value, list):
            if len(value) > _SHORT:
                return await self._fragment(value)
            return [await self.replace_lists(item) for item in value]
        return value

    async def _fragment(self, items: list[Any]) -> orjson.Fragment:
        """Begins with one item, because it is unknown how large they are."""
        slices, start, count = [], 0, 1
        while start < len(items):
            part = orjson.dumps(items[start : start + count], option=self._option)
            slices.append(part[1:-1])
            start += count
            count = max(1, min(4 * count, count * SLICE_BYTES // len(part)))
            self._left -= len(part)
            if self._left < 0:
                await asyncio.sleep(0)
                self._left = SLICE_BYTES
        self._lists.append((items, count))
        return orjson.Fragment(b"[" + b",".join(slices) + b"]")

    async def free_lists(self) -> None:
        """Empties the lists."""
        for items, count in self._lists:
            while items:
                del items[-count:]
                if items:
                    await asyncio.sleep(0)
