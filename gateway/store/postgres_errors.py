"""Translates errors that PostgreSQL and the network raise into errors of the gateway.

The translated error says what the caller can do. The original error goes to the log only.
"""

from typing import Any

import asyncpg

from gateway.errors import GatewayError, RequestTooLarge, Unavailable


class ConnectionLost(Unavailable):
    """The connection was lost before COMMIT. The transaction had no effect and may be retried on another connection."""


class TransactionConflict(Unavailable):
    """The server rolled the transaction back because of a deadlock or serialization failure. It may be retried."""


_TIMED_OUT = "The database did not answer in time."
_LOST = "The connection to the database was lost."
_CONFLICT = "Too many concurrent transactions changed the same rows."

# The first entry that matches applies. After another gateway has migrated the schema, statements that were prepared
# before raise InvalidCachedStatementError or OutdatedSchemaCacheError; a new connection prepares them again.
_KINDS: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], type[GatewayError], str], ...] = (
    ((asyncpg.SerializationError, asyncpg.DeadlockDetectedError), TransactionConflict, _CONFLICT),
    ((asyncpg.InvalidCachedStatementError, asyncpg.exceptions.OutdatedSchemaCacheError), ConnectionLost, _LOST),
    (
        asyncpg.LockNotAvailableError,
        Unavailable,
        "Another transaction holds a lock on a row that this request would change.",
    ),
    # Lost: another host may have become the primary, and a new connection finds it.
    (asyncpg.ReadOnlySQLTransactionError, ConnectionLost, "The database is currently read-only."),
    (asyncpg.TooManyConnectionsError, Unavailable, "The database has no connections left."),
    (asyncpg.InsufficientResourcesError, Unavailable, "The database is out of disk space or memory."),
    (
        (asyncpg.StatementTooComplexError, asyncpg.TooManyArgumentsError, asyncpg.TooManyColumnsError),
        RequestTooLarge,
        "The filter is nested too deeply for PostgreSQL. Use fewer levels of conditions and of related rows.",
    ),
    (asyncpg.QueryCanceledError, Unavailable, "The database canceled the statement."),
    (TimeoutError, Unavailable, _TIMED_OUT),
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


def translate(error: Exception, connection: Any) -> Exception:
    """The error of the gateway that `error`, raised on `connection`, means; or `error` itself when it has no other
    meaning, such as a bug.
    """
    if isinstance(error, GatewayError):
        return error
    for kinds, translated, message in _KINDS:
        if isinstance(error, kinds):
            return translated(message)
    return ConnectionLost(_LOST) if connection.is_closed() else error


def translate_connect_error(error: Exception) -> Unavailable:
    """The Unavailable that `error`, raised while a connection was opened, means."""
    for kinds, _, message in _KINDS:
        if message is not _LOST and isinstance(error, kinds):
            return Unavailable(message)
    return Unavailable("The database cannot be reached.")
