"""The bounded queue of messages to send on one connection, so that a client that does not read cannot fill memory."""

import asyncio
from collections import deque
from collections.abc import Callable

_ALWAYS_HELD = 65_536  # bytes of a message that is reported even if no other message waits


class QueueFull(Exception):
    """The client reads more slowly than messages are queued."""


class SendQueue:
    """A FIFO queue with limits on its messages and their bytes. Any task may `put`, only one may `take`.

    `hold` is called with the size of each message that must wait, and with the negative size when the next one is taken
    after it, because it has been written then. The queue of a client that reads in time has no such messages.
    """

    def __init__(self, max_messages: int, max_bytes: int, hold: Callable[[int], None]) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._hold = hold
        self._messages: deque[tuple[bytes, int]] = deque()  # with the bytes that were held for each
        self._bytes = 0
        self._held = 0  # bytes of all messages that are not written, and of the one that was taken last
        self._taken = 0  # bytes that are held for the message that was taken last
        self._filled = asyncio.Event()

    def put(self, message: bytes) -> None:
        """Raises QueueFull. An empty queue takes a message of any size, as responses are limited by their cost."""
        full = len(self._messages) >= self._max_messages or self._bytes + len(message) > self._max_bytes
        if self._messages and full:
            raise QueueFull
        held = len(message) if self._messages or len(message) > _ALWAYS_HELD else 0
        self._messages.append((message, held))
        self._bytes += len(message)
        self._filled.set()
        if held:
            self._held += held
            self._hold(held)

    async def take(self, timeout: float) -> bytes | None:  # noqa: ASYNC109 - returns None instead of raising
        """Removes and returns the oldest message, or returns None if there was none for `timeout` seconds."""
        self._release(self._taken)
        self._taken = 0
        if not self._messages:
            self._filled.clear()
            try:
                async with asyncio.timeout(timeout):
                    await self._filled.wait()
            except TimeoutError:
                return None
        message, self._taken = self._messages.popleft()
        self._bytes -= len(message)
        return message

    def close(self) -> None:
        """Drops all messages. `put` must not be called afterwards."""
        self._messages.clear()
        self._release(self._held)

    def _release(self, held: int) -> None:
        if held:
            self._held -= held
            self._hold(-held)
