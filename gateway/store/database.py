"""The database as the rest of the gateway sees it: consistent reads, atomic writes.

Work is an async function of a `Transaction`. It may wait for its transaction and for nothing else: on SQLite it is
driven to its end inside the thread that owns the connection, on PostgreSQL it is awaited on the event loop. So the
same functions run on both, and neither blocks the loop.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

from gateway.store.statements import Statement

T = TypeVar("T")


class Transaction(Protocol):
    """One transaction. Statements see each other's effects; nobody else does before it commits."""

    dialect: str  # "sqlite" or "postgresql"

    async def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Sequence[Any]]:
        """Runs SQL text in the driver's own terms; rows come back as the driver gives them."""
        ...

    async def all(self, statement: Statement, **values: Any) -> list[Any]:
        """Every row, as named tuples of Python values."""
        ...

    async def first(self, statement: Statement, **values: Any) -> Any:
        """The first row as a named tuple, or None."""
        ...

    async def run(self, statement: Statement, **values: Any) -> int:
        """Runs a statement that returns no rows; how many rows it changed."""
        ...

    async def run_many(self, sql: str, parameters: Sequence[Sequence[Any]]) -> None:
        """Runs SQL text once per tuple of parameters."""
        ...


Work = Callable[[Transaction], Awaitable[T]]


class Load(NamedTuple):
    """How much is being done, and how much waits for that."""

    running: int
    waiting: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much a database is asked for at once, and how long that may take, in seconds."""

    read_connections: int
    write_connections: int
    read_timeout: float
    write_timeout: float
    wait: float  # for a connection: to be free, to be opened
    queue: int  # reads, and writes, that may wait; what comes on top is refused at once


class Database(Protocol):
    """Where the data is."""

    dialect: str

    @property
    def statements(self) -> int:
        """How many were sent since the start."""
        ...

    @property
    def load(self) -> Mapping[str, Load]:
        """What is under way, by `read` and `write`."""
        ...

    async def read(self, work: Work[T], *, single: bool = False) -> T:
        """Runs `work` on one state of the database, again if its connection is lost. `single`: at most one statement.

        Raises LimitExceeded when it takes longer than the read timeout, and Unavailable.
        """
        ...

    async def write(self, work: Work[T]) -> T:
        """Runs `work` in a transaction that is durable when this returns, and leaves no trace when `work` raises.

        A transaction that has certainly left no trace, because its connection was lost or others stood in its way, is
        begun anew: `work` may run more than once. Raises Unavailable when nothing was written, and Unconfirmed when
        the database went away while it was told to commit.
        """
        ...

    async def listen(self, wake: Callable[[], None]) -> None:
        """Has `wake` called on the event loop soon after a commit, and when commits may have gone unnoticed. It may be
        called for nothing, and a commit of another process may go unnoticed: whoever listens looks by itself now and
        then.
        """
        ...

    async def close(self) -> None:
        """Lets what runs end, then closes every connection."""
        ...
