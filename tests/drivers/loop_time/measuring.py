"""Measures how long the event loop is held: by its own callbacks, and by threads that hold the interpreter.

The machine may be shared with other programs, so a callback is measured by the CPU time of its thread. A pause of the
loop is measured in real time, and includes what other programs do; the shortest of several attempts is closest.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from unittest.mock import patch

_TICK = 0.001  # seconds between two looks at the event loop


@dataclass(slots=True)
class Held:
    """`longest`: the CPU time of the longest callback. `pause`: the longest time without a callback of another task.

    `callbacks` is their number. Times are in seconds.
    """

    longest: float = 0.0
    pause: float = 0.0
    callbacks: int = 0


async def measured(call: Callable[[], Awaitable[object]]) -> tuple[Held, object]:
    """Awaits a call. What it has held, and its result or its error."""
    held, ended = Held(), asyncio.Event()
    run = asyncio.Handle._run  # noqa: SLF001 - what the event loop calls for each callback

    def timed(handle: asyncio.Handle) -> None:
        started = time.thread_time()
        run(handle)
        held.longest = max(held.longest, time.thread_time() - started)
        held.callbacks += 1

    async def watch() -> None:
        last = time.monotonic()
        while not ended.is_set():
            await asyncio.sleep(_TICK)
            now = time.monotonic()
            held.pause, last = max(held.pause, now - last - _TICK), now

    with patch.object(asyncio.Handle, "_run", timed):
        watching = asyncio.create_task(watch())
        await asyncio.sleep(2 * _TICK)
        try:
            result: object = await call()
        except Exception as error:  # noqa: BLE001 - it is shown
            result = error
        ended.set()
        await watching
    return held, result
