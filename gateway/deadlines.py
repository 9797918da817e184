"""Time limits that cost less than `asyncio.timeout`.

`asyncio.timeout` schedules and cancels a timer for each call, which costs as much as a small read, although nearly all
calls end in time. A `Deadline` instead runs one periodic check for all tasks: every tenth of the limit it cancels those
that have exceeded it. All tasks have the same limit, so they expire in the order in which they started, and a check
stops at the first task that has time left. While no task runs, no check is scheduled.
"""

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

T = TypeVar("T")


class Deadline:
    """Cancels awaitables that run longer than `seconds`; cancellation comes up to 10 % later than that."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._expiries: dict[asyncio.Task[Any], float] = {}  # loop time at which each task expires, earliest first
        self._expired: set[asyncio.Task[Any]] = set()  # tasks that this object has canceled
        self._check_scheduled = False

    async def run(self, work: Awaitable[T]) -> T:
        """Returns the result of `work`. Raises TimeoutError when it exceeds the limit.

        A task may run only one awaitable at a time through the same `Deadline`.
        """
        task: Any = asyncio.current_task()
        loop = asyncio.get_running_loop()
        self._expiries[task] = loop.time() + self.seconds
        if not self._check_scheduled:
            self._check_scheduled = True
            loop.call_later(self.seconds / 10, self._check, loop)
        try:
            return await work
        except asyncio.CancelledError:
            if task in self._expired and task.uncancel() == 0:  # otherwise the task was also canceled from elsewhere
                raise TimeoutError from None
            raise
        finally:
            del self._expiries[task]
            self._expired.discard(task)

    def _check(self, loop: asyncio.AbstractEventLoop) -> None:
        """Cancels the tasks that have expired, and schedules the next check while any task runs."""
        now = loop.time()
        for task, expiry in self._expiries.items():
            if expiry > now:
                break
            if task not in self._expired:
                self._expired.add(task)
                task.cancel()
        self._check_scheduled = bool(self._expiries)
        if self._check_scheduled:
            loop.call_later(self.seconds / 10, self._check, loop)
