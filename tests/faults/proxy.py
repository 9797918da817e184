"""A wire between the gateway and its database that can be cut, clogged or taken away."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any


class Proxy:
    """Passes bytes on until it is told otherwise. Every method may be called from the test's own thread."""

    def __init__(self, port: int) -> None:
        self._server_port = port
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port: int = probe.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy")
        self._thread.start()
        self._listening: asyncio.Server | None = None
        self._wires: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flowing: asyncio.Event = self._call(self._make_event)
        self._cut_at: tuple[bytes, bool] | None = None
        self.cuts = 0
        self._call(self._listen)

    # ---- what can go wrong

    def refuse(self) -> None:
        """Nobody listens any more, and connections are reset."""
        self._call(self._refuse)

    def cut(self) -> None:
        """Connections are reset; new ones are welcome."""
        self._call(self._cut)

    def hang(self) -> None:
        """Connections stay, and new ones are taken, but nothing passes: a host that is frozen, or has gone."""
        self._call(self._hang)

    def cut_at(self, sent: bytes, *, passed_on: bool) -> None:
        """Cuts once, when the gateway sends `sent`: before the server gets it, or when the server has answered it."""
        self._cut_at = sent, passed_on

    def heal(self) -> None:
        """Everything passes again."""
        self._call(self._heal)

    def close(self) -> None:
        self._call(self._refuse)
        self._call(self._end)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    # ---- in its own thread

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
        self._flowing.set()
        if self._listening is None:
            await self._listen()

    def _refuse(self) -> None:
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        self._cut()

    def _cut(self) -> None:
        for writers in self._wires:
            for writer in writers:
                writer.transport.abort()

    def _hang(self) -> None:
        self._flowing.clear()

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._flowing.wait()
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
            wire = (writer, far_writer)
            self._wires.add(wire)
            swallow = asyncio.Event()
            try:
                await asyncio.gather(
                    self._pass_on(reader, far_writer, swallow, asks=True),
                    self._pass_on(far_reader, writer, swallow, asks=False),
                )
            finally:
                self._wires.discard(wire)
                far_writer.transport.abort()
        except (OSError, EOFError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, swallow: asyncio.Event, *, asks: bool
    ) -> None:
        while data := await reader.read(65_536):
            await self._flowing.wait()
            if not asks and swallow.is_set():
                break  # the answer to what was to be cut at
            if asks and self._cut_at is not None and self._cut_at[0] in data:
                (_, passed_on), self._cut_at = self._cut_at, None
                self.cuts += 1
                if not passed_on:
                    break
                swallow.set()
            writer.write(data)
            await writer.drain()
        raise EOFError


@contextlib.contextmanager
def proxied(port: int) -> Iterator[Proxy]:
    proxy = Proxy(port)
    try:
        yield proxy
    finally:
        proxy.close()
