"""The transport of one connection: a bounded part of each response at a time is given to the socket, and counted.

uvicorn writes a whole response at once, which leaves the rest of a large one in buffers that nothing bounds and that
are invisible under TLS. `PacedTransport` stands between uvicorn's protocols and the transport of the event loop:

 * A write of more than `_SLICE` bytes is queued, and the transport gets a slice whenever it asks for more (by
   `resume_writing`). What is queued counts as unread by the client that the request belongs to (`Clients`).
 * The head of a response and a small body, which uvicorn writes separately, are one write: a system call and a packet
   less.
 * `is_too_slow` compares the bytes that the client has acknowledged with a minimum pace. Bytes in the kernel's buffer
   are not acknowledged yet, and a client of a megabyte's buffer would otherwise seem to read nothing for a minute.
 * `close` sends what is queued first. If the client is still sending a request that was answered, or a WebSocket
   message that was refused, the connection is half-closed, and the rest is read and dropped (RFC 9112, 9.6): closing a
   socket with unread bytes resets the connection, and the client may lose the response or the code of the close.
"""

import array
import asyncio
import contextlib
import fcntl
import termios
from collections import deque
from collections.abc import Callable
from typing import Any

from gateway.server.clients import Clients

MIN_PACE = 4_096  # bytes per second that a client must read while there is something to read
_SLICE = 262_144  # bytes
_JOINED = 16_384  # bytes of a body up to which it is copied behind its head


