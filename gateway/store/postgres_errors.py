"""What PostgreSQL and the network raise, sorted by what can be done about it. The causes are for the log alone."""

from typing import Any

import asyncpg

from gateway.errors import GatewayError, Unavailable


class ConnectionLost(Unavailable):
    """The transaction has left no trace, and may be begun anew on another connection."""


class Contended(Unavailable):
    """The database took the transaction back so that another could go on: it may be begun anew."""


_NO_ANSWER = "the database does not answer in time"
_LOST = "the connection to the database was lost"
_CONTENDED = "too many others change the same things at the same time"

# The first that fits. What a newer gateway has migrated is found by a statement that was prepared before.
_KINDS: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], type[GatewayError], str], ...] = (
    ((asyncpg.SerializationError, asyncpg.DeadlockDetectedError), Contended, _CONTENDED),
    ((asyncpg.InvalidCachedStatementError, asyncpg.exceptions.OutdatedSchemaCacheError), ConnectionLost, _LOST),
    (asyncpg.LockNotAvailableError, Unavailable, "other work holds on to what this would change"),
    # Another host may have taken over from one that is read-only.
    (asyncpg.ReadOnlySQLTransactionError, ConnectionLost, "the database is read-only for now"),
    (asyncpg.TooManyConnectionsError, Unavailable, "the database has no connections left"),
    (asyncpg.InsufficientResourcesError, Unavailable, "the database is out of space or memory"),
    (asyncpg.QueryCanceledError, Unavailable, "the database has ended the statement"),
    (TimeoutError, Unavailable, _NO_ANSWER),
    (
        (
            OSError,
            asyncpg.PostgresConnectionError,
            asyncpg.OperatorInterventionError,
            asyncpg.IdleInTransactionSessionTimeoutError,
        ),
        ConnectionLost,
        _LOST,
    ),
)


def sorted_out(error: Exception, connection: Any) -> Exception:
    """`error`, raised on `connection`, as the gateway tells it; what is no trouble of the database's stays as it is."""
    if isinstance(error, GatewayError):
        return error
    for kinds, told, message in _KINDS:
        if isinstance(error, kinds):
            return told(message)
    return ConnectionLost(_LOST) if connection.is_closed() else error


def unreachable(error: Exception) -> Unavailable:
    """`error`, raised while a connection was opened, as the gateway tells it."""
    for kinds, _, message in _KINDS:
        if message is not _LOST and isinstance(error, kinds):
            return Unavailable(message)
    return Unavailable("the database cannot be reached")
