"""Loads once what several subscriptions need at the same time.

Subscriptions are in one group if their messages about the same changes are equal. Each member of a group asks for what
its source chose, with the key of the choice. The first one loads. Those that ask with an equal key meanwhile wait for
it, and those that ask later receive the same result, until a member asks with another key. So a group keeps one result
at most, and none when it has one member.

Example: 1,000 equal subscriptions, and a change. The first one reads the rows and renders the message; the other 999
send the same bytes.

When the load fails, all that wait receive the error. When the task that loads is canceled, because its client
disconnected, the next one that waits loads instead.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")


class Group(Generic[T]):
    """The members that share loads, and the last load."""

    def __init__(self) -> None:
        self.members = 0
        self._key: Hashable | None = None
        self._load: asyncio.Future[T] | None = None  # of that key

    async def load(self, key: Hashable | None, load: Callable[[], Awaitable[T]]) -> T:
        """The result of `load` by this or another member. `load` is always called if `key` is None."""
        if key is None:
            return await load()
        while self._load is not None and self._key == key:
            shared = self._load
            if not shared.done():
                await asyncio.wait([shared])
            if not shared.cancelled():
                return shared.result()
            if self._load is shared:
                self._load = None
        shared = asyncio.get_running_loop().create_future()
        self._key, self._load = key, shared
        try:
            result = await load()
        except Exception as error:
            shared.set_exception(error)
            shared.exception()  # is not reported as unread if no other member waits
            raise
        except BaseException:
            shared.cancel()
            raise
        finally:
            if self.members == 1 and self._load is shared:
                self._load = None
        shared.set_result(result)
        return result


class SharedLoads(Generic[T]):
    """The groups of all members."""

    def __init__(self) -> None:
        self._groups: dict[Hashable, Group[T]] = {}

    @contextmanager
    def member(self, group: Hashable) -> Iterator[Group[T]]:
        """Joins the group with this key while the block runs."""
        found = self._groups.setdefault(group, Group())
        found.members += 1
        try:
            yield found
        finally:
            found.members -= 1
            if not found.members:
                del self._groups[group]
