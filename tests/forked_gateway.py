"""A gateway in a process of its own, forked from a process that has imported all modules, so that it starts quickly."""

import contextlib
import logging
import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from gateway.config import Settings
from gateway.server.http_server import serve
from tests.waiting import at_most

Prepare = Callable[[], None]  # called in the new process before it serves; its changes end with the process

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([__name__, "tests.crash.victim", "tests.crash.stepping", "tests.soak.seeded_bugs"])


class ForkedGateway:
    """A process that serves at `url`. The constructor waits until it listens."""

    def __init__(self, settings: Settings, prepare: Prepare | None = None, log: Path | None = None) -> None:
        here, there = CONTEXT.Pipe(duplex=False)
        self.process: ForkServerProcess = CONTEXT.Process(
            target=_run, args=(settings, prepare, log, there), daemon=True
        )
        self.process.start()
        there.close()
        banner: str = here.recv()
        here.close()
        self.url = banner.split()[5]

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Sends SIGKILL, which also ends a process that SIGSTOP has stopped, and waits until the process has ended."""
        self.process.kill()
        self.process.join()


def restarted(settings: Settings, prepare: Prepare | None, log: Path | None) -> ForkedGateway:
    """Starts a gateway. Starts it again if it ends before it listens, as a service manager does.

    Its database may answer too late because of what the test does to it, or because the machine is busy.
    """
    for _ in at_most(20):
        with contextlib.suppress(EOFError):
            return ForkedGateway(settings, prepare, log)
    raise AssertionError


def _run(settings: Settings, prepare: Prepare | None, log: Path | None, banner: Connection) -> None:
    if log is None:
        logging.disable()
    else:
        logging.basicConfig(filename=log, level="INFO", format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if prepare is not None:
        prepare()
    serve(settings, demo=False, echo=lambda text: banner.send(text) if text.startswith("The ") else None)
