"""Cancels the SQL of a query whose client has disconnected.

Receiving `http.disconnect` takes a task per request. Most reads end within milliseconds, so only those that are still
running at a check, which runs every 0.1 s while there are any, get such a task.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

from gateway.deadlines import Watchdog
from gateway.http.body import ClientDisconnected

T = TypeVar("T")

_CHECK_INTERVAL = 0.1  # seconds


class DisconnectWatcher(Watchdog[Receive]):
    """Runs reads, and cancels those whose client has disconnected."""

    error = ClientDisconnected

    def __init__(self) -> None:
        super().__init__(_CHECK_INTERVAL)

    def run(self, work: Coroutine[Any, Any, T], receive: Receive) -> Coroutine[Any, Any, T]:
        """Await `work` and return its result. Raises ClientDisconnected when the client disconnects before it ends.

        `work` must change nothing, because it can be canceled at any point. The body must have been read, because
        `receive` is called from here on.
        """
        return self._run(work, receive)

    def _check(self) -> None:
        """Start a watch for each read that has none."""
        for task, receive in self._running.items():
            if task not in self._on_end:
                self._on_end[task] = asyncio.create_task(self._watch(task, receive)).cancel

    async def _watch(self, task: asyncio.Task[Any], receive: Receive) -> None:
        """Cancel `task` when the client disconnects."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self._cancel(task)
