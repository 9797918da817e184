"""Makes a gateway's process stop at one step: a point at which a request or an operation talks to the database.

The simulated provider lives in the database too, so what is asked of it is among the steps. Nothing in `gateway`
knows of this: its database is wrapped in the process that is to stop, and what goes by the clock (polls, heartbeats,
housekeeping) is no step.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from ctypes import c_int
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import RawValue
from typing import Any

import pytest

from gateway import app
from gateway.changes.change_feed import ChangeFeed
from gateway.operations import claims, worker
from gateway.operations.claims import Claim
from gateway.operations.service import Operations
from gateway.store import opening
from gateway.store.database import Database, Transaction, Work
from gateway.store.statements import Statement
from tests.forked import CONTEXT

_asked: ContextVar[bool] = ContextVar("asked", default=False)  # in a request that changes something

_POLL = 0.02


class Stop:
    """Where to stop, once: shared with the one process that will."""

    def __init__(self) -> None:
        self._lock = CONTEXT.Lock()
        self._at = RawValue(c_int, 0)  # a step, counted from 1; 0 is nowhere
        self._count = RawValue(c_int, 0)

    def arm(self, at: int) -> None:
        """Steps are counted from now on. With 0 nothing stops any more that has not said so already."""
        with self._lock:
            self._count.value = 0
            self._at.value = at

    def step(self, say: Callable[[], None]) -> bool:
        """Counts a step: whether this is the one. `say` is called before anybody can think that it did not come."""
        with self._lock:
            self._count.value += 1
            here: bool = self._count.value == self._at.value
            if here:
                self._at.value = 0
                say()
            return here


class _Steps:
    def __init__(self, stop: Stop, pipe: Connection) -> None:
        self._stop = stop
        self._pipe = pipe

    def reach(self, label: str) -> None:
        """Stops here when this is the step: the whole process, or SQLite's writer, until it is told to go on."""
        if self._stop.step(lambda: self._pipe.send(label)):
            self._pipe.recv()


class _Transaction:
    """Each statement is a step, before it is sent."""

    def __init__(self, transaction: Transaction, reach: Callable[[str], None]) -> None:
        self._transaction = transaction
        self._reach = reach
        self.dialect = transaction.dialect

    async def rows(self, sql: str, parameters: Any = ()) -> Any:
        self._reach(_words(sql))
        return await self._transaction.rows(sql, parameters)

    async def all(self, statement: Statement, **values: Any) -> Any:
        self._reach(_words(statement.compiled(self.dialect).sql))
        return await self._transaction.all(statement, **values)

    async def first(self, statement: Statement, **values: Any) -> Any:
        self._reach(_words(statement.compiled(self.dialect).sql))
        return await self._transaction.first(statement, **values)

    async def run(self, statement: Statement, **values: Any) -> int:
        self._reach(_words(statement.compiled(self.dialect).sql))
        return await self._transaction.run(statement, **values)

    async def run_many(self, sql: str, parameters: Any) -> None:
        self._reach(_words(sql))
        await self._transaction.run_many(sql, parameters)


class _Claiming:
    """Claims go by the clock, so only those that got something are steps: after each statement."""

    def __init__(self, transaction: Transaction, steps: _Steps) -> None:
        self._transaction = transaction
        self._steps = steps
        self.dialect = transaction.dialect
        self.got = False

    async def all(self, statement: Statement, **values: Any) -> Any:
        rows = await self._transaction.all(statement, **values)
        if rows:
            self.got = True
            self._steps.reach("in a write: claimed")
        return rows


class _Database:
    """The gateway's database, with steps."""

    def __init__(self, database: Database, steps: _Steps) -> None:
        self._database = database
        self._steps = steps

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    async def read(self, work: Work[Any], *, single: bool = False) -> Any:
        if not _counts():
            return await self._database.read(work, single=single)

        async def stepped(tx: Transaction) -> Any:
            return await work(_Transaction(tx, lambda words: self._steps.reach(f"in a read: {words}")))

        return await self._database.read(stepped, single=single)

    async def write(self, work: Work[Any]) -> Any:
        if _task() == "claim":
            return await self._claim(work)
        if not _counts():
            return await self._database.write(work)

        async def stepped(tx: Transaction) -> Any:
            result = await work(_Transaction(tx, lambda words: self._steps.reach(f"in a write: {words}")))
            self._steps.reach("in a write: COMMIT")
            return result

        result = await self._database.write(stepped)
        self._steps.reach("after a commit")
        return result

    async def _claim(self, work: Work[Any]) -> Any:
        got = False

        async def stepped(tx: Transaction) -> Any:
            nonlocal got
            claiming = _Claiming(tx, self._steps)
            result = await work(claiming)  # type: ignore[arg-type]
            got = claiming.got
            if got:
                self._steps.reach("in a write: COMMIT")
            return result

        result = await self._database.write(stepped)
        if got:
            self._steps.reach("after a commit")
        return result


def _words(sql: str) -> str:
    words = sql.split()
    if words[0] == "WITH":
        return "claim" if "chosen" in words[1] else "look at a subtree"
    table = words[1] if words[0] == "UPDATE" else words[2] if words[0] in {"INSERT", "DELETE"} else _table(words)
    return f"{words[0]} {table}"


def _table(words: list[str]) -> str:
    return words[words.index("FROM") + 1] if "FROM" in words else ""


def _task() -> str:
    task = asyncio.current_task()
    return "" if task is None else task.get_name()


def _counts() -> bool:
    return _asked.get() or _task().startswith("operation-")


@contextmanager
def _asking() -> Iterator[None]:
    token = _asked.set(True)
    try:
        yield
    finally:
        _asked.reset(token)


def prepare(stop: Stop, pipe: Connection) -> None:
    """For `Forked`: the process stops where `stop` says, tells the step through the pipe, and waits there."""
    patch = pytest.MonkeyPatch()  # for good: it is never undone
    steps = _Steps(stop, pipe)
    opened, accept = opening.open_database, Operations._accept

    async def accepted(self: Operations, *arguments: Any) -> Any:
        with _asking():
            return await accept(self, *arguments)

    patch.setattr(app, "open_database", lambda *given, **named: _Database(opened(*given, **named), steps))
    patch.setattr(Operations, "_accept", accepted)
    _hurry(patch)


def prepare_survivor(may_claim: Any) -> None:
    """For `Forked`: the process takes no work while `may_claim` is 0."""
    patch = pytest.MonkeyPatch()
    claim = claims.claim

    async def gated(*arguments: Any, **named: Any) -> list[Claim]:
        return await claim(*arguments, **named) if may_claim.value else []

    patch.setattr(worker, "claim", gated)
    _hurry(patch)


def _hurry(patch: pytest.MonkeyPatch) -> None:
    """Polls so often that waiting costs nothing."""
    for function, names in ((worker.Worker.__init__, ("poll", "first_wait")), (ChangeFeed.__init__, ("poll",))):
        defaults: Any = function.__kwdefaults__
        for name in names:
            patch.setitem(defaults, name, _POLL)
