"""A small fixed set of rows with ties, nulls and unusual text, in the database and as Python values."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from gateway.models import Machine, MachineKind, PowerState, Provider, Snapshot, SnapshotState
from gateway.store.database import Transaction
from gateway.store.statements import insert
from tests.serving import Served

Row = dict[str, Any]

NAMES = [
    *("test", "Test", "TEST", "test-1", "tEst-2", "a*b", "a%b", "a_b", "a\\b", "[x]", "?", ""),
    *("straße", "STRASSE", "ǆ", "İstanbul", "istanbul", "Ωmega", "ωmega", "日本", "😀", "\U0010ffff", " z"),
]
DESCRIPTIONS = [None, None, "", "nightly", "Nightly", "before the *great* upgrade", "ÄÖÜ", "äöü"]
SIZES = [None, 0, 1, 1, 2**31, 2**53 + 1, 2**62]
CALLERS = [None, "ann", "Ann", "bob"]
START = datetime(2026, 1, 1, tzinfo=UTC)

_PROVIDER = insert(Provider, "name", "tenant", "driver")
_MACHINE = insert(
    Machine,
    *("tenant", "kind", "name", "description", "provider", "provider_ref", "power_state", "host", "imported"),
    *("created_at", "updated_at", "observed_at", "gone_at"),
)
_SNAPSHOT = insert(
    Snapshot,
    *("tenant", "machine_id", "name", "description", "state", "memory", "is_current", "size_bytes", "provider_ref"),
    *("created_at", "created_by", "observed_at", "parent_id"),
)


class World:
    """The inserted rows: dicts by column name, with `id` as GraphQL shows it."""

    def __init__(self, seed: int = 1) -> None:
        self._random = random.Random(seed)
        self.machines: list[Row] = []
        self.snapshots: list[Row] = []

    async def insert(self, tx: Transaction) -> None:
        await tx.run(_PROVIDER, name="lab", tenant="default", driver="none")
        for number in range(8):
            await self.add_machine(tx, number)
        for _ in range(150):
            await self.add_snapshot(tx)

    async def add_machine(self, tx: Transaction, number: int) -> None:
        pick = self._random.choice
        values: Row = {
            "tenant": "default",
            "kind": MachineKind.VM if number % 3 else MachineKind.INSTANCE,
            "name": pick(["web", "Web", "db", "straße", "STRASSE"]),
            "description": pick(DESCRIPTIONS),
            "provider": "lab",
            "provider_ref": f"ref-{number}",
            "power_state": pick(list(PowerState)),
            "host": pick([None, "esx-1", "ESX-1", "esx-2"]),
            "imported": True,
            "created_at": START + timedelta(hours=number // 2),
            "updated_at": START,
            "observed_at": START,
            "gone_at": pick([None, None, START + timedelta(days=3)]),
        }
        (row,) = await tx.all(_MACHINE, **values)
        prefix = values["kind"].value.lower()
        self.machines.append({"number": row.id, "id": f"{prefix}-{row.id}", **values})

    async def add_snapshot(self, tx: Transaction) -> Row:
        pick = self._random.choice
        machine = pick(self.machines[:-1])  # the last machine has no snapshots
        mine = [snapshot for snapshot in self.snapshots if snapshot["machine"] is machine]
        parent = pick([None, *mine])
        values: Row = {
            "tenant": "default",
            "machine_id": machine["number"],
            "name": pick(NAMES),
            "description": pick(DESCRIPTIONS),
            "state": pick(list(SnapshotState)),
            "memory": pick([True, False]),
            "is_current": not any(snapshot["is_current"] for snapshot in mine) and pick([True, False]),
            "size_bytes": pick(SIZES),
            "provider_ref": pick([None, "r1", "R1"]),
            "created_at": START + timedelta(minutes=pick(range(20)), microseconds=pick([0, 1])),
            "created_by": pick(CALLERS),
            "observed_at": None,
            "parent_id": parent and parent["number"],
        }
        (row,) = await tx.all(_SNAPSHOT, **values)
        snapshot = {
            "number": row.id,
            "id": f"snapshot-{row.id}",
            "machine": machine,
            "parent": parent and parent["id"],
            **values,
        }
        self.snapshots.append(snapshot)
        return snapshot

    async def remove_leaf(self, tx: Transaction) -> Row | None:
        """Deletes a snapshot without children. None if there is none."""
        parents = {snapshot["parent_id"] for snapshot in self.snapshots}
        leaves = [snapshot for snapshot in self.snapshots if snapshot["number"] not in parents]
        if not leaves:
            return None
        leaf = self._random.choice(leaves)
        await tx.rows(f"DELETE FROM snapshot WHERE id = {leaf['number']}")
        self.snapshots.remove(leaf)
        return leaf


def populate(gateway: Served) -> World:
    """Inserts the rows into an empty gateway."""
    world = World()

    async def insert() -> None:
        await gateway.gateway.database.write(world.insert)

    gateway.run(insert())
    return world


def ids(rows: Sequence[Row]) -> list[str]:
    return [row["id"] for row in rows]
