"""Translates errors that SQLite raises into errors of the gateway. SQLite's own message goes to the log only."""

import logging
import sqlite3

from gateway.errors import RequestTooLarge, Unavailable, Unconfirmed

log = logging.getLogger(__name__)

_TOO_LARGE = "The filter is nested too deeply for SQLite. Use fewer levels of conditions and of related rows."
_LOCKED = "The database is locked by another transaction."
_UNREACHABLE = "The database cannot be reached."
_MESSAGES = {
    sqlite3.SQLITE_BUSY: _LOCKED,
    sqlite3.SQLITE_LOCKED: _LOCKED,
    sqlite3.SQLITE_READONLY: "The database is currently read-only.",
    sqlite3.SQLITE_PERM: _UNREACHABLE,
    sqlite3.SQLITE_CANTOPEN: _UNREACHABLE,
    sqlite3.SQLITE_FULL: "The database is out of disk space.",
    sqlite3.SQLITE_NOMEM: "The database is out of memory.",
    sqlite3.SQLITE_IOERR: "The database cannot be read or written.",
}
# The beginnings of the messages of SQLITE_ERROR for a statement that exceeds a limit of the SQLite library.
_LIMITS = (
    "parser stack overflow",
    "Expression tree is too large",
    "at most 64 tables in a join",
    "too many SQL variables",
    "too many columns",
)


def translate(error: BaseException) -> BaseException:
    """The error of the gateway that `error` means, or `error` itself when it is a bug.

    Unavailable for a condition of the database, RequestTooLarge for a statement that SQLite cannot process.
    """
    code = _primary_code(error)
    if code == sqlite3.SQLITE_ERROR and str(error).startswith(_LIMITS):
        log.info("SQLite cannot process a statement error=%s", error)
        return RequestTooLarge(_TOO_LARGE)
    message = _MESSAGES.get(code)
    if message is None:
        return error
    log.warning("SQLite failed error=%s message=%s", error, message)
    return Unavailable(message)


def translate_commit_error(error: BaseException) -> BaseException:
    """Like `translate`, for an error of COMMIT. After an I/O error the transaction may still be on disk and become
    visible after a restart, so the outcome is Unconfirmed.
    """
    translated = translate(error)
    if _primary_code(error) != sqlite3.SQLITE_IOERR:
        return translated
    return Unconfirmed(
        "A disk error occurred during COMMIT, so the request may or may not have been accepted."
        " Check the current state before repeating it."
    )


def _primary_code(error: BaseException) -> int:
    """SQLite's primary result code; 0 for an error that is not SQLite's."""
    code: int = getattr(error, "sqlite_errorcode", 0) if isinstance(error, sqlite3.Error) else 0
    return code & 0xFF
