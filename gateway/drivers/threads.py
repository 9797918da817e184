"""Runs the blocking calls of one provider's client library in its own threads, so that a hung provider blocks no other.

A thread cannot be stopped. A call that timed out keeps its slot until it returns, so there are never more threads than
slots. The threads are daemons: they end with the process.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from gateway.errors import OutcomeUnknown, ProviderUnavailable

T = TypeVar("T")


class Threads:
    """Runs at most `slots` calls concurrently. `timeout`: default timeout of a call, in seconds."""

    def __init__(self, slots: int, timeout: float = 60.0) -> None:
        self._slots = asyncio.Semaphore(slots)
        self._timeout = timeout

    async def read(self, function: Callable[..., T], *arguments: Any, time_limit: float | None = None) -> T:
        """Runs a call that changes nothing. Raises ProviderUnavailable on timeout.

        `time_limit` overrides the default timeout, in seconds.
        """
        try:
            async with asyncio.timeout(time_limit or self._timeout):
                return await self._call(function, arguments)
        except TimeoutError:
            raise ProviderUnavailable("The provider did not answer in time.") from None

    async def write(self, function: Callable[..., T], *arguments: Any, time_limit: float | None = None) -> T:
        """Runs a call that changes something. A timeout of `inf` waits without limit.

        Raises OutcomeUnknown if the call times out after it started, and ProviderUnavailable if it times out before,
        while it waits for a slot.
        """
        started = False

        def call() -> T:
            nonlocal started
            started = True
            return function(*arguments)

        try:
            async with asyncio.timeout(time_limit or self._timeout):
                return await self._call(call, ())
        except TimeoutError:
            if started:
                raise OutcomeUnknown("The provider did not answer in time.") from None
            raise ProviderUnavailable("The provider is busy with other operations.") from None

    async def _call(self, function: Callable[..., T], arguments: tuple[Any, ...]) -> T:
        await self._slots.acquire()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def settle(result: T | None, error: BaseException | None) -> None:
            self._slots.release()
            if not answer.done():  # else the caller has timed out or was canceled
                answer.set_exception(error) if error is not None else answer.set_result(result)  # type: ignore[arg-type]

        def run() -> None:
            result, error = None, None
            try:
                result = function(*arguments)
            except BaseException as caught:  # noqa: BLE001 - re-raised where the call is awaited
                error = caught
            with contextlib.suppress(RuntimeError):  # the event loop is closed, so no caller waits
                loop.call_soon_threadsafe(settle, result, error)

        threading.Thread(target=run, name="provider", daemon=True).start()
        return await answer
