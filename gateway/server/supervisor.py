"""The supervisor of `serve --workers N`: owns the listening socket and keeps N worker processes serving on it.

The supervisor serves no API requests itself. A pair of sockets links it to each worker process: the process reports its
metrics every second, and stops when the link is closed, because the supervisor has ended.

A process that ends is replaced. A process that has not reported for 30 s (for example after SIGSTOP) is killed and
replaced; one that has not yet started has 300 s. Processes that end within 10 s are restarted with a backoff of 0.5 to
30 s. The supervisor exits when a process cannot start and none has ever started, or when five starts in a row have
failed and no process serves.

Signals: SIGTERM and SIGINT stop all processes, a second SIGINT kills them. SIGHUP replaces them one after the other,
so that the others keep serving.
"""

import asyncio
import contextlib
import logging
import multiprocessing
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import replace
from typing import Any

import orjson

from gateway.app import opened_database, prepare
from gateway.config import Settings
from gateway.server import http_server
from gateway.server.worker_process import REPORT_INTERVAL, run_worker
from gateway.telemetry.gauges import database_gauges
from gateway.telemetry.metrics import AggregatedMetrics, Metrics, Sample

log = logging.getLogger(__name__)

_MAX_MISSED_REPORTS = 30  # after which a process is killed
_MAX_MISSED_REPORTS_STARTING = 300  # the same for a process that has not started serving
_STABLE_AFTER = 10.0  # seconds after its start from which a process that ends is restarted without a delay
_MIN_RESTART_DELAY, _MAX_RESTART_DELAY = 0.5, 30.0  # seconds
_MAX_FAILED_STARTS = 5  # in a row, while no process serves
_STOP_GRACE = 15.0  # seconds that a process has to stop, in addition to GATEWAY_STOP_DELAY and GATEWAY_DRAIN_TIMEOUT

_MAX_REPORT_LENGTH = 16_777_216  # bytes

_spawn = multiprocessing.get_context("spawn")  # a fork would inherit locks and event loops in an undefined state


def supervise(settings: Settings, *, demo: bool, echo: Callable[[str], None]) -> int:
    """Serves until SIGINT or SIGTERM, and returns the exit code. The database must be migrated. Raises StartupError.

    `echo` receives the banner once all processes serve, and "stopped" at the end, unless the log format is `json`.
    """
    with (
        http_server.listen(settings.host, settings.port) as listening,
        http_server.listen_for_metrics(settings) as metrics_socket,
    ):
        return asyncio.run(_run(settings, demo, _Supervisor(settings, listening, metrics_socket, echo)))


async def _run(settings: Settings, demo: bool, supervisor: "_Supervisor") -> int:
    requires_authentication = await prepare(settings, demo=demo)
    async with supervisor.serving_metrics():
        return await supervisor.run(requires_authentication=requires_authentication)


class _WorkerProcess:
    """One process, from its start to its end. `on_report` receives the samples of each report."""

    def __init__(
        self,
        settings: Settings,
        listening: socket.socket,
        on_report: Callable[["_WorkerProcess", list[Sample]], None],
    ) -> None:
        self._link, process_end = socket.socketpair()
        self._process = _spawn.Process(target=run_worker, args=(settings, listening, process_end), name="gateway")
        # A terminal sends SIGINT and SIGHUP to the whole process group, but only the supervisor handles them.
        with process_end, _blocked(signal.SIGINT, signal.SIGHUP):
            self._process.start()
        self._on_report = on_report
        self._started = time.monotonic()
        self.ready = asyncio.Event()  # set by the first report
        self.being_replaced = False  # was stopped to be replaced by a new process
        self.missed_reports = 0  # report intervals since the last report

    @property
    def pid(self) -> int | None:
        return self._process.pid

    @property
    def stable(self) -> bool:
        """Whether it serves and was started more than 10 s ago."""
        return self.ready.is_set() and time.monotonic() - self._started > _STABLE_AFTER

    async def wait(self) -> int:
        """Receives reports until the process has ended. Returns its exit code, which is negative for a signal."""
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_reader(self._process.sentinel, ended.set)
        receiving = asyncio.create_task(self._receive_reports())
        try:
            await ended.wait()
        finally:
            loop.remove_reader(self._process.sentinel)
            await asyncio.wait([receiving], timeout=REPORT_INTERVAL)  # for the last report
            receiving.cancel()
            await asyncio.gather(receiving, return_exceptions=True)
        self._process.join()
        assert self._process.exitcode is not None
        return self._process.exitcode

    async def _receive_reports(self) -> None:
        reader, writer = await asyncio.open_connection(sock=self._link, limit=_MAX_REPORT_LENGTH)
        with contextlib.closing(writer):
            while line := await reader.readline():
                self.missed_reports = 0
                self._on_report(self, orjson.loads(line))

    def stop(self) -> None:
        """Sends SIGTERM."""
        self._process.terminate()

    def kill(self) -> None:
        """Sends SIGKILL."""
        self._process.kill()


