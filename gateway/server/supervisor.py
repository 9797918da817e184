"""`serve --workers N`: a parent that owns the socket, and keeps N processes serving on it. It serves nothing itself.

A pair of sockets links each process to the parent: over it the process says every second that it lives, and learns that
the parent is gone. One that ends is replaced; one that is silent for long is killed first.
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
from gateway.server.worker_process import BEAT, serve_here
from gateway.telemetry.gauges import stored
from gateway.telemetry.metrics import Measures, Sample, Sum

log = logging.getLogger(__name__)

_SILENCE = 30  # beats without a sign of life until a process is taken for stuck
_STARTING = 300  # the same for one that has not served yet
_STABLE = 10.0  # seconds after which the end of a process is not held against the next one
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0  # seconds before a process that did not live long is started again
_TRIES = 5  # starts that may fail in a row while nobody serves
_GRACE = 15.0  # seconds that a process has to stop in, beside those that the settings give it

_LONGEST_LINE = 16_777_216  # bytes of what a process has counted

_spawn = multiprocessing.get_context("spawn")  # a fork would inherit locks and loops in the middle of something


def supervise(settings: Settings, *, demo: bool, say: Callable[[str], None]) -> int:
    """Serves until a signal says stop; the exit code. The database must be migrated. Raises StartupError."""
    with (
        http_server.bound(settings.host, settings.port) as listening,
        http_server.bound_for_metrics(settings) as measuring,
    ):
        return asyncio.run(_run(settings, demo, _Supervisor(settings, listening, measuring, say)))


async def _run(settings: Settings, demo: bool, supervisor: "_Supervisor") -> int:
    asks = await prepare(settings, demo=demo)
    async with supervisor.measured():
        return await supervisor.run(asks=asks)


class _Child:
    """One process, from its start to its end. What it has counted goes to `hear`."""

    def __init__(
        self, settings: Settings, listening: socket.socket, slot: int, hear: Callable[["_Child", list[Sample]], None]
    ) -> None:
        self._link, theirs = socket.socketpair()
        self._process = _spawn.Process(target=serve_here, args=(settings, listening, theirs, slot), name="gateway")
        # Ctrl-C and a terminal that closes reach the whole group, but the parent alone answers to them.
        with theirs, _blocked(signal.SIGINT, signal.SIGHUP):
            self._process.start()
        self._told = hear
        self._started = time.monotonic()
        self.ready = asyncio.Event()
        self.renewed = False  # was told to make place for a new one
        self.silent = 0  # beats since the last sign of life

    def __str__(self) -> str:
        return f"process {self._process.pid}"

    @property
    def stable(self) -> bool:
        """Whether it has served for a while."""
        return self.ready.is_set() and time.monotonic() - self._started > _STABLE

    async def follow(self) -> int:
        """Listens to it until it has ended; its exit code, which is negative for a signal."""
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_reader(self._process.sentinel, ended.set)
        hearing = asyncio.create_task(self._hear())
        try:
            await ended.wait()
        finally:
            loop.remove_reader(self._process.sentinel)
            await asyncio.wait([hearing], timeout=BEAT)  # for what it said last
            hearing.cancel()
            await asyncio.gather(hearing, return_exceptions=True)
        self._process.join()
        assert self._process.exitcode is not None
        return self._process.exitcode

    async def _hear(self) -> None:
        reader, writer = await asyncio.open_connection(sock=self._link, limit=_LONGEST_LINE)
        with contextlib.closing(writer):
            while line := await reader.readline():
                self.silent = 0
                self._told(self, orjson.loads(line))

    def stop(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()


class _Supervisor:
    """Keeps `settings.workers` processes running until it is told to stop."""

    def __init__(
        self,
        settings: Settings,
        listening: socket.socket,
        measuring: socket.socket | None,
        say: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._listening = listening
        self._measuring = measuring
        self._measures = Measures()
        self._sum = Sum()
        self._say = say
        self._children: dict[int, _Child] = {}  # by slot
        self._asks = False
        self._proved = asyncio.Event()  # a process has served, so another one can
        self._came = asyncio.Event()  # another process serves
        self._greeted = False
        self._stopping = asyncio.Event()
        self._renewing = asyncio.Event()
        self._patience = settings.stop_delay + settings.drain_timeout + _GRACE
        self._failed = 0  # starts in a row
        self._code = 0

    async def run(self, *, asks: bool) -> int:
        """Until a signal says stop or no process can be started; the exit code. `asks`: everybody who they are."""
        self._asks = asks
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stopping.set)
        loop.add_signal_handler(signal.SIGINT, self._interrupt)
        loop.add_signal_handler(signal.SIGHUP, self._renewing.set)
        keepers = [asyncio.create_task(self._keep(slot)) for slot in range(self._settings.workers)]
        others = [asyncio.create_task(self._watch()), asyncio.create_task(self._renew_forever())]
        await asyncio.wait(
            [asyncio.create_task(self._stopping.wait()), *keepers, *others], return_when=asyncio.FIRST_COMPLETED
        )
        self._stopping.set()  # also when one of ours has failed, which is raised below
        await self._end(keepers)
        for task in others:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await asyncio.gather(*keepers)
        if self._greeted:
            self._say("stopped")
        return self._code

    async def _keep(self, slot: int) -> None:
        """One process after the other."""
        pause = 0.0
        if slot != 0:  # after the first, so that what keeps it from starting is told once
            await self._unless_stopping(self._proved.wait())
        while not self._stopping.is_set():
            child = self._children[slot] = _Child(self._settings, self._listening, slot, self._hear)
            code = await child.follow()
            del self._children[slot]
            self._sum.end(child)
            if self._stopping.is_set():
                self._code = self._code or (0 if code in (0, -signal.SIGTERM) else 1)
            elif not child.renewed:
                pause = 0.0 if child.stable else min(max(2 * pause, _SHORTEST_PAUSE), _LONGEST_PAUSE)
                self._judge(child, code)
                await self._unless_stopping(asyncio.sleep(pause))

    def _judge(self, child: _Child, code: int) -> None:
        """Gives up when processes cannot start: whoever started this one may know better."""
        self._failed += not child.ready.is_set()
        hopeless = not self._proved.is_set() or self._failed >= _TRIES
        if not child.ready.is_set() and hopeless and not any(other.ready.is_set() for other in self._children.values()):
            self._code = code if code > 0 else 1
            if code != 2:  # then it has said why
                log.error("%s could not start (%s); giving up", child, _words(code))
            self._stopping.set()
        else:
            self._measures.process_ends.add(())
            log.error("%s has ended (%s); another takes its place", child, _words(code))

    def _hear(self, child: _Child, samples: list[Sample]) -> None:
        self._sum.replace(child, samples)
        if child.ready.is_set():
            return
        child.ready.set()
        self._came.set()
        self._failed = 0
        self._proved.set()
        serving_now = sum(child.ready.is_set() for child in self._children.values())
        if serving_now == self._settings.workers and not self._greeted:
            self._greeted = True
            tls = bool(self._settings.tls_certificate)
            self._say(http_server.greeting(self._listening, self._measuring, asks=self._asks, tls=tls))

    # ---- stopping

    def _interrupt(self) -> None:
        """The second Ctrl-C waits for nothing."""
        if self._stopping.is_set():
            for child in self._children.values():
                child.kill()
        self._stopping.set()

    async def _end(self, keepers: list[asyncio.Task[None]]) -> None:
        self._listening.close()  # theirs are closed one by one; nobody must wait in the queue of the last
        for child in self._children.values():
            child.stop()
        await asyncio.wait(keepers, timeout=self._patience)
        for child in self._children.values():
            log.error("%s did not stop within %g seconds and is killed", child, self._patience)
            child.kill()

    async def _unless_stopping(self, wait: Coroutine[Any, Any, object]) -> None:
        """Waits for that, or until it is time to stop."""
        tasks = [asyncio.create_task(wait), asyncio.create_task(self._stopping.wait())]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()

    # ---- while they serve

    @contextlib.asynccontextmanager
    async def measured(self) -> AsyncIterator[None]:
        """Serves the numbers of all processes, if somebody wants them."""
        async with contextlib.AsyncExitStack() as stack:
            if self._measuring is not None:
                few = replace(self._settings, read_connections=1, write_connections=1)
                database = await stack.enter_async_context(opened_database(few))

                async def collect() -> list[Sample]:
                    return [*self._sum.samples(), *self._measures.samples(), *await stored(database)]

                await stack.enter_async_context(http_server.serving_metrics(self._settings, self._measuring, collect))
            yield

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(BEAT)
            for child in self._children.values():
                child.silent += 1
                if child.silent == (_SILENCE if child.ready.is_set() else _STARTING):
                    log.error("%s has been silent for %g seconds and is killed", child, child.silent * BEAT)
                    child.kill()

    async def _renew_forever(self) -> None:
        """Replaces the processes one after the other, so that the others serve."""
        while True:
            await self._renewing.wait()
            self._renewing.clear()
            log.info("every process is replaced")
            for slot in range(self._settings.workers):
                old = self._children.get(slot)
                if old is not None:
                    old.renewed = True
                    old.stop()
                    asyncio.get_running_loop().call_later(self._patience, old.kill)  # if it has not stopped then
                while (new := self._children.get(slot)) is None or new is old or not new.ready.is_set():
                    self._came.clear()
                    await self._came.wait()


def _words(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name


@contextlib.contextmanager
def _blocked(*numbers: signal.Signals) -> Iterator[None]:
    """What is started in here never sees these signals; here they come afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
