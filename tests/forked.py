"""A gateway in a process of its own, forked from one that has imported everything, so that a start takes little.

`prepare` is called in the new process before it serves: what it changes there is gone with the process.
"""

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

Prepare = Callable[[], None]

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([__name__, "tests.crash.victim", "tests.crash.stepping", "tests.soak.mistakes"])


class Forked:
    """A process that serves at `url`. Waits for its greeting when it is made."""

    def __init__(self, settings: Settings, prepare: Prepare | None = None, log: Path | None = None) -> None:
        here, there = CONTEXT.Pipe(duplex=False)
        self.process: ForkServerProcess = CONTEXT.Process(
            target=_run, args=(settings, prepare, log, there), daemon=True
        )
        self.process.start()
        there.close()
        greeting: str = here.recv()
        here.close()
        self.url = greeting.split()[5]

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL, which ends a stopped process too; it is gone when this returns."""
        self.process.kill()
        self.process.join()


def _run(settings: Settings, prepare: Prepare | None, log: Path | None, greet: Connection) -> None:
    if log is None:
        logging.disable()
    else:
        logging.basicConfig(filename=log, level="INFO", format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if prepare is not None:
        prepare()
    serve(settings, demo=False, say=lambda text: greet.send(text) if text.startswith("The ") else None)
