"""Measures how long the event loop is held: by its own callbacks, and by threads that hold the interpreter.

The machine may be shared with other programs, so a callback is measured by the CPU time of its thread. A pause of the
loop is measured in real time, and includes what other programs do; the shortest of several attempts is closest.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextvars import Context
from dataclasses import dataclass
from typing import TypeVarTuple

Ts = TypeVarTuple("Ts")

_TICK = 0.001  # seconds between two looks at the event loop


@dataclass(slots=True)
class Held:
    """`longest`: the CPU time of the longest callback. `pause`: the longest time without a callback of another task.

    `callbacks` is their number. Times are in seconds.
    """

    longest: float = 0.0
    pause: float = 0.0
    callbacks: int = 0


class TimedEventLoop(asyncio.SelectorEventLoop):
    """An event loop that measures its callbacks. A step of a task is one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.held = Held()

    def _timed(self, callback: Callable[[*Ts], object]) -> Callable[[*Ts], object]:
        def run(*args: *Ts) -> None:
            started = time.thread_time()
            callback(*args)
            self.held.longest = max(self.held.longest, time.thread_time() - started)
            self.held.callbacks += 1

        return run

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        return super().call_soon(self._timed(callback), *args, context=context)

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        return super().call_soon_threadsafe(self._timed(callback), *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return super().call_at(when, self._timed(callback), *args, context=context)


async def measured(call: Callable[[], Awaitable[object]]) -> tuple[Held, object]:
    """Awaits a call on a `TimedEventLoop`. What it has held, and its result or its error."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    assert isinstance(loop, TimedEventLoop)

    async def watch() -> None:
        last = time.monotonic()
        while not ended.is_set():
            await asyncio.sleep(_TICK)
            now = time.monotonic()
            held.pause, last = max(held.pause, now - last - _TICK), now

    loop.held = held = Held()
    watching = asyncio.create_task(watch())
    await asyncio.sleep(2 * _TICK)
    try:
        result: object = await call()
    except Exception as error:  # noqa: BLE001 - it is shown
        result = error
    ended.set()
    await watching
    return held, result
