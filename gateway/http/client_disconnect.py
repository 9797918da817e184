"""Ends a read whose client has left, so that its SQL does not go on for nobody.

One look every now and then finds the reads that take long; only these are watched, so the others cost next to nothing.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

from gateway.http.body import ClientGone

T = TypeVar("T")

_LOOK_AFTER = 0.1  # seconds


class Reads:
    """Those that are under way."""

    def __init__(self) -> None:
        self._running: dict[asyncio.Task[Any], Receive] = {}
        self._watches: dict[asyncio.Task[Any], asyncio.Task[None]] = {}
        self._gone: set[asyncio.Task[Any]] = set()
        self._looks = False

    async def unless_gone(self, work: Coroutine[Any, Any, T], receive: Receive) -> T:
        """The result of `work`, which must change nothing. Raises ClientGone when the client leaves before."""
        task: Any = asyncio.current_task()
        self._running[task] = receive
        if not self._looks:
            self._looks = True
            asyncio.get_running_loop().call_later(_LOOK_AFTER, self._look)
        try:
            return await work
        except asyncio.CancelledError:
            if task in self._gone:
                raise ClientGone from None
            raise
        finally:
            del self._running[task]
            if watch := self._watches.pop(task, None):
                watch.cancel()
                self._gone.discard(task)

    def _look(self) -> None:
        for task, receive in self._running.items():
            if task not in self._watches:
                self._watches[task] = asyncio.create_task(self._watch(task, receive))
        self._looks = bool(self._running)
        if self._looks:
            asyncio.get_running_loop().call_later(_LOOK_AFTER, self._look)

    async def _watch(self, task: asyncio.Task[Any], receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._gone.add(task)
        task.cancel()
