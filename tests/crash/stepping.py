"""Stops the process of a gateway at one step: one statement that a request or an operation sends to the database.

The simulated provider is stored in the same database, so its statements are steps too. The code in `gateway` is
unchanged: the database is wrapped in the process that is to stop. Periodic work (polls, heartbeats, housekeeping) does
not count as steps.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from ctypes import c_int
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import RawValue
from typing import Any

import pytest

from gateway import app
from gateway.changes.change_feed import ChangeFeed
from gateway.operations import claims, worker
from gateway.operations.claims import Claim
from gateway.operations.service import Operations
from gateway.store import database_url
from gateway.store.database import Database, Transaction, Work
from gateway.store.statements import Query, Row, Statement
from tests.forked_gateway import CONTEXT

_in_command: ContextVar[bool] = ContextVar("in_command", default=False)  # set while a request executes a command

_POLL = 0.02


class Stop:
    """The step at which to stop, once. Shared with the process that is to stop."""

    def __init__(self) -> None:
        self._lock = CONTEXT.Lock()
        self._at = RawValue(c_int, 0)  # a step, counted from 1; 0 for none
        self._count = RawValue(c_int, 0)

    def arm(self, at: int) -> None:
        """Counts steps from now on. With 0, a process that has not reached its step does not stop any more."""
        with self._lock:
            self._count.value = 0
            self._at.value = at

    def step(self, report: Callable[[], None]) -> bool:
        """Counts a step. Returns whether it is the one to stop at; `report` is then called under the lock."""
        with self._lock:
            self._count.value += 1
            here: bool = self._count.value == self._at.value
            if here:
                self._at.value = 0
                report()
            return here


class _Steps:
    def __init__(self, stop: Stop, pipe: Connection) -> None:
        self._stop = stop
        self._pipe = pipe

    def stop_at(self, label: str) -> None:
        """If this is the step, stops the process, or the writer thread of SQLite, until the pipe receives a message."""
        if self._stop.step(lambda: self._pipe.send(label)):
            self._pipe.recv()


class _Transaction:
    """Transaction in which each statement is a step, before it is sent."""

    def __init__(self, transaction: Transaction, stop_at: Callable[[str], None]) -> None:
        self._transaction = transaction
        self._reach = stop_at
        self.dialect = transaction.dialect

    async def rows(self, sql: str, parameters: Any = ()) -> Any:
        self._reach(_label(sql))
        return await self._transaction.rows(sql, parameters)

    async def all(self, query: Query[Row], **values: Any) -> list[Row]:
        self._reach(_label(query.compiled(self.dialect).sql))
        return await self._transaction.all(query, **values)

    async def first(self, query: Query[Row], **values: Any) -> Row | None:
        self._reach(_label(query.compiled(self.dialect).sql))
        return await self._transaction.first(query, **values)

    async def run(self, statement: Statement, **values: Any) -> int:
        self._reach(_label(statement.compiled(self.dialect).sql))
        return await self._transaction.run(statement, **values)

    async def run_many(self, sql: str, parameters: Any) -> None:
        self._reach(_label(sql))
        await self._transaction.run_many(sql, parameters)

    async def pause(self, ahead: float = 0.0) -> None:
        await self._transaction.pause(ahead)


class _Claiming:
    """Transaction of a claim. Claims are periodic, so only statements that returned rows are steps, afterwards."""

    def __init__(self, transaction: Transaction, steps: _Steps) -> None:
        self._transaction = transaction
        self._steps = steps
        self.dialect = transaction.dialect
        self.has_rows = False

    async def all(self, query: Query[Row], **values: Any) -> list[Row]:
        rows = await self._transaction.all(query, **values)
        if rows:
            self.has_rows = True
            self._steps.stop_at("in a write: claimed")
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
            return await work(_Transaction(tx, lambda label: self._steps.stop_at(f"in a read: {label}")))

        return await self._database.read(stepped, single=single)

    async def write(self, work: Work[Any]) -> Any:
        if _task() == "claim":
            return await self._claim(work)
        if not _counts():
            return await self._database.write(work)

        async def stepped(tx: Transaction) -> Any:
            result = await work(_Transaction(tx, lambda label: self._steps.stop_at(f"in a write: {label}")))
            self._steps.stop_at("in a write: COMMIT")
            return result

        result = await self._database.write(stepped)
        self._steps.stop_at("after a commit")
        return result

    async def _claim(self, work: Work[Any]) -> Any:
        claimed = False

        async def stepped(tx: Transaction) -> Any:
            nonlocal claimed
            claiming = _Claiming(tx, self._steps)
            result = await work(claiming)  # type: ignore[arg-type]
            claimed = claiming.has_rows
            if claimed:
                self._steps.stop_at("in a write: COMMIT")
            return result

        result = await self._database.write(stepped)
        if claimed:
            self._steps.stop_at("after a commit")
        return result


def _label(sql: str) -> str:
    words = sql.split()
    if words[0] == "WITH":
        return "claim" if "chosen" in words[1] else "read a subtree"
    table = words[1] if words[0] == "UPDATE" else words[2] if words[0] in {"INSERT", "DELETE"} else _table(words)
    return f"{words[0]} {table}"


def _table(words: list[str]) -> str:
    return words[words.index("FROM") + 1] if "FROM" in words else ""


def _task() -> str:
    task = asyncio.current_task()
    return "" if task is None else task.get_name()


def _counts() -> bool:
    return _in_command.get() or _task().startswith("operation-")


@contextmanager
def _executing() -> Iterator[None]:
    token = _in_command.set(True)
    try:
        yield
    finally:
        _in_command.reset(token)


def prepare(stop: Stop, pipe: Connection) -> None:
    """For `ForkedGateway`: at the step of `stop`, the process sends the step's label through the pipe and waits."""
    patch = pytest.MonkeyPatch()  # never undone: the process is killed
    steps = _Steps(stop, pipe)
    opened, execute = database_url.open_database, Operations.execute

    async def executed(self: Operations, *arguments: Any) -> Any:
        with _executing():
            return await execute(self, *arguments)

    patch.setattr(app, "open_database", lambda *given, **named: _Database(opened(*given, **named), steps))
    patch.setattr(Operations, "execute", executed)
    _shorten_polls(patch)


def prepare_survivor(may_claim: Any) -> None:
    """For `ForkedGateway`: the process claims no operations while `may_claim` is 0."""
    patch = pytest.MonkeyPatch()
    claim = claims.claim

    async def gated(*arguments: Any, **named: Any) -> list[Claim]:
        return await claim(*arguments, **named) if may_claim.value else []

    patch.setattr(worker, "claim", gated)
    _shorten_polls(patch)


def _shorten_polls(patch: pytest.MonkeyPatch) -> None:
    """Shortens the poll intervals, so that the trials do not wait for them."""
    patch.setattr(app, "Worker", partial(worker.Worker, poll=_POLL, first_retry_delay=_POLL))
    patch.setattr(app, "ChangeFeed", partial(ChangeFeed, poll=_POLL))
