"""Canceling running tasks at a cost below that of `asyncio.timeout`.

`asyncio.timeout` schedules and cancels a timer for each call, which costs as much as a small read, although nearly all
calls end in time. A `Watchdog` instead runs one periodic check for all of its tasks, and none while no task runs. What
it checks is the part of its subclasses: `Deadline` a time limit, `http.client_disconnect` the client's connection.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from time import monotonic
from typing import Any, Generic, TypeVar

T = TypeVar("T")
S = TypeVar("S")


class Watchdog(Generic[S]):
    """Cancels running awaitables when a check finds a reason to, and raises `error` in place of the cancellation.

    `_check` is called every `interval` seconds while any awaitable runs.
    """

    error: type[Exception]

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._running: dict[asyncio.Task[Any], S] = {}  # what a check needs to know of each task, in order of the start
        self._canceled: set[asyncio.Task[Any]] = set()  # tasks that this object has canceled
        self._on_end: dict[asyncio.Task[Any], Callable[[], object]] = {}  # called when the awaitable has ended
        self._check_scheduled = False

    async def _run(self, work: Awaitable[T], state: S) -> T:
        """Return the result of `work`. Raises `error` when the watchdog cancels it.

        A task may run only one awaitable at a time through the same watchdog.
        """
        task: Any = asyncio.current_task()
        self._running[task] = state
        if not self._check_scheduled:
            self._schedule_check()
        try:
            return await work
        except asyncio.CancelledError:
            if task in self._canceled and task.uncancel() == 0:  # otherwise the task was also canceled from elsewhere
                raise self.error from None
            raise
        finally:
            del self._running[task]
            self._canceled.discard(task)
            if self._on_end and (on_end := self._on_end.pop(task, None)):
                on_end()

    def _cancel(self, task: asyncio.Task[Any]) -> None:
        """Cancel a task, once, if its awaitable has not ended."""
        if task in self._running and task not in self._canceled:
            self._canceled.add(task)
            task.cancel()

    def _check(self) -> None:
        """Cancel the tasks that should not go on."""
        raise NotImplementedError

    def _schedule_check(self) -> None:
        self._check_scheduled = True
        asyncio.get_running_loop().call_later(self._interval, self._check_running)

    def _check_running(self) -> None:
        self._check_scheduled = False
        self._check()
        if self._running:
            self._schedule_check()


class Deadline(Watchdog[float]):
    """Cancels awaitables that run longer than `seconds`; cancellation comes up to 10 % later than that."""

    error = TimeoutError

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds / 10)
        self.seconds = seconds

    def run(self, work: Awaitable[T]) -> Coroutine[Any, Any, T]:
        """Await `work` and return its result. Raises TimeoutError when it exceeds the limit, which begins now.

        A task may run only one awaitable at a time through the same `Deadline`.
        """
        return self._run(work, monotonic() + self.seconds)

    def _check(self) -> None:
        """Cancel the tasks that have expired. All have the same limit, so those that started first expire first."""
        now = monotonic()
        for task, expires_at in self._running.items():
            if expires_at > now:
                break
            self._cancel(task)
