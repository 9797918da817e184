"""Files in ManageIQ's shape, and what a database holds after them."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import psycopg

from gateway.inventory.counts import Counts
from gateway.inventory.imports.run import import_file
from gateway.store.opening import sqlite_path

HOST = "http://localhost:3000/api"

MACHINES = "SELECT id, name, provider, provider_ref, power_state, gone_at IS NULL FROM machine ORDER BY id"
SNAPSHOTS = (
    "SELECT id, machine_id, provider_ref, name, parent_id, CASE WHEN is_current THEN 1 ELSE 0 END, state"
    " FROM snapshot ORDER BY id"
)


def vm(number: int, *snapshots: dict[str, Any], **attributes: Any) -> dict[str, Any]:
    """A Vm with its list of snapshots; attributes that are None are null in the file."""
    known = {"href": f"{HOST}/vms/{number}", "id": str(number), "name": f"vm {number}", "ems_ref": f"vm-{number}"}
    return known | attributes | {"snapshots": list(snapshots)}


def snapshot(number: int, **attributes: Any) -> dict[str, Any]:
    known = {"id": str(number), "name": f"snapshot {number}", "create_time": "2017-01-11T00:00:00Z"}
    return known | attributes


def collection(*machines: dict[str, Any], name: str = "vms") -> dict[str, Any]:
    return {"name": name, "count": len(machines), "resources": list(machines)}


def bring_in(url: str, directory: Path, *pages: Any, provider: str = "manageiq", name: str = "vms.json") -> Counts:
    """Imports a file of these pages."""
    path = directory / name
    path.write_text("\n".join(json.dumps(page) for page in pages))
    return import_file(url, path, tenant="default", provider=provider)


def select(url: str, sql: str) -> list[tuple[Any, ...]]:
    """Rows, in the driver's own terms."""
    if url.startswith("sqlite"):
        connection = sqlite3.connect(sqlite_path(url))
        try:
            return connection.execute(sql).fetchall()
        finally:
            connection.close()
    with psycopg.connect(url) as postgres:
        return [tuple(row) for row in postgres.execute(sql.encode()).fetchall()]


def change(url: str, sql: str) -> None:
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


def everything(url: str) -> list[list[tuple[Any, ...]]]:
    """Every row of the tables that an import could touch: what must stay the same when it is refused."""
    tables = {
        "provider": "name",
        "machine": "id",
        "snapshot": "id",
        "operation": "id",
        "event": "id",
        "audit_entry": "id",
    }
    return [select(url, f"SELECT * FROM {table} ORDER BY {key}") for table, key in tables.items()]
