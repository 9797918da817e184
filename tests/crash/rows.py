"""SQL on the database of a gateway, independent of the gateway and its connections."""

import sqlite3
from contextlib import closing
from typing import Any

import psycopg

from gateway.config import Settings


class Rows:
    """Runs each statement on a new connection. `settings` are those of a gateway on this database."""

    def __init__(self, url: str) -> None:
        self.settings = Settings(database_url=url, port=0)
        self._url = url

    def __call__(self, sql: str) -> list[tuple[Any, ...]]:
        with closing(self._connect()) as connection:
            cursor = connection.execute(sql)
            rows = [tuple(row) for row in cursor.fetchall()] if cursor.description else []
            connection.commit()
        return rows

    def run_all(self, statements: list[str]) -> None:
        """Runs the statements in one transaction."""
        with closing(self._connect()) as connection:
            for sql in statements:
                connection.execute(sql)
            connection.commit()

    def is_locked(self, seconds: float = 1.0) -> bool:
        """Whether another process holds SQLite's write lock for at least `seconds` seconds."""
        with closing(self._connect(seconds)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return True
            return False

    def _connect(self, seconds: float = 30.0) -> Any:
        if self._url.startswith("sqlite"):
            return sqlite3.connect(self._url.removeprefix("sqlite:///"), timeout=seconds)
        return psycopg.connect(self._url)

    def dump(self) -> dict[str, list[str]]:
        """All rows that a command can write, by SELECT statement."""
        tables = ("operation", "idempotency_key", "audit_entry", "event", "simulated_snapshot", "simulated_task")
        selects = [f"SELECT * FROM {name}" for name in tables]
        selects.append(
            "SELECT id, name, state, is_current, parent_id FROM snapshot"
        )  # refreshes update the other columns
        return {select: sorted(map(repr, self(select))) for select in selects}
