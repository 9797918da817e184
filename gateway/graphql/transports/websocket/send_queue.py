"""The bounded queue of messages to send on one connection, so that a client that does not read cannot fill memory."""

import asyncio
from collections import deque


class QueueFull(Exception):
    """The client reads more slowly than messages are queued."""


class SendQueue:
    """A FIFO queue with limits on its messages and their bytes. Any task may `put`, only one may `take`."""

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._messages: deque[bytes] = deque()
        self._bytes = 0
        self._filled = asyncio.Event()

    def put(self, message: bytes) -> None:
        """Raises QueueFull. An empty queue takes a message of any size, as responses are limited by their cost."""
        full = len(self._messages) >= self._max_messages or self._bytes + len(message) > self._max_bytes
        if self._messages and full:
            raise QueueFull
        self._messages.append(message)
        self._bytes += len(message)
        self._filled.set()

    async def take(self, timeout: float) -> bytes | None:  # noqa: ASYNC109 - returns None instead of raising
        """Removes and returns the oldest message, or returns None if there was none for `timeout` seconds."""
        if not self._messages:
            self._filled.clear()
            try:
                async with asyncio.timeout(timeout):
                    await self._filled.wait()
            except TimeoutError:
                return None
        message = self._messages.popleft()
        self._bytes -= len(message)
        return message
