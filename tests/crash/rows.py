"""The database from outside, whatever becomes of the gateway and of its connections."""

import sqlite3
from contextlib import closing
from typing import Any

import psycopg

from gateway.config import Settings


class Rows:
    """Runs SQL, each on a connection of its own. `settings` are a gateway's on this database."""

    def __init__(self, url: str) -> None:
        self.settings = Settings(database_url=url, port=0)
        self._url = url

    def __call__(self, sql: str) -> list[tuple[Any, ...]]:
        with closing(self._connect()) as connection:
            cursor = connection.execute(sql)
            rows = [tuple(row) for row in cursor.fetchall()] if cursor.description else []
            connection.commit()
        return rows

    def together(self, statements: list[str]) -> None:
        """Runs them in one transaction."""
        with closing(self._connect()) as connection:
            for sql in statements:
                connection.execute(sql)
            connection.commit()

    def is_locked(self, patience: float = 1.0) -> bool:
        """Whether nobody else may write to SQLite's file for so many seconds."""
        with closing(self._connect(patience)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return True
            return False

    def _connect(self, patience: float = 30.0) -> Any:
        if self._url.startswith("sqlite"):
            return sqlite3.connect(self._url.removeprefix("sqlite:///"), timeout=patience)
        return psycopg.connect(self._url)

    def dump(self) -> dict[str, list[str]]:
        tables = ("operation", "idempotency_key", "audit_entry", "event", "simulated_snapshot", "simulated_task")
        selects = [f"SELECT * FROM {name}" for name in tables]
        selects.append("SELECT id, name, state, is_current, parent_id FROM snapshot")  # a refresh confirms the rest
        return {select: sorted(map(repr, self(select))) for select in selects}
