"""Bounds of everything that tests wait for: a test fails instead of waiting without end."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 60.0  # seconds to wait before the test fails
_PAUSE = 0.005  # seconds between two looks at a condition, at least
_SHARE = 0.05  # of the time waited so far that the next pause takes at least, so that long waits cost little


def attempts(seconds: float = PATIENCE, *, pause: float = 0.0) -> Iterator[None]:
    """Yields, with a pause in seconds after each pass of the loop, until `seconds` have passed. Then fails."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        yield
        time.sleep(pause)
    raise AssertionError(f"The loop did not end within {seconds:g} seconds.")


def until(condition: Callable[[], T | None], seconds: float = PATIENCE, *, pause: float = _PAUSE) -> T:
    """Calls `condition` until its result is true, and returns the result. Fails after `seconds`."""
    begun = time.monotonic()

    def look() -> T | None:
        found = condition()
        if not found:
            time.sleep(max(pause, _SHARE * (time.monotonic() - begun)))
        return found

    return next(found for _ in attempts(seconds) if (found := look()))


async def until_async(
    condition: Callable[[], Awaitable[object] | object], seconds: float = PATIENCE, *, pause: float = _PAUSE
) -> None:
    """Calls `condition`, which may be async, until its result is true. Raises TimeoutError after `seconds`."""

    async def holds() -> object:
        found = condition()
        return await found if inspect.isawaitable(found) else found

    begun = time.monotonic()
    async with asyncio.timeout(seconds):
        while not await holds():  # noqa: ASYNC110 - a condition has no event
            await asyncio.sleep(max(pause, _SHARE * (time.monotonic() - begun)))


def at_most(number: int) -> Iterator[int]:
    """Yields 1 to `number`, then fails: for a loop that ends itself after fewer passes."""
    yield from range(1, number + 1)
    raise AssertionError(f"The loop did not end within {number} passes.")


def within(items: Iterable[T], seconds: float = PATIENCE) -> Iterator[T]:
    """The items of a stream, such as its lines. Fails when the test has waited for them for `seconds` in total.

    The timeout of the connection is no bound, because the pings of an open stream arrive in time.
    """
    waited, begun = 0.0, time.monotonic()
    for item in items:
        waited += time.monotonic() - begun
        assert waited < seconds, f"Waited for {waited:g} seconds. The last item is {item!r}."
        yield item
        begun = time.monotonic()
