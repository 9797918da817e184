"""The database URL: parses it, opens the `Database` it names, and reports what is wrong with it to the operator."""

import os
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit

from gateway.errors import StartupError
from gateway.store.database import Database, DatabaseLimits
from gateway.store.sqlite import SqliteDatabase

postgres: ModuleType | None
try:
    from gateway.store import postgres
except ImportError:  # its driver is an optional extra
    postgres = None

POSTGRES_EXTRA_MISSING = (
    "PostgreSQL support is not installed. Install the extra: pip install 'snapshot-gateway[postgres]'."
)

_POSTGRESQL = {"postgresql", "postgres"}


def sqlite_path(url: str) -> str:
    """The file that a `sqlite:///` URL names: `sqlite:///relative.db`, `sqlite:////absolute.db`."""
    path = url.removeprefix("sqlite:///")
    if not path or path == ":memory:":
        raise StartupError("GATEWAY_DATABASE_URL must name a file, such as sqlite:///gateway.db.")
    return path


def scheme(url: str) -> str:
    """`sqlite` or `postgresql`. Raises StartupError for any other URL; the message contains no part of the URL."""
    if url.startswith("sqlite:///"):
        return "sqlite"
    try:
        parts = urlsplit(url)
        hosts = parts.netloc.rpartition("@")[2].split(",")  # a cluster has several
        ambiguous = parts.netloc.count("@") > 1 or any(urlsplit(f"//{host}").port == 0 for host in hosts)
    except ValueError:
        ambiguous = True
    if ambiguous:  # part of the password could be parsed as part of the host name, which error messages contain
        raise StartupError(
            "GATEWAY_DATABASE_URL cannot be parsed. Percent-encode special characters in the password:"
            " @ as %40, and likewise / : # ? [ ]."
        )
    if parts.scheme in _POSTGRESQL and parts.netloc:
        return "postgresql"
    raise StartupError("GATEWAY_DATABASE_URL must be sqlite:///FILE or postgresql://USER@HOST/NAME.")


def open_database(
    url: str,
    *,
    read_connections: int,
    write_connections: int,
    read_timeout: float,
    write_timeout: float = 15.0,
    acquire_timeout: float = 5.0,
    max_waiting: int = 1_000,
    longest_wait: float = 0.5,
) -> Database:
    """Opens the database at `url`, which must already be migrated. The other parameters are those of DatabaseLimits.

    Raises StartupError when the URL is invalid or the database cannot be used.
    """
    limits = DatabaseLimits(
        read_connections=read_connections,
        write_connections=write_connections,
        read_timeout=read_timeout,
        write_timeout=write_timeout,
        acquire_timeout=acquire_timeout,
        max_waiting=max_waiting,
        longest_wait=longest_wait,
    )
    if scheme(url) == "sqlite":
        check_file(sqlite_path(url))
        return SqliteDatabase(sqlite_path(url), limits)
    if postgres is None:
        raise StartupError(POSTGRES_EXTRA_MISSING)
    database: Database = postgres.PostgresDatabase(url, limits)
    return database


def create_file(path: str) -> None:
    """Creates the SQLite file, empty and readable by this user only, unless it exists. Raises StartupError.

    SQLite gives its `-wal` and `-shm` files the permissions of the database. An existing file is not opened: closing it
    would release the locks that other connections of this process hold.
    """
    try:
        os.close(os.open(os.path.realpath(path), os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        pass
    except OSError as error:
        reason = (error.strerror or "permission denied").lower()
        raise StartupError(f"The database file '{path}' cannot be created ({reason}).") from None


def check_file(path: str) -> None:
    """Raises StartupError when the SQLite file cannot be read and written, or cannot be created."""
    file = Path(path)
    try:
        exists = file.exists()
    except PermissionError:
        raise StartupError(
            f"The database file '{path}' cannot be reached. Check the permissions of its directory."
        ) from None
    if file.is_dir():
        raise StartupError(f"The database file '{path}' is a directory.")
    if not exists and not os.access(file.parent, os.W_OK):
        raise StartupError(
            f"The database file '{path}' cannot be created. Check that its directory exists and is writable."
        )
    if exists and not os.access(file, os.R_OK | os.W_OK):
        raise StartupError(f"The database file '{path}' cannot be read and written. Check its permissions.")