class _Supervisor:
    """Keeps `settings.workers` processes running until a signal stops it. Each process has a slot from 0 to N - 1."""

    def __init__(
        self,
        settings: Settings,
        listening: socket.socket,
        metrics_socket: socket.socket | None,
        echo: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._listening = listening
        self._metrics_socket = metrics_socket
        self._metrics = Metrics()
        self._process_metrics = AggregatedMetrics()
        self._echo = echo
        self._processes: dict[int, _WorkerProcess] = {}  # by slot
        self._requires_authentication = False
        self._first_ready = asyncio.Event()  # a process has served, so the configuration works
        self._process_ready = asyncio.Event()  # set each time that a process begins to serve
        self._banner_shown = False
        self._stopping = asyncio.Event()
        self._replace_requested = asyncio.Event()
        self._stop_timeout = settings.stop_delay + settings.drain_timeout + _STOP_GRACE
        self._failed_starts = 0  # in a row
        self._exit_code = 0

    async def run(self, *, requires_authentication: bool) -> int:
        """Runs until a signal stops it or no process can be started. Returns the exit code."""
        self._requires_authentication = requires_authentication
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stopping.set)
        loop.add_signal_handler(signal.SIGINT, self._interrupt)
        loop.add_signal_handler(signal.SIGHUP, self._replace_requested.set)
        slots = [asyncio.create_task(self._run_slot(slot)) for slot in range(self._settings.workers)]
        others = [asyncio.create_task(self._kill_silent_processes()), asyncio.create_task(self._replace_on_request())]
        await asyncio.wait(
            [asyncio.create_task(self._stopping.wait()), *slots, *others], return_when=asyncio.FIRST_COMPLETED
        )
        self._stopping.set()  # also if one of the tasks has failed, which is raised below
        await self._stop_processes(slots)
        for task in others:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await asyncio.gather(*slots)
        if self._banner_shown:
            http_server.announce_stop(self._settings, self._echo)
        return self._exit_code

    async def _run_slot(self, slot: int) -> None:
        """Keeps one process running in the slot."""
        delay = 0.0
        if slot != 0:  # slot 0 starts alone, so that a startup error is reported once and not by every process
            await self._wait_unless_stopping(self._first_ready.wait())
        while not self._stopping.is_set():
            process = self._processes[slot] = _WorkerProcess(self._settings, self._listening, self._on_report)
            code = await process.wait()
            del self._processes[slot]
            self._process_metrics.end(process)
            if self._stopping.is_set():
                self._exit_code = self._exit_code or (0 if code in (0, -signal.SIGTERM) else 1)
            elif not process.being_replaced:
                delay = 0.0 if process.stable else min(max(2 * delay, _MIN_RESTART_DELAY), _MAX_RESTART_DELAY)
                self._on_unexpected_end(process, code)
                await self._wait_unless_stopping(asyncio.sleep(delay))

    def _on_unexpected_end(self, process: _WorkerProcess, code: int) -> None:
        """Stops the supervisor if processes cannot start, so that its service manager decides whether to restart it."""
        ready = process.ready.is_set()
        self._failed_starts += not ready
        hopeless = not self._first_ready.is_set() or self._failed_starts >= _MAX_FAILED_STARTS
        if not ready and hopeless and not any(other.ready.is_set() for other in self._processes.values()):
            self._exit_code = code if code > 0 else 1
            if code != 2:  # with code 2, the process has printed the reason
                log.error("Worker process could not start pid=%s end=%s; stopping", process.pid, _end(code))
            self._stopping.set()
        else:
            self._metrics.process_ends.add(())
            log.error("Worker process ended unexpectedly pid=%s end=%s; replacing it", process.pid, _end(code))

    def _on_report(self, process: _WorkerProcess, samples: list[Sample]) -> None:
        self._process_metrics.replace(process, samples)
        if process.ready.is_set():
            return
        process.ready.set()
        self._process_ready.set()
        self._failed_starts = 0
        self._first_ready.set()
        serving = sum(other.ready.is_set() for other in self._processes.values())
        if serving == self._settings.workers and not self._banner_shown:
            self._banner_shown = True
            http_server.announce_start(
                self._settings,
                self._listening,
                self._metrics_socket,
                self._echo,
                authentication=self._requires_authentication,
            )

    # ---- stopping

    def _interrupt(self) -> None:
        """Stops all processes on the first SIGINT, and kills them on the second."""
        if self._stopping.is_set():
            for process in self._processes.values():
                process.kill()
        self._stopping.set()

    async def _stop_processes(self, slots: list[asyncio.Task[None]]) -> None:
        # Closed first: otherwise new connections would wait in the queue of the last process until it stops.
        self._listening.close()
        for process in self._processes.values():
            process.stop()
        await asyncio.wait(slots, timeout=self._stop_timeout)
        for process in self._processes.values():
            log.error("Killed worker process that did not stop within %g s pid=%s", self._stop_timeout, process.pid)
            process.kill()

    async def _wait_unless_stopping(self, wait: Coroutine[Any, Any, object]) -> None:
        """Returns when `wait` has ended or the supervisor is stopping."""
        tasks = [asyncio.create_task(wait), asyncio.create_task(self._stopping.wait())]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()

    # ---- while serving

    @contextlib.asynccontextmanager
    async def serving_metrics(self) -> AsyncIterator[None]:
        """Serves the sum of the metrics of all processes, if a metrics address is configured."""
        async with contextlib.AsyncExitStack() as stack:
            if self._metrics_socket is not None:
                settings = replace(self._settings, read_connections=1, write_connections=1)
                database = await stack.enter_async_context(opened_database(settings))

                async def collect() -> list[Sample]:
                    own = [*self._process_metrics.samples(), *self._metrics.samples()]
                    return [*own, *await database_gauges(database)]

                await stack.enter_async_context(
                    http_server.serving_metrics(self._settings, self._metrics_socket, collect)
                )
            yield

    async def _kill_silent_processes(self) -> None:
        while True:
            await asyncio.sleep(REPORT_INTERVAL)
            for process in self._processes.values():
                process.missed_reports += 1
                limit = _MAX_MISSED_REPORTS if process.ready.is_set() else _MAX_MISSED_REPORTS_STARTING
                if process.missed_reports == limit:
                    seconds = process.missed_reports * REPORT_INTERVAL
                    log.error("Killed worker process that had not reported for %g s pid=%s", seconds, process.pid)
                    process.kill()

    async def _replace_on_request(self) -> None:
        """On SIGHUP, replaces the processes one after the other, so that the others keep serving."""
        while True:
            await self._replace_requested.wait()
            self._replace_requested.clear()
            log.info("Received SIGHUP; replacing all worker processes")
            for slot in range(self._settings.workers):
                old = self._processes.get(slot)
                if old is not None:
                    old.being_replaced = True
                    old.stop()
                    asyncio.get_running_loop().call_later(self._stop_timeout, old.kill)  # no effect if it has stopped
                while (new := self._processes.get(slot)) is None or new is old or not new.ready.is_set():
                    self._process_ready.clear()
                    await self._process_ready.wait()


def _end(code: int) -> str:
    """How a process ended: its exit code or the name of its signal."""
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name


@contextlib.contextmanager
def _blocked(*signals: signal.Signals) -> Iterator[None]:
    """Blocks signals while the block runs. Processes started in it never receive them; this one does afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
