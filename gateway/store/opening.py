"""From a database URL to a `Database`, and the refusals a person sees when that does not work."""

import os
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit

from gateway.errors import StartupError
from gateway.store.database import Database, Limits
from gateway.store.sqlite import SqliteDatabase

postgres: ModuleType | None
try:
    from gateway.store import postgres
except ImportError:  # its driver is an extra
    postgres = None

NEEDS_POSTGRES = "PostgreSQL needs the extra: pip install 'snapshot-gateway[postgres]'"

_POSTGRESQL = {"postgresql", "postgres"}


def sqlite_path(url: str) -> str:
    """The file that a `sqlite:///` URL names: `sqlite:///relative.db`, `sqlite:////absolute.db`."""
    path = url.removeprefix("sqlite:///")
    if not path or path == ":memory:":
        raise StartupError("GATEWAY_DATABASE_URL must name a file, such as sqlite:///gateway.db")
    return path


def scheme(url: str) -> str:
    """`sqlite` or `postgresql`. Raises StartupError for any other URL, and shows nothing of it."""
    if url.startswith("sqlite:///"):
        return "sqlite"
    try:
        parts = urlsplit(url)
        hosts = parts.netloc.rpartition("@")[2].split(",")  # of a cluster
        ambiguous = parts.netloc.count("@") > 1 or any(urlsplit(f"//{host}").port == 0 for host in hosts)
    except ValueError:
        ambiguous = True
    if ambiguous:  # its password could be taken for a part of the host's name, which errors do show
        raise StartupError("GATEWAY_DATABASE_URL cannot be read: write @ in its password as %40, and / : # ? [ ] alike")
    if parts.scheme in _POSTGRESQL and parts.netloc:
        return "postgresql"
    raise StartupError("GATEWAY_DATABASE_URL must be sqlite:///FILE or postgresql://USER@HOST/NAME")


def open_database(
    url: str,
    *,
    read_connections: int,
    write_connections: int,
    read_timeout: float,
    write_timeout: float = 15.0,
    wait: float = 5.0,
    queue: int = 1_000,
) -> Database:
    """The database behind `url`, which must be migrated already. Raises StartupError. See Limits for the rest."""
    limits = Limits(
        read_connections=read_connections,
        write_connections=write_connections,
        read_timeout=read_timeout,
        write_timeout=write_timeout,
        wait=wait,
        queue=queue,
    )
    if scheme(url) == "sqlite":
        check_file(sqlite_path(url))
        return SqliteDatabase(sqlite_path(url), limits)
    if postgres is None:
        raise StartupError(NEEDS_POSTGRES)
    database: Database = postgres.PostgresDatabase(url, limits)
    return database


def check_file(path: str) -> None:
    """Raises StartupError when the SQLite file cannot be read and written."""
    file = Path(path)
    try:
        exists = file.exists()
    except PermissionError:
        raise StartupError(f"the database {path} cannot be reached: check the permissions of its directory") from None
    if file.is_dir():
        raise StartupError(f"the database {path} is a directory")
    if not exists and not os.access(file.parent, os.W_OK):
        raise StartupError(f"the database {path} cannot be created: check that its directory exists and is writable")
    if exists and not os.access(file, os.R_OK | os.W_OK):
        raise StartupError(f"the database {path} cannot be read and written: check its permissions")
