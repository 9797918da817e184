"""The answers that have no end of their own, SSE and WebSocket, and how they end when the server stops."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Streams:
    """Knows every open stream. A server that stops must call `close` before it closes the connections themselves."""

    def __init__(self) -> None:
        self._ends: dict[object, Callable[[], None]] = {}
        self._closing = False
        self._empty: asyncio.Event | None = None

    def __len__(self) -> int:
        return len(self._ends)

    @contextmanager
    def opened(self, end: Callable[[], None]) -> Iterator[None]:
        """Counts a stream as open; `end` asks it to stop, and is called at once if the server already stops."""
        key = object()
        self._ends[key] = end
        try:
            if self._closing:
                end()
            yield
        finally:
            del self._ends[key]
            if self._empty is not None and not self._ends:
                self._empty.set()

    async def close(self, timeout: float = 2.0) -> None:  # noqa: ASYNC109 - what is still open then is not waited for
        """Asks every stream to stop, those that open from now on too, and waits until they have."""
        self._closing = True
        self._empty = asyncio.Event()
        for end in list(self._ends.values()):
            end()
        if self._ends:
            try:
                async with asyncio.timeout(timeout):
                    await self._empty.wait()
            except TimeoutError:
                pass
