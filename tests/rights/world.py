"""Random data of two tenants with Vms and Instances, divided into parts that have the same ids with or without others.

A part is the rows of one tenant and one machine kind. Inserting other parts adds rows and changes none. Therefore a
caller that may read only one part must get the same responses, byte for byte, as from a database with only that part.
"""

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from gateway.app import opened_database
from gateway.config import Settings
from gateway.models import (
    Change,
    Event,
    Machine,
    MachineKind,
    Operation,
    OperationKind,
    OperationState,
    PowerState,
    Provider,
    Snapshot,
    SnapshotState,
)
from gateway.store.database import Transaction
from gateway.store.statements import Statement, insert
from tests.reads.world import CALLERS, DESCRIPTIONS, NAMES, SIZES, START, Row

ACME, BOLT = "acme", "bolt"
NO_TENANT = "none"  # the tenant of the first event in every database

MACHINES, SNAPSHOTS, OPERATIONS = 24, 160, 60
FIRST_EVENT = 1_000_000  # above the ids of events that triggers have written


class Part(NamedTuple):
    """The rows of one tenant and one machine kind."""

    tenant: str
    kind: MachineKind


PARTS = [Part(tenant, kind) for tenant in (ACME, BOLT) for kind in MachineKind]


class PlannedRow(NamedTuple):
    """A row to insert, and the part that it belongs to; None: it belongs to every database."""

    table: type[Any]
    part: Part | None
    values: Row


@dataclass(eq=False)  # hashable by identity
class World:
    """All rows of all parts, in an order in which they can be inserted. Equal seeds have equal rows."""

    seed: int
    rows: list[PlannedRow] = field(default_factory=list)
    machines: list[Row] = field(default_factory=list)
    snapshots: list[Row] = field(default_factory=list)
    operations: list[Row] = field(default_factory=list)
    events: list[Row] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        for number in self._numbers(MACHINES):
            self._machine(number)
        for number in self._numbers(SNAPSHOTS):
            self._snapshot(number)
        for number in self._numbers(OPERATIONS):
            self._operation(number)
        self._events()

    def ids(self, noun: str) -> list[str]:
        return [row["public_id"] for row in getattr(self, noun)]

    def last_event(self, parts: Collection[Part]) -> Row:
        """The last snapshot event in these parts."""
        return [row for row in self.events if row["part"] in parts and row["noun"] == "snapshot"][-1]

    def _numbers(self, count: int) -> list[int]:
        """Random numbers, unordered and with gaps."""
        return self._random.sample(range(1, 2 * count), count)

    def _add(self, table: type[Any], part: Part | None, values: Row) -> None:
        self.rows.append(PlannedRow(table, part, values))

    def _machine(self, number: int) -> None:
        pick = self._random.choice
        # The machines are distributed evenly over the parts.
        part = PARTS[len(self.machines) % len(PARTS)]
        values: Row = {
            "id": number,
            "tenant": part.tenant,
            "kind": part.kind,
            "name": pick(NAMES),
            "description": pick(DESCRIPTIONS),
            "provider": pick([f"{part.tenant}-mixed", f"{part.tenant}-{part.kind.lower()}"]),
            "provider_ref": f"ref-{number}",
            "power_state": pick(list(PowerState)),
            "host": pick([None, "esx-1", "ESX-1", "esx-2"]),
            "imported": True,
            "created_at": START + timedelta(minutes=pick(range(20))),
            "updated_at": START,
            "observed_at": START,
            "gone_at": pick([None, None, START + timedelta(minutes=3)]),
        }
        provider = PlannedRow(Provider, part, {"name": values["provider"], "tenant": part.tenant, "driver": "none"})
        if provider not in self.rows:
            self.rows.append(provider)
        self._add(Machine, part, values)
        self.machines.append({**values, "part": part, "public_id": f"{part.kind.lower()}-{number}"})

    def _snapshot(self, number: int) -> None:
        pick = self._random.choice
        machine = pick(self.machines[:-1])  # the last machine has no snapshots
        siblings = [row for row in self.snapshots if row["machine_id"] == machine["id"]]
        state = pick(list(SnapshotState))
        values: Row = {
            "id": number,
            "tenant": machine["tenant"],
            "machine_id": machine["id"],
            "name": pick(NAMES),
            "description": pick(DESCRIPTIONS),
            "state": state,
            "memory": pick([True, False]),
            "is_current": not any(row["is_current"] for row in siblings) and pick([True, False]),
            "size_bytes": pick(SIZES),
            # An ERROR snapshot without providerRef could be deleted, and the data must not change.
            "provider_ref": pick(["r1", "R1"] if state is SnapshotState.ERROR else [None, "r1", "R1"]),
            "created_at": START + timedelta(minutes=pick(range(20)), microseconds=pick([0, 1])),
            "created_by": pick(CALLERS),
            "observed_at": None,
            "parent_id": pick([None, *(row["id"] for row in siblings)]),
        }
        self._add(Snapshot, machine["part"], values)
        self.snapshots.append({**values, "part": machine["part"], "public_id": f"snapshot-{number}"})

    def _operation(self, number: int) -> None:
        pick = self._random.choice
        snapshot = pick(self.snapshots)
        machine = next(row for row in self.machines if row["id"] == snapshot["machine_id"])
        state = pick([OperationState.SUCCEEDED, OperationState.FAILED, OperationState.CANCELED])
        failed = state is OperationState.FAILED
        started = START + timedelta(minutes=pick(range(20)))
        values: Row = {
            "id": number,
            "tenant": machine["tenant"],
            "kind": pick(list(OperationKind)),
            "state": state,
            "machine_id": machine["id"],
            "machine_kind": machine["kind"],
            "machine_name": machine["name"],
            "snapshot_id": snapshot["id"],
            "snapshot_name": snapshot["name"],
            "requested_by": pick(CALLERS),
            "created_at": started,
            "started_at": started,
            "finished_at": started + timedelta(minutes=pick(range(5))),
            "error_code": "PROVIDER_FAILED" if failed else None,
            "error_message": "no space" if failed else None,
            "token": f"token-{number}",
            "payload": "{}",
        }
        self._add(Operation, machine["part"], values)
        self.operations.append({**values, "part": machine["part"], "public_id": f"operation-{number}"})

    def _events(self) -> None:
        """One old event in every database, then events of all rows in random order."""
        self._add(Event, None, _event(FIRST_EVENT, NO_TENANT, "snapshot", 0, 0))
        changed = [("snapshot", row) for row in self.snapshots] + [("operation", row) for row in self.operations]
        self._random.shuffle(changed)
        for number, (noun, row) in enumerate(changed, FIRST_EVENT + 1):
            values = _event(number, row["tenant"], noun, row["machine_id"], row["id"])
            self._add(Event, row["part"], values)
            self.events.append({**values, "part": row["part"], "public_id": row["public_id"]})


