"""Blocking calls of one provider's client library: in threads of its own, so that a hung provider starves no other.

A thread cannot be stopped. A call that is given up on keeps its slot until it returns, so there are never more threads
than slots; they end with the process.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from gateway.errors import OutcomeUnknown, ProviderUnavailable

T = TypeVar("T")


class Threads:
    """At most `slots` calls at a time. `patience`: seconds until a call is given up on, unless it says otherwise."""

    def __init__(self, slots: int, patience: float = 60.0) -> None:
        self._slots = asyncio.Semaphore(slots)
        self._patience = patience

    async def ask(self, function: Callable[..., T], *arguments: Any, patience: float | None = None) -> T:
        """Calls what changes nothing. Raises ProviderUnavailable when it takes too long."""
        try:
            async with asyncio.timeout(patience or self._patience):
                return await self._call(function, arguments)
        except TimeoutError:
            raise ProviderUnavailable("the provider did not answer in time") from None

    async def tell(self, function: Callable[..., T], *arguments: Any, patience: float | None = None) -> T:
        """Calls what changes something. Raises OutcomeUnknown when it takes too long; `inf` waits for ever."""
        begun = False

        def call() -> T:
            nonlocal begun
            begun = True
            return function(*arguments)

        try:
            async with asyncio.timeout(patience or self._patience):
                return await self._call(call, ())
        except TimeoutError:
            if begun:
                raise OutcomeUnknown("the provider did not answer in time") from None
            raise ProviderUnavailable("the provider is busy with other work") from None

    async def _call(self, function: Callable[..., T], arguments: tuple[Any, ...]) -> T:
        await self._slots.acquire()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def settle(result: T | None, error: BaseException | None) -> None:
            self._slots.release()
            if not answer.done():  # else nobody waits any more
                answer.set_exception(error) if error is not None else answer.set_result(result)  # type: ignore[arg-type]

        def run() -> None:
            result, error = None, None
            try:
                result = function(*arguments)
            except BaseException as caught:  # noqa: BLE001 - raised again where the call is awaited
                error = caught
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(settle, result, error)

        threading.Thread(target=run, name="provider", daemon=True).start()
        return await answer
