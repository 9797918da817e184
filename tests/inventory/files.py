"""Builds import files in ManageIQ's format, and reads what a database contains after the import."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import psycopg

from gateway.inventory.imports.importer import ImportResult, import_files
from gateway.store.database_url import sqlite_path

HOST = "http://localhost:3000/api"

MACHINES = "SELECT id, name, provider, provider_ref, power_state, gone_at IS NULL FROM machine ORDER BY id"
SNAPSHOTS = (
    "SELECT id, machine_id, provider_ref, name, parent_id, CASE WHEN is_current THEN 1 ELSE 0 END, state"
    " FROM snapshot ORDER BY id"
)


def vm(number: int, *snapshots: dict[str, Any], **attributes: Any) -> dict[str, Any]:
    """A Vm with its list of snapshots. Attributes that are None are null in the file."""
    defaults = {"href": f"{HOST}/vms/{number}", "id": str(number), "name": f"vm {number}", "ems_ref": f"vm-{number}"}
    return defaults | attributes | {"snapshots": list(snapshots)}


def snapshot(number: int, **attributes: Any) -> dict[str, Any]:
    defaults = {"id": str(number), "name": f"snapshot {number}", "create_time": "2017-01-11T00:00:00Z"}
    return defaults | attributes


def collection(*machines: dict[str, Any], name: str = "vms") -> dict[str, Any]:
    return {"name": name, "count": len(machines), "resources": list(machines)}


def import_pages(
    url: str, directory: Path, *pages: Any, provider: str = "manageiq", name: str = "vms.json"
) -> ImportResult:
    """Imports a file that consists of these pages."""
    path = directory / name
    path.write_text("\n".join(json.dumps(page) for page in pages))
    return import_files(url, [path], tenant="default", provider=provider)


def select(url: str, sql: str) -> list[tuple[Any, ...]]:
    """The rows of a query, as the database driver returns them."""
    if url.startswith("sqlite"):
        connection = sqlite3.connect(sqlite_path(url))
        try:
            return connection.execute(sql).fetchall()
        finally:
            connection.close()
    with psycopg.connect(url) as postgres:
        return [tuple(row) for row in postgres.execute(sql.encode()).fetchall()]


def execute(url: str, sql: str) -> None:
    if url.startswith("sqlite"):
        connection = sqlite3.connect(sqlite_path(url))
        try:
            connection.execute(sql)
            connection.commit()
        finally:
            connection.close()
        return
    with psycopg.connect(url) as postgres:
        postgres.execute(sql.encode())


def all_rows(url: str) -> list[list[tuple[Any, ...]]]:
    """All rows of the tables that an import may change. They must be unchanged after an import that is refused."""
    tables = {
        "provider": "name",
        "machine": "id",
        "snapshot": "id",
        "operation": "id",
        "event": "id",
        "audit_entry": "id",
    }
    return [select(url, f"SELECT * FROM {table} ORDER BY {key}") for table, key in tables.items()]
