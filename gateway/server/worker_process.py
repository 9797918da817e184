"""One process of `serve --workers N`: serves on an inherited socket, and reports to the supervisor.

A report is one line of JSON with the samples of the process's metrics. It is sent every second, and is also the
heartbeat: the supervisor kills a process that stops reporting. The link is a pair of sockets. The supervisor sends
nothing on it; when the link is closed, the supervisor has ended, and the process stops.
"""

import asyncio
import contextlib
import logging
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

REPORT_INTERVAL = 1.0  # seconds

log = logging.getLogger(__name__)


def run_worker(settings: Settings, listening: socket.socket, link: socket.socket) -> None:
    """Serves until SIGTERM, or until the supervisor has ended. Exits with code 2 if it cannot start, 1 after a bug."""
    logs.configure(settings)
    try:
        with listening, asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
            loop.run(_serve(settings, listening, link))
    except StartupError as error:
        logs.report_problems(error.problems)
        sys.exit(2)
    except Exception:  # otherwise `multiprocessing` would print the traceback itself
        log.critical("Uncaught exception", exc_info=True)
        sys.exit(1)


async def _serve(settings: Settings, listening: socket.socket, link: socket.socket) -> None:
    reader, writer = await asyncio.open_connection(sock=link)
    tasks: list[asyncio.Task[None]] = []

    async def on_started(gateway: Gateway, stop: Callable[[], None]) -> None:
        tasks.append(asyncio.create_task(_report_periodically(gateway, writer)))
        tasks.append(asyncio.create_task(_stop_with_supervisor(reader, stop)))

    try:
        await http_server.serve_on(settings, listening, on_started=on_started)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        writer.close()
        with contextlib.suppress(OSError):  # the supervisor has ended
            await writer.wait_closed()


async def _report_periodically(gateway: Gateway, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            _report(gateway, writer)
            await asyncio.sleep(REPORT_INTERVAL)
    finally:
        _report(gateway, writer)


def _report(gateway: Gateway, writer: asyncio.StreamWriter) -> None:
    if writer.transport.get_write_buffer_size() == 0:  # otherwise the supervisor has not read the last report yet
        writer.write(orjson.dumps(gateway.metrics.samples()) + b"\n")


async def _stop_with_supervisor(reader: asyncio.StreamReader, stop: Callable[[], None]) -> None:
    with contextlib.suppress(OSError):  # the link is reset if the supervisor had not read the last report
        await reader.read()  # returns when the link is closed
    stop()
