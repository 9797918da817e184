"""Loads the demo world: two simulated providers, and an inventory that knows their machines and snapshots already.

The provider's rows and the inventory's agree, so that a refresh finds nothing to change.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlmodel import col, select

from gateway.columns import now
from gateway.drivers.simulator.tables import SimulatedMachine, SimulatedSnapshot
from gateway.inventory.demo_world import INSTANCES, VMS, DemoMachine, DemoSnapshot, demo_machines
from gateway.inventory.imports.sequences import ADVANCE_SEQUENCES, LOCK
from gateway.models import Machine, Operation, OperationKind, OperationState, Provider, Snapshot, SnapshotState
from gateway.store.database import Database, Transaction
from gateway.store.statements import Statement, insert

_LATENCY_MS = 1_500
_REMEMBERED = timedelta(days=60)  # operations of older snapshots would be cleared away soon
_TOOK = timedelta(seconds=42)

_ANY_MACHINE = Statement(select(Machine.id).limit(1))
_HAS_PROVIDER = Statement(sa.select(col(Provider.name)).where(col(Provider.name) == sa.bindparam("wanted")))
_INSERT_PROVIDER = insert(Provider, "name", "tenant", "driver", "observed_at")

_ABOUT_MACHINE = ("kind", "name", "description", "provider", "power_state", "host", "flavor", "availability_zone")
_INSERT_MACHINE = insert(
    Machine, "id", "tenant", "provider_ref", *_ABOUT_MACHINE, "created_at", "updated_at", "observed_at"
)
_SIMULATE_MACHINE = insert(SimulatedMachine, "ref", *_ABOUT_MACHINE, "created_at", "current_ref", "latency_ms")

_ABOUT_SNAPSHOT = ("name", "description", "memory", "size_bytes", "created_at")
_INSERT_SNAPSHOT = insert(
    Snapshot,
    *("id", "tenant", "machine_id", "provider_ref", *_ABOUT_SNAPSHOT),
    *("state", "is_current", "created_by", "parent_id", "observed_at"),
)
_SIMULATE_SNAPSHOT = insert(SimulatedSnapshot, "ref", "machine_ref", *_ABOUT_SNAPSHOT, "parent_ref")

_INSERT_OPERATION = insert(
    Operation,
    *("tenant", "kind", "state", "machine_id", "machine_kind", "machine_name", "snapshot_id", "snapshot_name"),
    *("requested_by", "created_at", "started_at", "finished_at", "token", "wish", "issued", "attempt"),
)


async def load_demo(database: Database, tenant: str) -> bool:
    """Loads the demo world unless the database has machines already; whether it did."""
    moment = now().replace(second=0, microsecond=0)

    async def work(tx: Transaction) -> bool:
        for lock in LOCK[tx.dialect]:  # another process may be about to load it too
            await tx.rows(lock)
        if await tx.first(_ANY_MACHINE) is not None:
            return False
        for name in (VMS, INSTANCES):
            if await tx.first(_HAS_PROVIDER, wanted=name) is None:
                await tx.run(_INSERT_PROVIDER, name=name, tenant=tenant, driver="simulated", observed_at=moment)
        machines = list(demo_machines())
        for machine in machines:
            await _insert(tx, machine, tenant, moment)
        for values in sorted(_operations(machines, tenant, moment), key=lambda row: row["created_at"]):
            await tx.first(_INSERT_OPERATION, **values)
        for statement in ADVANCE_SEQUENCES[tx.dialect]:
            await tx.rows(statement)
        return True

    return await database.write(work)


async def _insert(tx: Transaction, machine: DemoMachine, tenant: str, moment: datetime) -> None:
    about = {name: getattr(machine, name) for name in _ABOUT_MACHINE} | {"created_at": moment - machine.age}
    current = machine.current
    await tx.run(
        _SIMULATE_MACHINE,
        **about,
        ref=machine.ref,
        current_ref=None if current is None else _ref(machine.snapshots[current]),
        latency_ms=_LATENCY_MS,
    )
    await tx.first(
        _INSERT_MACHINE,
        **about,
        id=machine.id,
        tenant=tenant,
        provider_ref=machine.ref,
        updated_at=moment,
        observed_at=moment,
    )
    for place, snapshot in enumerate(machine.snapshots):
        parent = None if snapshot.parent is None else machine.snapshots[snapshot.parent]
        values = _about_snapshot(snapshot, moment)
        await tx.run(
            _SIMULATE_SNAPSHOT,
            **values,
            ref=_ref(snapshot),
            machine_ref=machine.ref,
            parent_ref=parent and _ref(parent),
        )
        await tx.first(
            _INSERT_SNAPSHOT,
            **values,
            id=snapshot.id,
            tenant=tenant,
            machine_id=machine.id,
            provider_ref=_ref(snapshot),
            state=SnapshotState.READY,
            is_current=place == current,
            created_by=snapshot.created_by,
            parent_id=parent and parent.id,
            observed_at=moment,
        )


def _about_snapshot(snapshot: DemoSnapshot, moment: datetime) -> dict[str, Any]:
    return {
        "name": snapshot.name,
        "description": snapshot.description,
        "memory": snapshot.memory,
        "size_bytes": snapshot.size_bytes,
        "created_at": moment - snapshot.age,
    }


def _ref(snapshot: DemoSnapshot) -> str:
    return f"snapshot-{1000 + snapshot.id}"


def _operations(machines: list[DemoMachine], tenant: str, moment: datetime) -> Iterator[dict[str, Any]]:
    """How the snapshots of the last weeks came to be, where it is known who asked for them."""
    for machine in machines:
        for snapshot in machine.snapshots:
            if snapshot.created_by is None or snapshot.age > _REMEMBERED:
                continue
            made = moment - snapshot.age
            yield {
                "tenant": tenant,
                "kind": OperationKind.CREATE_SNAPSHOT,
                "state": OperationState.SUCCEEDED,
                "machine_id": machine.id,
                "machine_kind": machine.kind,
                "machine_name": machine.name,
                "snapshot_id": snapshot.id,
                "snapshot_name": snapshot.name,
                "requested_by": snapshot.created_by,
                "created_at": made,
                "started_at": made,
                "finished_at": made + _TOOK,
                "token": f"demo-{snapshot.id}",
                "wish": "{}",
                "issued": True,
                "attempt": 1,
            }
