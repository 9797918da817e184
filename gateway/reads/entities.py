"""The nouns: for each table that can be read, its types, filters, sorts and default order.

A column that the schema shows needs no line here; one that can be filtered or sorted by has its line below.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.models import MachineKind, PowerState, SnapshotState
from gateway.reads.conditions import NOTHING_SQL, Frame
from gateway.reads.filters import Choice, Comparable, Filters, Identifier, OfMachine, SomeOf, Text
from gateway.reads.sorts import ID, Key, SortField, enum_rank


@dataclass(frozen=True, slots=True)
class Entity:
    """One noun. `types` are its concrete GraphQL types, each with the `kind` that its rows have, if that tells them."""

    noun: str
    types: Mapping[str, MachineKind | None]
    seen: str | None  # SQL that holds for rows about machines of the kinds that the caller may see; None: about none
    filters: Filters = field(default_factory=dict)
    sorts: Mapping[str, SortField] = field(default_factory=dict)
    default: Sequence[Key] = ()
    total: tuple[str, str] | None = None  # a cheaper sum for all rows that are visible: an expression, and its noun

    @property
    def kinded(self) -> bool:
        """Whether the column `kind` tells its types apart."""
        return len(self.types) > 1

    def visible(self, frame: Frame, tenant: Any, *, indexed: bool = True) -> str:
        """Holds for what the caller may see: rows of their tenant, about machines of the kinds that they may read.

        Every statement that reads for a caller has it. Who may read all kinds is asked for the tenant alone.
        """
        column = "t.tenant" if indexed else frame.dialect.unindexed("t.tenant")
        own = f"{column} = {frame.parameters(tenant)}"
        if self.seen is None or len(frame.kinds) == len(MachineKind):
            return own
        if not frame.kinds:
            return f"{own} AND {NOTHING_SQL}"
        return f"{own} AND {frame.expression(self.seen)}"


def machine_filters() -> Filters:
    return MACHINE.filters


def snapshot_filters() -> Filters:
    return SNAPSHOT.filters


MACHINE = Entity(
    noun="machine",
    types={"Vm": MachineKind.VM, "Instance": MachineKind.INSTANCE},
    seen="{t}.kind IN ({kinds})",
    filters={
        "id": Identifier("machine", "id", kind="kind"),
        "kind": Choice("kind"),
        "name": Text("name", indexed=True),
        "description": Text("description", nullable=True),
        "provider": Text("provider"),
        "providerRef": Text("provider_ref"),
        "host": Text("host", nullable=True),
        "powerState": Choice("power_state"),
        "createdAt": Comparable("created_at"),
        "observedAt": Comparable("observed_at"),
        "goneAt": Comparable("gone_at", nullable=True),
        "snapshotCount": Comparable("snapshot_count"),
        "someSnapshot": SomeOf("snapshot", "machine_id", snapshot_filters),
    },
    sorts={
        "ID": ID,
        "NAME": SortField("name", "text"),
        "POWER_STATE": enum_rank("power_state", PowerState),
        "CREATED_AT": SortField("created_at", "moment"),
        "UPDATED_AT": SortField("updated_at", "moment"),
        "SNAPSHOT_COUNT": SortField("snapshot_count", "number"),
    },
    default=[Key(SortField("name", "text"))],
)

SNAPSHOT = Entity(
    noun="snapshot",
    types={"Snapshot": None},
    seen="{m}.kind IN ({kinds})",
    filters={
        "id": Identifier("snapshot", "id"),
        "name": Text("name", indexed=True),
        "description": Text("description", nullable=True),
        "state": Choice("state"),
        "memory": Comparable("memory"),
        "isCurrent": Comparable("is_current"),
        "sizeBytes": Comparable("size_bytes", nullable=True),
        "createdAt": Comparable("created_at"),
        "parentId": Identifier("snapshot", "parent_id", nullable=True),
        "machineId": Identifier("machine", "machine_id", kind="machine.kind"),
        "machine": OfMachine(machine_filters),
        "createdBy": Text("created_by", nullable=True),
        "providerRef": Text("provider_ref", nullable=True),
    },
    sorts={
        "ID": ID,
        "NAME": SortField("name", "text"),
        "DESCRIPTION": SortField("description", "text", nullable=True),
        "STATE": enum_rank("state", SnapshotState),
        "SIZE_BYTES": SortField("size_bytes", "number", nullable=True),
        "CREATED_AT": SortField("created_at", "moment"),
        "MACHINE_NAME": SortField("machine.name", "text"),
    },
    default=[Key(SortField("created_at", "moment"), descending=True)],
    total=("coalesce(sum(t.snapshot_count), 0)", "machine"),  # machines are far fewer
)

OPERATION = Entity(
    noun="operation",
    types={"Operation": None},
    seen="{t}.machine_kind IN ({kinds})",
    filters={
        "id": Identifier("operation", "id"),
        "kind": Choice("kind"),
        "state": Choice("state"),
        "createdAt": Comparable("created_at"),
        "finishedAt": Comparable("finished_at", nullable=True),
        "requestedBy": Text("requested_by", nullable=True),
        "machineId": Identifier("machine", "machine_id", kind="machine_kind", nullable=True),
        "snapshotId": Identifier("snapshot", "snapshot_id", nullable=True),
    },
    sorts={
        "ID": ID,
        "CREATED_AT": SortField("created_at", "moment"),
        "FINISHED_AT": SortField("finished_at", "moment", nullable=True),
    },
    default=[Key(SortField("created_at", "moment"), descending=True)],
)

PROVIDER = Entity(
    noun="provider",
    types={"Provider": None},
    seen="EXISTS (SELECT 1 FROM machine had"
    " WHERE had.provider = {t}.name AND had.tenant = {t}.tenant AND had.kind IN ({kinds}))",
    default=[Key(SortField("name", "text"))],
)

ENTITIES: Mapping[str, Entity] = {entity.noun: entity for entity in (MACHINE, SNAPSHOT, OPERATION, PROVIDER)}
