"""Database for gateways that are to crash: a server that can be killed, a relay that cuts connections, and logs.

Triggers of the test write the logs: every end of an operation, and every task and snapshot of the simulated provider.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest

from gateway.columns import now, timestamp_text
from tests.crash.rows import Rows
from tests.databases import Databases, make_database, prepare
from tests.postgres import PostgresServer, find_binaries
from tests.tcp_relay import TcpRelay

_AT = "'2026-01-01T00:00:00.000000Z'"
_AHEAD = timedelta(
    minutes=1
)  # otherwise a refresh that listed the provider just before would mark a new machine as gone
_FINAL = "('SUCCEEDED', 'FAILED', 'CANCELED')"
# Name, parent, and whether it is current: a <- b <- {c, d}, running on c.
TREE = (("a", None, False), ("b", "a", False), ("c", "b", True), ("d", "b", False))

# Of each log: its table, the logged value, the change that triggers it, and the condition.
_LOGS = (
    ("log_ended", "NEW.id", "UPDATE OF state ON operation", f"NEW.state IN {_FINAL}"),
    ("log_begun", "NEW.token", "INSERT ON simulated_task", "NEW.token IS NOT NULL"),
    ("log_made", "NEW.token", "INSERT ON simulated_snapshot", "NEW.token IS NOT NULL"),
)

Picture = list[tuple[str, str | None, bool]]


class Home:
    """A database with one simulated provider, `sim`. `url` leads the gateway under test through the relay."""

    def __init__(self, url: str, server: PostgresServer | None = None, relay: TcpRelay | None = None) -> None:
        self.rows = Rows(url)
        self.server = server
        self.relay = relay
        self.url = relay.url("world") if relay else url
        self.kind = "postgresql" if server else "sqlite"
        self._machines = 0
        self.rows("INSERT INTO provider (name, tenant, driver) VALUES ('sim', 'default', 'simulated')")
        for name, value, change, condition in _LOGS:
            for sql in _log(self.kind, name, value, change, condition):
                self.rows(sql)

    def machine(self, latency_ms: int = 0) -> int:
        """Inserts a machine that is switched on, with the snapshots of `TREE`. Returns its number."""
        self._machines += 1
        ref = f"m{self._machines}"
        seen = f"'{timestamp_text(now() + _AHEAD)}'"
        kept = f"'default', 'VM', '{ref}', '{ref}', 'sim', 'sim', '{ref}', '{ref}', false, 'ON', {_AT}, {_AT}, {seen}"
        statements = [
            (
                "INSERT INTO simulated_machine (ref, provider, kind, name, power_state, created_at, current_ref,"
                f" latency_ms) VALUES ('{ref}', 'sim', 'VM', '{ref}', 'ON', {_AT}, '{ref}-c', {latency_ms})"
            ),
            (
                "INSERT INTO machine (tenant, kind, name, name_folded, provider, provider_folded, provider_ref,"
                f" provider_ref_folded, imported, power_state, created_at, updated_at, observed_at) VALUES ({kept})"
            ),
        ]
        for name, parent, current in TREE:
            above = f"'{ref}-{parent}'" if parent else "NULL"
            statements += [
                (
                    "INSERT INTO simulated_snapshot (ref, machine_ref, name, memory, parent_ref, created_at)"
                    f" VALUES ('{ref}-{name}', '{ref}', '{name}', false, {above}, {_AT})"
                ),
                (
                    "INSERT INTO snapshot (tenant, machine_id, name, name_folded, state, memory, is_current,"
                    " provider_ref, provider_ref_folded, created_at, parent_id) SELECT 'default', id,"
                    f" '{name}', '{name}', 'READY', false, {str(current).lower()},"
                    f" '{ref}-{name}', '{ref}-{name}', {_AT},"
                    f" (SELECT id FROM snapshot WHERE provider_ref = {above}) FROM machine WHERE name = '{ref}'"
                ),
            ]
        self.rows.run_all(statements)
        number: int = self.rows(f"SELECT id FROM machine WHERE name = '{ref}'")[0][0]
        return number

    def snapshot(self, machine: int, name: str) -> str:
        """The id of a snapshot of the tree."""
        rows = self.rows(f"SELECT id FROM snapshot WHERE machine_id = {machine} AND name = '{name}'")
        return f"snapshot-{rows[0][0]}"

    def operations(self, machine: int) -> list[tuple[int, str, str, str | None]]:
        """Number, state, token and error code of each operation, in order."""
        found: list[Any] = self.rows(
            f"SELECT id, state, token, error_code FROM operation WHERE machine_id = {machine} ORDER BY id"
        )
        return found

    def picture(self, machine: int) -> Picture:
        """Snapshots in the inventory: name, name of the parent, whether it is current. All must be READY."""
        rows = self.rows(
            "SELECT s.name, p.name, s.is_current, s.state FROM snapshot s LEFT JOIN snapshot p ON p.id = s.parent_id"
            f" WHERE s.machine_id = {machine} ORDER BY s.name"
        )
        assert {state for *_, state in rows} <= {"READY"}, rows
        return [(name, parent, bool(current)) for name, parent, current, _ in rows]

    def provider_picture(self, machine: int) -> Picture:
        """Snapshots on the provider: name, name of the parent, whether it is current."""
        rows = self.rows(
            "SELECT s.name, p.name, s.ref = m.current_ref FROM machine i JOIN simulated_machine m ON m.ref = i.name"
            " JOIN simulated_snapshot s ON s.machine_ref = m.ref LEFT JOIN simulated_snapshot p ON p.ref = s.parent_ref"
            f" WHERE i.id = {machine} ORDER BY s.name"
        )
        return [(name, parent, bool(current)) for name, parent, current in rows]

    def described(self, machine: int) -> tuple[list[str], list[str]]:
        """The names of the snapshots with the description "new", in the inventory and on the provider."""
        here = f"SELECT name FROM snapshot WHERE machine_id = {machine} AND description = 'new'"
        there = (
            "SELECT s.name FROM machine i JOIN simulated_snapshot s ON s.machine_ref = i.name"
            f" WHERE i.id = {machine} AND s.description = 'new'"
        )
        return [name for (name,) in self.rows(here)], [name for (name,) in self.rows(there)]

    def counted(self, machine: int) -> tuple[int, int]:
        """The snapshot counter, which triggers maintain, and the number of snapshots."""
        (pair,) = self.rows(
            "SELECT m.snapshot_count, (SELECT count(*) FROM snapshot s WHERE s.machine_id = m.id) FROM machine m"
            f" WHERE m.id = {machine}"
        )
        return pair[0], pair[1]

    def is_locked(self) -> bool:
        """Whether another process holds the write lock of the database. Always False on PostgreSQL."""
        return self.kind == "sqlite" and self.rows.is_locked()

    def times(self, log: str, value: int | str) -> int:
        """Number of rows with `value` in a log."""
        count: int = self.rows(f"SELECT count(*) FROM {log} WHERE what = '{value}'")[0][0]
        return count


def _log(kind: str, name: str, value: str, change: str, condition: str) -> list[str]:
    insert = f"INSERT INTO {name} VALUES (CAST({value} AS TEXT));"
    table = f"CREATE TABLE {name} (what TEXT)"
    if kind == "sqlite":
        return [table, f"CREATE TRIGGER {name} AFTER {change} WHEN {condition} BEGIN {insert} END"]
    return [
        table,
        f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN {insert} RETURN NULL; END'",
        f"CREATE TRIGGER {name} AFTER {change} FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION {name}()",
    ]


@contextmanager
def home(kind: str, databases: Databases) -> Iterator[Home]:
    """A home on a database of `kind`. PostgreSQL runs as a server of its own behind a relay."""
    if kind == "sqlite":
        yield Home(databases.new("sqlite"))
        return
    binaries = find_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed")
    # A stopping server waits for connections that authenticate. A stopped gateway may have one, so the wait is short.
    server = PostgresServer(binaries, "synchronous_commit=on", "authentication_timeout=3s")
    relay = TcpRelay(server.port)
    try:
        yield Home(prepare(make_database(server, "world")), server, relay)
    finally:
        relay.close()
        server.stop()


RESTARTS = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}