def _event(number: int, tenant: str, noun: str, machine: int, subject: int) -> Row:
    return {
        "id": number,
        "at": datetime.now(UTC),
        "tenant": tenant,
        "noun": noun,
        "change": Change.UPDATED,
        "machine_id": machine,
        "subject_id": subject,
    }


_INSERTS: dict[tuple[type[Any], tuple[str, ...]], Statement] = {}


async def insert_parts(settings: Settings, world: World, parts: Sequence[Part]) -> None:
    """Inserts these parts of the world into an empty database."""

    async def work(tx: Transaction) -> None:
        rows = [row for row in world.rows if row.part is None or row.part in parts]
        providers: Mapping[str, PlannedRow] = {row.values["name"]: row for row in rows if row.table is Provider}
        if {part for part in PARTS if part.tenant == ACME} <= {*parts}:
            # It has no machines, so it is reported only to callers that may read all kinds.
            values = {"name": "acme-empty", "tenant": ACME, "driver": "none"}
            providers = {**providers, "acme-empty": PlannedRow(Provider, None, values)}
        events = [row for row in rows if row.table is Event]
        for row in [*providers.values(), *(row for row in rows if row.table not in (Provider, Event))]:
            await tx.run(_insert(row), **row.values)
        await tx.rows("DELETE FROM event")  # that the triggers have written
        for row in events:
            await tx.run(_insert(row), **row.values, xid=0 if tx.dialect == "sqlite" else 1)

    async with opened_database(settings) as database:
        await database.write(work)


def _insert(row: PlannedRow) -> Statement:
    key = (row.table, tuple(row.values))
    if key not in _INSERTS:
        more = ("xid",) if row.table is Event else ()
        _INSERTS[key] = insert(row.table, *row.values, *more)
    return _INSERTS[key]
