"""Time limits that cost next to nothing: one look every now and then finds what is late. `asyncio.timeout` costs as
much as a small read does, and nearly everything ends in time.
"""

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

T = TypeVar("T")


class Deadline:
    """Ends what takes longer than `seconds`, by up to a tenth of that later."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._until: dict[asyncio.Task[Any], float] = {}  # in the order of their ends
        self._late: set[asyncio.Task[Any]] = set()
        self._looks = False

    async def keep(self, work: Awaitable[T]) -> T:
        """The result of `work`. Raises TimeoutError when that is late. A task keeps one at a time."""
        task: Any = asyncio.current_task()
        loop = asyncio.get_running_loop()
        self._until[task] = loop.time() + self.seconds
        if not self._looks:
            self._looks = True
            loop.call_later(self.seconds / 10, self._look, loop)
        try:
            return await work
        except asyncio.CancelledError:
            if task in self._late and task.uncancel() == 0:  # else somebody else has canceled it too
                raise TimeoutError from None
            raise
        finally:
            del self._until[task]
            self._late.discard(task)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for task, until in self._until.items():
            if until > now:
                break
            if task not in self._late:
                self._late.add(task)
                task.cancel()
        self._looks = bool(self._until)
        if self._looks:
            loop.call_later(self.seconds / 10, self._look, loop)