class PacedTransport(asyncio.Transport):
    """Wraps `transport`. `keeps_sending` returns whether the client may send more than it should when this side closes.

    A protocol that takes the transport over replaces it.
    """

    def __init__(
        self, transport: asyncio.Transport, clients: Clients, address: str, keeps_sending: Callable[[], bool]
    ) -> None:
        super().__init__()
        self._transport = transport
        self._clients = clients
        self.keeps_sending = keeps_sending
        self.peer = clients.find(address)  # the client that opened the connection, which may be a proxy
        self.peer.connections += 1
        self.client = self.peer  # the one that the current request belongs to
        self._address = address  # of `client`
        self._head = b""  # of a response whose body is expected at once
        self._queue: deque[memoryview] = deque()
        self._pinned = 0  # bytes of all writes since the queue was last empty, which are in memory until it is
        self._held = 0  # bytes that the application will write when it can
        self._queued = 0  # bytes of the queue
        self._written = 0  # bytes, since the connection began
        self._paused = False  # whether the transport wants no more bytes
        self._closing = False
        self._lost = False
        self.holds_input = False  # whether nothing is read, because the protocol has not parsed what was read before
        self._window: tuple[float, int] | None = None  # when the measurement of the pace began, and the bytes sent then
        self._sent: asyncio.Future[None] | None = None

    # ---- the client

    def assign(self, address: str) -> None:
        """Sets the client that the current request belongs to, by its address."""
        if address == self._address:
            return
        self._address = address
        unread = self._pinned + self._held
        self._clients.remove_unread(self.client, self, unread, last=True)
        self.client = self._clients.find(address)
        if unread:
            self._clients.add_unread(self.client, self, unread)

    @property
    def reads_too_little(self) -> bool:
        """Whether the client has so much to read that its further requests are refused."""
        return self.client.unread > self._clients.refused_above

    def hold(self, size: int) -> None:
        """Counts bytes that the application will write when it can as unread. A negative size releases them."""
        if self._lost:
            return
        self._held += size
        if size > 0:
            self._clients.add_unread(self.client, self, size)
        else:
            self._clients.remove_unread(self.client, self, -size, last=not (self._held or self._pinned))

    # ---- writing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing:
            return
        self._written += len(data)
        if self._head:
            if len(data) <= _JOINED:
                data = self._head + data
                self._head = b""
            else:
                self._write_head()
        elif not self._queue and data[:9] == b"HTTP/1.1 ":
            self._head = bytes(data)
            asyncio.get_running_loop().call_soon(self._write_head)
            return
        if self._queue or len(data) > _SLICE:
            self._enqueue(data)
        else:
            self._transport.write(data)

    def _write_head(self) -> None:
        """Writes the head of a response to which no body was added in the same iteration of the event loop."""
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head)

    @property
    def queued(self) -> int:
        """The bytes that have not been given to the transport."""
        return self._queued

    async def wait_until_sent(self) -> None:
        """Waits until the queue is empty or the connection is lost."""
        while self._queue:
            if self._sent is None:
                self._sent = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._sent)

    def pause(self) -> None:
        """Must be called by `pause_writing` of the protocol."""
        self._paused = True

    def resume(self) -> bool:
        """Must be called by `resume_writing` of the protocol. Returns whether the protocol may write, too."""
        self._paused = False
        self._feed()
        return not self._paused and not self._queue

    def _enqueue(self, data: bytes | bytearray | memoryview) -> None:
        self._queue.append(memoryview(data))
        self._queued += len(data)
        self._feed()
        if self._queue:
            self._pinned += len(data)
            self._clients.add_unread(self.client, self, len(data))

    def _feed(self) -> None:
        while self._queue and not self._paused:
            first = self._queue[0]
            piece = first[:_SLICE]
            self._queued -= len(piece)
            if len(first) > _SLICE:
                self._queue[0] = first[_SLICE:]
            else:
                self._queue.popleft()
            self._transport.write(piece)
        if not self._queue:
            self._on_queue_empty()

    def _on_queue_empty(self) -> None:
        if self._pinned:
            pinned, self._pinned = self._pinned, 0
            self._clients.remove_unread(self.client, self, pinned, last=not self._held)
        if self._sent is not None:
            self._sent.set_result(None)
            self._sent = None
        if self._closing and not self._lost:
            self._close()

    # ---- pace

    def is_too_slow(self, now: float, seconds: float) -> bool:
        """Whether the client has read less than `MIN_PACE` over `seconds` during which there was always something to
        read. Must be called more often than that; `now` is in seconds.
        """
        unsent = self.get_write_buffer_size()
        if not unsent:
            self._window = None
            return False
        sent = self._written - unsent - self._unacknowledged()
        if self._window is None:
            self._window = now, sent
            return False
        began, before = self._window
        if now - began < seconds:
            return False
        self._window = now, sent
        return sent - before < MIN_PACE * (now - began)

    def _unacknowledged(self) -> int:
        """The bytes in the kernel's send buffer; 0 where the system does not report them."""
        size = array.array("i", [0])
        with contextlib.suppress(OSError, ValueError):  # the socket is closed; not Linux
            fcntl.ioctl(self._transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, size)
        return size[0]

    # ---- closing

    def close(self) -> None:
        if self._closing or self._lost:
            return
        self._closing = True
        self._write_head()
        if self._queue:
            self._transport.pause_reading()
        else:
            self._close()

    def _close(self) -> None:
        if not self.keeps_sending():
            self._transport.close()
            return
        if self._transport.can_write_eof():
            self._transport.write_eof()
        if not self.holds_input:
            self._transport.resume_reading()

    def close_now(self) -> None:
        """Closes without reading further; what was given to the transport is sent."""
        self._closing = True
        self._transport.close()

    def abort(self) -> None:
        self._closing = True
        self._transport.abort()
        self.lost()

    def lost(self) -> None:
        """Must be called by `connection_lost` of the protocol. May be called several times."""
        if self._lost:
            return
        self._lost = True
        self._head = b""
        self.peer.connections -= 1
        self._queue.clear()
        self._queued = 0
        self._on_queue_empty()
        held, self._held = self._held, 0
        self._clients.remove_unread(self.client, self, held, last=True)

    def is_closing(self) -> bool:
        return self._closing or self._transport.is_closing()

    # ---- the rest of the interface

    def get_write_buffer_size(self) -> int:
        return len(self._head) + self._queued + self._transport.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._transport.set_protocol(protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._transport.get_protocol()

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self.holds_input:
            self._transport.get_protocol().parse_soon()  # type: ignore[attr-defined]
        elif not (self._closing and self._queue):
            self._transport.resume_reading()

    def is_reading(self) -> bool:
        return self._transport.is_reading()

    def can_write_eof(self) -> bool:
        return self._transport.can_write_eof()

    def write_eof(self) -> None:
        self._transport.write_eof()
