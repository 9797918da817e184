"""One of the processes of `serve --workers N`: serves on a socket it is given, and tells the parent what it counts."""

import asyncio
import contextlib
import socket
import sys
from collections.abc import Callable

import orjson
import uvloop

from gateway.app import Gateway
from gateway.config import Settings
from gateway.errors import StartupError
from gateway.server import http_server
from gateway.telemetry import logs

BEAT = 1.0  # seconds between two signs of life


def serve_here(settings: Settings, listening: socket.socket, link: socket.socket, slot: int) -> None:
    """Serves until SIGTERM, or until the parent at the other end of `link` is gone. Exit code 2: it cannot start.

    The process in slot 0 keeps the inventory for all.
    """
    logs.configure(settings)
    try:
        with listening, asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
            loop.run(_serve(settings, listening, link, slot))
    except StartupError as error:
        for fault in error.faults:
            print(f"gateway: {' '.join(fault.split())}", file=sys.stderr)
        sys.exit(2)


async def _serve(settings: Settings, listening: socket.socket, link: socket.socket, slot: int) -> None:
    reader, writer = await asyncio.open_connection(sock=link)
    tasks: list[asyncio.Task[None]] = []

    async def began(gateway: Gateway, stop: Callable[[], None]) -> None:
        tasks.append(asyncio.create_task(_live(gateway, writer)))
        tasks.append(asyncio.create_task(_depend(reader, stop)))

    try:
        await http_server.serve_on(settings, listening, refreshes=slot == 0, began=began)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        writer.close()
        with contextlib.suppress(OSError):  # the parent is gone
            await writer.wait_closed()


async def _live(gateway: Gateway, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            _tell(gateway, writer)
            await asyncio.sleep(BEAT)
    finally:
        _tell(gateway, writer)


def _tell(gateway: Gateway, writer: asyncio.StreamWriter) -> None:
    if writer.transport.get_write_buffer_size() == 0:  # else the parent does not listen now
        writer.write(orjson.dumps(gateway.measures.samples()) + b"\n")


async def _depend(reader: asyncio.StreamReader, stop: Callable[[], None]) -> None:
    """The parent says nothing; an end means that it is gone."""
    await reader.read()
    stop()
