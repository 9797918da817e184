"""The connection of an import, with temporary tables that hold all files before any of it is merged.

An import does not use `store.Database`, because reading a long file would block its single writer. The SQL here and in
`merge` is the same text for both databases; parameters are written `:name`.
"""

import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from typing import Any, Protocol, TypeVar

from gateway.columns import timestamp_text
from gateway.errors import StartupError
from gateway.store.database_url import POSTGRES_EXTRA_MISSING, check_file, scheme, sqlite_path
from gateway.store.sqlite import connect

try:  # an optional extra
    import psycopg
except ImportError:
    psycopg = None  # type: ignore[assignment]

T = TypeVar("T")

StagedRow = tuple[object, ...]

# `complete`: the machine has its whole list of snapshots, so that those missing from it are removed.
_MACHINE = """
    no INTEGER PRIMARY KEY, position TEXT, collection TEXT, complete BOOLEAN,
    id BIGINT, kind TEXT, name TEXT, name_folded TEXT, description TEXT, description_folded TEXT,
    provider_ref TEXT, provider_ref_folded TEXT, provider_uid TEXT, power_state TEXT, host TEXT, host_folded TEXT,
    flavor TEXT, availability_zone TEXT, is_gone BOOLEAN, gone_at MOMENT, created_at MOMENT, disposition TEXT
"""
_SNAPSHOT = """
    machine_no INTEGER, place INTEGER,
    id BIGINT, parent_id BIGINT, name TEXT, name_folded TEXT, description TEXT, description_folded TEXT,
    state TEXT, memory BOOLEAN, is_current BOOLEAN, size_bytes BIGINT, provider_ref TEXT, provider_ref_folded TEXT,
    created_by TEXT, created_by_folded TEXT, created_at MOMENT
"""
TABLES = {
    "staged_machine": _MACHINE,
    "staged_snapshot": _SNAPSHOT,
    "changed": "id BIGINT",  # the ids of one table's rows that the merge has to update
}


class ImportSession(Protocol):
    """One connection. Outside of `transaction`, each statement is committed immediately."""

    dialect: str

    def execute(self, sql: str, values: Mapping[str, object] | None = None) -> int:
        """Runs a statement and returns the number of rows it changed. On SQLite, it must not begin with WITH."""
        ...

    def rows(self, sql: str, row_type: Callable[..., T], values: Mapping[str, object] | None = None) -> list[T]:
        """Runs a query and returns `row_type(*columns)` of each row: a NamedTuple or, of a single column, an int."""
        ...

    def append(self, table: str, rows: Sequence[StagedRow]) -> None:
        """Inserts rows into one of TABLES, with values in the order of its columns. Omitted last columns are null."""
        ...

    def transaction(self) -> AbstractContextManager[None]:
        """Commits all statements in the block, or none when it raises."""
        ...


@contextmanager
def open_session(url: str) -> Iterator[ImportSession]:
    """Opens a session on the migrated database at `url`, with empty TABLES.

    Raises StartupError when the database cannot be used, also for an operational error inside the block.
    """
    failures = (sqlite3.OperationalError, *((psycopg.OperationalError,) if psycopg else ()))
    try:
        with _connected(url) as session:
            yield session
    except failures as error:
        raise StartupError(f"The database cannot be used: {str(error).strip().splitlines()[0]}") from None


@contextmanager
def _connected(url: str) -> Iterator[ImportSession]:
    if scheme(url) == "sqlite":
        check_file(sqlite_path(url))
        connection = connect(sqlite_path(url))
        try:
            yield _SqliteSession(connection)
        finally:
            connection.close()
    elif psycopg is None:
        raise StartupError(POSTGRES_EXTRA_MISSING)
    else:
        with psycopg.connect(url, autocommit=True, application_name="snapshot-gateway-import") as postgres:
            yield _PostgresSession(postgres)


class _SqliteSession:
    dialect = "sqlite"

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        # Staged rows go to a temporary file, and the database is not memory-mapped, so that memory stays bounded.
        for pragma in ("temp_store = FILE", "temp.cache_size = -16384", "mmap_size = 0", "cache_size = -98304"):
            connection.execute(f"PRAGMA {pragma}")
        for table, columns in TABLES.items():
            connection.execute(f"CREATE TEMP TABLE {table} ({columns.replace('MOMENT', 'TEXT')})")

    def execute(self, sql: str, values: Mapping[str, object] | None = None) -> int:
        return self._connection.execute(_sqlite(sql), _sqlite_values(values)).rowcount

    def rows(self, sql: str, row_type: Callable[..., T], values: Mapping[str, object] | None = None) -> list[T]:
        return [row_type(*row) for row in self._connection.execute(_sqlite(sql), _sqlite_values(values))]

    def append(self, table: str, rows: Sequence[StagedRow]) -> None:
        width = len(rows[0])
        columns = ", ".join(_columns(table)[:width])
        marks = ", ".join("?" * width)
        moments = [number for number, column in enumerate(TABLES[table].split(",")[:width]) if "MOMENT" in column]
        values = [_with_moments_as_text(row, moments) for row in rows]
        self._connection.execute("BEGIN")
        self._connection.executemany(f"INSERT INTO temp.{table} ({columns}) VALUES ({marks})", values)
        self._connection.execute("COMMIT")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self._connection.in_transaction:  # after some errors, such as a full disk, SQLite has rolled back itself
                self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")


class _PostgresSession:
    dialect = "postgresql"

    def __init__(self, connection: "psycopg.Connection[tuple[Any, ...]]") -> None:
        self._connection = connection
        for table, columns in TABLES.items():
            # The same collation as in the tables of the gateway; columns of different collations cannot be compared.
            typed = columns.replace("MOMENT", "TIMESTAMPTZ").replace("TEXT", 'TEXT COLLATE "C"')
            connection.execute(f"CREATE TEMP TABLE {table} ({typed})".encode())
        connection.execute("SET jit = off")

    def execute(self, sql: str, values: Mapping[str, object] | None = None) -> int:
        return self._connection.execute(_postgres(sql), values or None).rowcount

    def rows(self, sql: str, row_type: Callable[..., T], values: Mapping[str, object] | None = None) -> list[T]:
        return [row_type(*row) for row in self._connection.execute(_postgres(sql), values or None)]

    def append(self, table: str, rows: Sequence[StagedRow]) -> None:
        columns = ", ".join(_columns(table)[: len(rows[0])])
        with self._connection.cursor() as cursor, cursor.copy(f"COPY {table} ({columns}) FROM STDIN".encode()) as copy:
            for row in rows:
                copy.write_row(row)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with self._connection.transaction():
            yield


def _columns(table: str) -> list[str]:
    return [column.split()[0] for column in TABLES[table].split(",")]


def _with_moments_as_text(row: StagedRow, moments: Sequence[int]) -> list[object]:
    values = list(row)
    for number in moments:
        if isinstance(value := values[number], datetime):
            values[number] = timestamp_text(value)
    return values


def _sqlite(sql: str) -> str:
    return sql.replace("IS DISTINCT FROM", "IS NOT")  # older SQLite versions support IS NOT only


def _sqlite_values(values: Mapping[str, object] | None) -> dict[str, object]:
    return {
        name: timestamp_text(value) if isinstance(value, datetime) else value for name, value in (values or {}).items()
    }


def _postgres(sql: str) -> bytes:
    return re.sub(r"(?<!:):([a-z]\w*)", r"%(\1)s", sql).encode()
