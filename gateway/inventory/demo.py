"""Loads the demo world: two simulated providers with their machines and snapshots, and the matching inventory.

The rows of the simulated provider and of the inventory agree, so that a refresh changes nothing.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlmodel import col, select

from gateway.columns import now
from gateway.drivers.simulator.tables import SimulatedMachine, SimulatedSnapshot
from gateway.inventory.demo_world import INSTANCES, VMS, DemoMachine, DemoSnapshot, demo_machines
from gateway.inventory.imports.sequences import ADVANCE_SEQUENCES, LOCK_TABLES
from gateway.inventory.provider_rows import ProviderName
from gateway.models import Machine, Operation, OperationKind, OperationState, Provider, Snapshot, SnapshotState
from gateway.store.database import Database, Transaction
from gateway.store.statements import Query, RowId, insert

_LATENCY_MS = 1_500
_OPERATIONS_SINCE = timedelta(days=60)  # older operations would be deleted soon by housekeeping
_OPERATION_DURATION = timedelta(seconds=42)

_ANY_MACHINE = Query(select(Machine.id).limit(1), RowId)
_HAS_PROVIDER = Query(sa.select(col(Provider.name)).where(col(Provider.name) == sa.bindparam("of")), ProviderName)
_INSERT_PROVIDER = insert(Provider, "name", "tenant", "driver", "observed_at")

_MACHINE_COLUMNS = ("kind", "name", "description", "provider", "power_state", "host", "flavor", "availability_zone")
_INSERT_MACHINE = insert(
    Machine, "id", "tenant", "provider_ref", *_MACHINE_COLUMNS, "created_at", "updated_at", "observed_at"
)
_INSERT_SIMULATED_MACHINE = insert(
    SimulatedMachine, "ref", *_MACHINE_COLUMNS, "created_at", "current_ref", "latency_ms"
)

_SNAPSHOT_COLUMNS = ("name", "description", "memory", "size_bytes", "created_at")
_INSERT_SNAPSHOT = insert(
    Snapshot,
    *("id", "tenant", "machine_id", "provider_ref", *_SNAPSHOT_COLUMNS),
    *("state", "is_current", "created_by", "parent_id", "observed_at"),
)
_INSERT_SIMULATED_SNAPSHOT = insert(SimulatedSnapshot, "ref", "machine_ref", *_SNAPSHOT_COLUMNS, "parent_ref")

_INSERT_OPERATION = insert(
    Operation,
    *("tenant", "kind", "state", "machine_id", "machine_kind", "machine_name", "snapshot_id", "snapshot_name"),
    *("requested_by", "created_at", "started_at", "finished_at", "token", "payload", "dispatched", "attempt"),
)


async def load_demo(database: Database, tenant: str) -> bool:
    """Loads the demo world unless the database has machines. Returns whether it was loaded."""
    moment = now().replace(second=0, microsecond=0)

    async def work(tx: Transaction) -> bool:
        for lock in LOCK_TABLES[tx.dialect]:  # another process may be loading it too
            await tx.rows(lock)
        if await tx.first(_ANY_MACHINE) is not None:
            return False
        for name in (VMS, INSTANCES):
            if await tx.first(_HAS_PROVIDER, of=name) is None:
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
    columns = {name: getattr(machine, name) for name in _MACHINE_COLUMNS} | {"created_at": moment - machine.age}
    current = machine.current
    await tx.run(
        _INSERT_SIMULATED_MACHINE,
        **columns,
        ref=machine.ref,
        current_ref=None if current is None else _ref(machine.snapshots[current]),
        latency_ms=_LATENCY_MS,
    )
    await tx.first(
        _INSERT_MACHINE,
        **columns,
        id=machine.id,
        tenant=tenant,
        provider_ref=machine.ref,
        updated_at=moment,
        observed_at=moment,
    )
    for index, snapshot in enumerate(machine.snapshots):
        parent = None if snapshot.parent is None else machine.snapshots[snapshot.parent]
        values = _snapshot_values(snapshot, moment)
        await tx.run(
            _INSERT_SIMULATED_SNAPSHOT,
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
            is_current=index == current,
            created_by=snapshot.created_by,
            parent_id=parent and parent.id,
            observed_at=moment,
        )


def _snapshot_values(snapshot: DemoSnapshot, moment: datetime) -> dict[str, object]:
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
    """The operations that created the snapshots of the last 60 days, for those with a known creator."""
    for machine in machines:
        for snapshot in machine.snapshots:
            if snapshot.created_by is None or snapshot.age > _OPERATIONS_SINCE:
                continue
            created = moment - snapshot.age
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
                "created_at": created,
                "started_at": created,
                "finished_at": created + _OPERATION_DURATION,
                "token": f"demo-{snapshot.id}",
                "payload": "{}",
                "dispatched": True,
                "attempt": 1,
            }
