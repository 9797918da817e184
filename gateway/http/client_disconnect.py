"""Cancels the SQL of a query whose client has disconnected.

Receiving `http.disconnect` takes a task per request. Most reads end within milliseconds, so only those that are still
running at a check, which runs every 0.1 s while there are any, get such a task.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

from gateway.http.body import ClientDisconnected

T = TypeVar("T")

_CHECK_INTERVAL = 0.1  # seconds


class DisconnectWatcher:
    """Runs reads, and cancels those whose client has disconnected."""

    def __init__(self) -> None:
        self._running: dict[asyncio.Task[Any], Receive] = {}
        self._watches: dict[asyncio.Task[Any], asyncio.Task[None]] = {}  # by the task of the read
        self._disconnected: set[asyncio.Task[Any]] = set()
        self._check_scheduled = False

    async def run(self, work: Coroutine[Any, Any, T], receive: Receive) -> T:
        """Returns the result of `work`. Raises ClientDisconnected when the client disconnects before it ends.

        `work` must change nothing, because it can be canceled at any point. The body must have been read, because
        `receive` is called from here on.
        """
        task: Any = asyncio.current_task()
        self._running[task] = receive
        if not self._check_scheduled:
            self._check_scheduled = True
            asyncio.get_running_loop().call_later(_CHECK_INTERVAL, self._check)
        try:
            return await work
        except asyncio.CancelledError:
            if task in self._disconnected:
                raise ClientDisconnected from None
            raise
        finally:
            del self._running[task]
            if watch := self._watches.pop(task, None):
                watch.cancel()
                self._disconnected.discard(task)

    def _check(self) -> None:
        """Starts a watch for each read that has none, and schedules the next check while any read runs."""
        for task, receive in self._running.items():
            if task not in self._watches:
                self._watches[task] = asyncio.create_task(self._watch(task, receive))
        self._check_scheduled = bool(self._running)
        if self._check_scheduled:
            asyncio.get_running_loop().call_later(_CHECK_INTERVAL, self._check)

    async def _watch(self, task: asyncio.Task[Any], receive: Receive) -> None:
        """Cancels `task` when the client disconnects."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self._disconnected.add(task)
        task.cancel()
