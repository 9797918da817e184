"""TCP proxy between the gateway and its database that can cut, hang or refuse connections."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple


class _CutPoint(NamedTuple):
    sent: bytes
    after: bytes
    passed_on: bool


class Proxy:
    """Passes bytes on until a fault is injected. The public methods may be called from the thread of the test."""

    def __init__(self, port: int) -> None:
        self._server_port = port
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port: int = probe.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy")
        self._thread.start()
        self._listening: asyncio.Server | None = None
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._passing: asyncio.Event = self._call(self._make_event)
        self._cut_at: _CutPoint | None = None
        self.cuts = 0
        self._call(self._listen)

    # ---- faults

    def refuse(self) -> None:
        """Closes the listening socket and resets all connections."""
        self._call(self._refuse)

    def cut(self) -> None:
        """Resets all connections. New ones are accepted."""
        self._call(self._cut)

    def hang(self) -> None:
        """Keeps and accepts connections, but passes no bytes, like a host that is stopped or unreachable."""
        self._call(self._hang)

    def cut_at(self, sent: bytes, *, after: bytes, passed_on: bool) -> None:
        """Cuts one connection when the gateway sends `sent` on it after `after`, so that no other transaction is hit.

        `passed_on`: after the response of the server, otherwise before the server receives it.
        """
        self._cut_at = _CutPoint(sent, after, passed_on)

    def heal(self) -> None:
        """Ends all faults."""
        self._call(self._heal)

    def close(self) -> None:
        self._call(self._refuse)
        self._call(self._end)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    # ---- in the thread of the event loop

    def _call(self, function: Callable[[], Any]) -> Any:
        async def run() -> Any:
            result = function()
            return await result if asyncio.iscoroutine(result) else result

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)

    def _make_event(self) -> asyncio.Event:
        event = asyncio.Event()
        event.set()
        return event

    async def _listen(self) -> None:
        self._listening = await asyncio.start_server(self._take, "127.0.0.1", self.port)

    async def _heal(self) -> None:
        self._passing.set()
        if self._listening is None:
            await self._listen()

    def _refuse(self) -> None:
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        self._cut()

    def _cut(self) -> None:
        for writers in self._pairs:
            for writer in writers:
                writer.transport.abort()

    def _hang(self) -> None:
        self._passing.clear()

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._passing.wait()
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
            pair = (writer, far_writer)
            self._pairs.add(pair)
            swallow = asyncio.Event()
            try:
                await asyncio.gather(
                    self._pass_on(reader, far_writer, swallow, is_client=True),
                    self._pass_on(far_reader, writer, swallow, is_client=False),
                )
            finally:
                self._pairs.discard(pair)
                far_writer.transport.abort()
        except (OSError, EOFError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, swallow: asyncio.Event, *, is_client: bool
    ) -> None:
        armed = False
        while data := await reader.read(65_536):
            await self._passing.wait()
            if not is_client and swallow.is_set():
                break  # the response to the bytes at which to cut
            cut = self._cut_at if is_client else None
            armed = armed or (cut is not None and cut.after in data)
            if cut is not None and armed and cut.sent in data:
                self._cut_at = None
                self.cuts += 1
                if not cut.passed_on:
                    break
                swallow.set()
            writer.write(data)
            await writer.drain()
        raise EOFError


@contextlib.contextmanager
def running_proxy(port: int) -> Iterator[Proxy]:
    proxy = Proxy(port)
    try:
        yield proxy
    finally:
        proxy.close()
