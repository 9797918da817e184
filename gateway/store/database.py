"""The interface of a database: consistent reads and atomic writes, the same on SQLite and PostgreSQL.

The work of a transaction is an async function of a `Transaction`. It may await methods of that transaction and nothing
else. SQLite runs it to completion in the thread that owns the connection; PostgreSQL awaits it on the event loop. The
same functions therefore run on both databases, and neither blocks the event loop.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

from gateway.store.statements import Query, Row, Statement

T = TypeVar("T")


class Transaction(Protocol):
    """One transaction. Its statements see each other's effects; other transactions see them after the commit."""

    dialect: str  # "sqlite" or "postgresql"

    async def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Sequence[Any]]:
        """Runs SQL text in the dialect and parameter style of the driver, and returns the driver's rows unconverted."""
        ...

    async def all(self, query: Query[Row], **values: Any) -> list[Row]:
        """All rows of the query."""
        ...

    async def first(self, query: Query[Row], **values: Any) -> Row | None:
        """The first row of the query, or None when it returns no row."""
        ...

    async def run(self, statement: Statement, **values: Any) -> int:
        """Runs a statement that returns no rows, and returns the number of rows it changed."""
        ...

    async def run_many(self, sql: str, parameters: Sequence[Sequence[Any]]) -> None:
        """Runs SQL text once per tuple of parameters."""
        ...

    async def pause(self, ahead: float = 0.0) -> None:
        """Lets other work run. Long work in Python calls it between slices of about a millisecond.

        On PostgreSQL other tasks of the event loop run. On SQLite a read that is past its time limit, or would be after
        what is `ahead`, in seconds, ends here, so that one on the event loop continues in a thread.
        """
        ...


Work = Callable[[Transaction], Awaitable[T]]


class Load(NamedTuple):
    """The number of reads (or writes) that are running, and the number that are waiting to run."""

    running: int
    waiting: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseLimits:
    """Limits on concurrency, on waiting and on the duration of reads and writes. Durations are in seconds."""

    read_connections: int
    write_connections: int
    read_timeout: float
    write_timeout: float
    acquire_timeout: float  # for waiting until a connection is free, and for opening one
    max_waiting: int  # reads, and separately writes, that may wait; further ones are rejected immediately
    longest_wait: float  # estimated wait above which a read, or a write on PostgreSQL, is rejected immediately


class Database(Protocol):
    """A database that runs reads and writes in transactions."""

    dialect: str

    @property
    def statement_count(self) -> int:
        """The number of statements sent since the process started."""
        ...

    @property
    def load(self) -> Mapping[str, Load]:
        """The current load, under the keys `read` and `write`."""
        ...

    async def read(self, work: Work[T], *, single: bool = False) -> T:
        """Runs `work` on one consistent state of the database. Retries once when the connection is lost.

        `single` promises that `work` sends at most one statement; the explicit transaction is then omitted. The read
        counts for the caller of `gateway.fair_queue.CLAIM`. Raises LimitExceeded when the read exceeds the read
        timeout, Throttled when the caller uses its share of the database, and Unavailable when the database cannot be
        used.
        """
        ...

    async def write(self, work: Work[T]) -> T:
        """Runs `work` in a transaction. When this returns, the transaction is durable; when `work` raises, it has no
        effect.

        A transaction that certainly had no effect, because its connection was lost or because it conflicted with
        another transaction, is retried, so `work` may run more than once. Raises Unavailable when nothing was
        written, and Unconfirmed when the connection was lost during COMMIT.
        """
        ...

    async def listen(self, wake: Callable[[], None]) -> None:
        """Calls `wake` on the event loop soon after each commit, and whenever commits may have been missed.

        `wake` may be called without a commit. Commits of other processes may be missed, so the listener must also
        poll from time to time.
        """
        ...

    async def close(self) -> None:
        """Waits for running work to end, then closes every connection."""
        ...
