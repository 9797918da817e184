"""Messages that wait to be sent on one connection: bounded, because not every client reads."""

import asyncio
from collections import deque


class Overflow(Exception):
    """The client reads too slowly."""


class SendQueue:
    """First in, first out. One task takes, any put."""

    def __init__(self, messages: int, size: int) -> None:
        self._messages = messages
        self._size = size
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._filled = asyncio.Event()

    def put(self, message: bytes) -> None:
        """Raises Overflow. A single message may be of any size: it is bounded where it is made."""
        if self._waiting and (len(self._waiting) >= self._messages or self._bytes + len(message) > self._size):
            raise Overflow
        self._waiting.append(message)
        self._bytes += len(message)
        self._filled.set()

    async def take(self, timeout: float) -> bytes | None:  # noqa: ASYNC109 - None tells that nothing came in time
        """The oldest message, or None if there was none for `timeout` seconds."""
        if not self._waiting:
            self._filled.clear()
            try:
                async with asyncio.timeout(timeout):
                    await self._filled.wait()
            except TimeoutError:
                return None
        message = self._waiting.popleft()
        self._bytes -= len(message)
        return message
