"""What SQLite raises, sorted by what can be done about it. The causes are for the log alone."""

import logging
import sqlite3

from gateway.errors import Unavailable, Unconfirmed

log = logging.getLogger(__name__)

_MESSAGES = {
    sqlite3.SQLITE_BUSY: "other work holds on to the database",
    sqlite3.SQLITE_LOCKED: "other work holds on to the database",
    sqlite3.SQLITE_READONLY: "the database is read-only for now",
    sqlite3.SQLITE_PERM: "the database cannot be reached",
    sqlite3.SQLITE_CANTOPEN: "the database cannot be reached",
    sqlite3.SQLITE_FULL: "the database is out of space",
    sqlite3.SQLITE_NOMEM: "the database is out of memory",
    sqlite3.SQLITE_IOERR: "the database cannot be read or written",
}


def sorted_out(error: BaseException) -> BaseException:
    """`error` as the gateway tells it; what is no trouble of the database's stays as it is."""
    message = _MESSAGES.get(_kind(error))
    if message is None:
        return error
    log.warning("%s: %s", message, error)
    return Unavailable(message)


def commit_failed(error: BaseException) -> BaseException:
    """The same, when it was a COMMIT: a disk that failed may have kept it, and show it after a restart."""
    told = sorted_out(error)
    if _kind(error) != sqlite3.SQLITE_IOERR:
        return told
    return Unconfirmed(
        "the disk failed while the database was told to commit, so this may or may not have been accepted: look before"
        " you ask again"
    )


def _kind(error: BaseException) -> int:
    """The primary result code; 0 for what is not SQLite's."""
    code: int = getattr(error, "sqlite_errorcode", 0) if isinstance(error, sqlite3.Error) else 0
    return code & 0xFF
