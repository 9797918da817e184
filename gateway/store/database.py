"""The database as the rest of the gateway sees it: consistent reads, atomic writes.

Work is an async function of a `Transaction`. It may wait for its transaction and for nothing else: on SQLite it is
driven to its end inside the thread that owns the connection, on PostgreSQL it is awaited on the event loop. So the
same functions run on both, and neither blocks the loop.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
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
        """Runs `work` on one state of the database. `single`: it makes at most one statement.

        Raises LimitExceeded when it takes longer than the read timeout.
        """
        ...

    async def write(self, work: Work[T]) -> T:
        """Runs `work` in a transaction that is durable when this returns, and leaves no trace when `work` raises."""
        ...

    async def listen(self, wake: Callable[[], None]) -> None:
        """Has `wake` called on the event loop soon after a commit. It may be called for nothing, and a commit of
        another process may go unnoticed: whoever listens looks by itself now and then.
        """
        ...

    async def check(self) -> None:
        """Raises an exception when the database does not answer."""
        ...

    async def close(self) -> None:
        """Lets what runs end, then closes every connection."""
        ...
