"""Processes of the measurement: started before it, given the schedule, and asked for their result."""

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Generic, TypeVar

from tests.soak.attacks.schedule import Schedule

T = TypeVar("T")

Work = Callable[..., T]  # called with the schedule, and then with the arguments of `Child`

_TIMEOUT = 120.0  # seconds for the start of a process, and for its result after the end of the schedule
_SPAWN = multiprocessing.get_context("spawn")  # a fork would share the sockets and the event loop of this process


class Child(Generic[T]):
    """A process that calls `work(schedule, *arguments)`. Leaving the block ends it."""

    def __init__(self, work: Work[T], *arguments: Any) -> None:
        self._connection, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=_serve, args=(theirs, work, arguments))
        self._process.start()
        theirs.close()

    def __enter__(self) -> "Child[T]":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.join(10)

    def await_ready(self) -> None:
        """Waits until the process has imported its modules."""
        self._receive()

    def start(self, schedule: Schedule) -> None:
        self._connection.send(schedule)

    def result(self) -> T:
        """Waits for the result of `work`. Raises EOFError if it failed."""
        found: T = self._receive()
        return found

    def _receive(self) -> Any:
        assert self._connection.poll(_TIMEOUT), f"The process {self._process.name} does not report."
        return self._connection.recv()


def _serve(connection: Connection, work: Work[Any], arguments: tuple[Any, ...]) -> None:
    connection.send(None)
    connection.send(work(connection.recv(), *arguments))
