"""The entities: the tables that can be read, with their GraphQL types, filters, sort fields and default order.

A column that is only shown is declared in the schema. A column that rows can be filtered or sorted by is declared here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.errors import ErrorCode
from gateway.models import (
    AuditAction,
    AuditOutcome,
    MachineKind,
    OperationKind,
    OperationState,
    PowerState,
    SnapshotState,
    Surface,
)
from gateway.reads.conditions import Frame
from gateway.reads.filters import (
    ChoiceFilter,
    ComparableFilter,
    EnumFilter,
    Filters,
    IdFilter,
    MachineRowFilter,
    RelatedRowsFilter,
    TextFilter,
)
from gateway.reads.sorts import ID, SortField, SortKey, SortOrder, enum_rank, with_id_key


@dataclass(frozen=True, slots=True)
class Entity:
    """A table that can be read.

    `noun` is its name. `types` are its concrete GraphQL types, each with the value of the column `kind` that its rows
    have; None if there is one type only.
    """

    noun: str
    types: Mapping[str, MachineKind | None]
    visibility: str  # SQL that holds for rows about machines of the kinds that the caller may see
    filters: Filters = field(default_factory=dict)
    sorts: Mapping[str, SortField] = field(default_factory=dict)
    default_sort: Sequence[SortKey] = ()
    admin_only: bool = False  # only administrators may read it
    key: str = "id"  # the column that identifies a row
    total: tuple[str, str] | None = None  # a cheaper count of all visible rows: an expression and the noun it reads

    @property
    def default_order(self) -> SortOrder:
        """The default sort, with the id as the last key. A provider has no id; its name is unique."""
        return with_id_key(self.default_sort) if ID in self.sorts.values() else tuple(self.default_sort)

    def visible(self, frame: Frame, tenant: Any, *, indexed: bool = True) -> str:
        """SQL for the rows that the caller may see: those of their tenant, about machines of kinds that they may read.

        Every statement that reads for a caller includes it. For a caller who may read all kinds it checks the tenant
        only. Unless `indexed`, the planner must not use an index on the tenant.
        """
        column = "t.tenant" if indexed else frame.dialect.without_index("t.tenant")
        own = f"{column} = {frame.parameters(tenant)}"
        if len(frame.kinds) == len(MachineKind):
            return own
        return f"{own} AND {frame.expression(self.visibility)}"


def machine_filters() -> Filters:
    """The filters of machines, which refer to those of snapshots."""
    return MACHINE.filters


def snapshot_filters() -> Filters:
    """The filters of snapshots, which refer to those of machines."""
    return SNAPSHOT.filters


MACHINE = Entity(
    noun="machine",
    types={"Vm": MachineKind.VM, "Instance": MachineKind.INSTANCE},
    visibility="{t}.kind IN ({kinds})",
    filters={
        "id": IdFilter("machine", "id", kind="kind"),
        "kind": EnumFilter("kind", MachineKind),
        "name": TextFilter("name", indexed=True),
        "description": TextFilter("description", nullable=True),
        "provider": TextFilter("provider"),
        "providerRef": TextFilter("provider_ref"),
        "host": TextFilter("host", nullable=True),
        "powerState": EnumFilter("power_state", PowerState),
        "createdAt": ComparableFilter("created_at"),
        "observedAt": ComparableFilter("observed_at"),
        "goneAt": ComparableFilter("gone_at", nullable=True),
        "snapshotCount": ComparableFilter("snapshot_count"),
        "someSnapshot": RelatedRowsFilter("snapshot", "machine_id", snapshot_filters),
    },
    sorts={
        "ID": ID,
        "NAME": SortField("name", "text"),
        "POWER_STATE": enum_rank("power_state", PowerState),
        "CREATED_AT": SortField("created_at", "timestamp"),
        "UPDATED_AT": SortField("updated_at", "timestamp"),
        "SNAPSHOT_COUNT": SortField("snapshot_count", "number"),
    },
    default_sort=[SortKey(SortField("name", "text"))],
)

SNAPSHOT = Entity(
    noun="snapshot",
    types={"Snapshot": None},
    visibility="{m}.kind IN ({kinds})",
    filters={
        "id": IdFilter("snapshot", "id"),
        "name": TextFilter("name", indexed=True),
        "description": TextFilter("description", nullable=True),
        "state": EnumFilter("state", SnapshotState),
        "memory": ComparableFilter("memory"),
        "isCurrent": ComparableFilter("is_current"),
        "sizeBytes": ComparableFilter("size_bytes", nullable=True),
        "createdAt": ComparableFilter("created_at"),
        "parentId": IdFilter("snapshot", "parent_id", nullable=True),
        "machineId": IdFilter("machine", "machine_id", kind="machine.kind"),
        "machine": MachineRowFilter(machine_filters),
        "createdBy": TextFilter("created_by", nullable=True),
        "providerRef": TextFilter("provider_ref", nullable=True),
    },
    sorts={
        "ID": ID,
        "NAME": SortField("name", "text"),
        "DESCRIPTION": SortField("description", "text", nullable=True),
        "STATE": enum_rank("state", SnapshotState),
        "SIZE_BYTES": SortField("size_bytes", "number", nullable=True),
        "CREATED_AT": SortField("created_at", "timestamp"),
        "MACHINE_NAME": SortField("machine.name", "text"),
    },
    default_sort=[SortKey(SortField("created_at", "timestamp"), descending=True)],
    total=("coalesce(sum(t.snapshot_count), 0)", "machine"),  # there are far fewer machines than snapshots
)

OPERATION = Entity(
    noun="operation",
    types={"Operation": None},
    visibility="{t}.machine_kind IN ({kinds})",
    filters={
        "id": IdFilter("operation", "id"),
        "kind": EnumFilter("kind", OperationKind),
        "state": EnumFilter("state", OperationState),
        "createdAt": ComparableFilter("created_at"),
        "finishedAt": ComparableFilter("finished_at", nullable=True),
        "requestedBy": TextFilter("requested_by", nullable=True),
        "machineId": IdFilter("machine", "machine_id", kind="machine_kind", nullable=True),
        "snapshotId": IdFilter("snapshot", "snapshot_id", nullable=True),
    },
    sorts={
        "ID": ID,
        "CREATED_AT": SortField("created_at", "timestamp"),
        "FINISHED_AT": SortField("finished_at", "timestamp", nullable=True),
    },
    default_sort=[SortKey(SortField("created_at", "timestamp"), descending=True)],
)

AUDIT_ENTRY = Entity(
    noun="audit_entry",
    types={"AuditEntry": None},
    visibility="({t}.machine_kind IN ({kinds}) OR {t}.machine_kind IS NULL)",  # entries have the names of machines
    admin_only=True,
    filters={
        "id": IdFilter("audit_entry", "id"),
        "createdAt": ComparableFilter("created_at"),
        "action": EnumFilter("action", AuditAction),
        "outcome": EnumFilter("outcome", AuditOutcome),
        "code": EnumFilter("code", ErrorCode, nullable=True),
        "callerName": TextFilter("caller_name", nullable=True),
        "callerKey": ChoiceFilter("caller_key", nullable=True),
        "address": ChoiceFilter("address", nullable=True),
        "surface": EnumFilter("surface", Surface),
        "requestId": ChoiceFilter("request_id", nullable=True),
        "machineId": IdFilter("machine", "machine_id", kind="machine_kind", nullable=True),
        "machineName": ChoiceFilter("machine_name", nullable=True),
        "snapshotId": IdFilter("snapshot", "snapshot_id", nullable=True),
        "snapshotName": ChoiceFilter("snapshot_name", nullable=True),
        "operationId": IdFilter("operation", "operation_id", nullable=True),
        "subject": ChoiceFilter("subject", nullable=True),
    },
    sorts={"ID": ID, "CREATED_AT": SortField("created_at", "timestamp")},
    default_sort=[SortKey(SortField("created_at", "timestamp"), descending=True)],
)

PROVIDER = Entity(
    noun="provider",
    types={"Provider": None},
    visibility="EXISTS (SELECT 1 FROM machine hosted"
    " WHERE hosted.provider = {t}.name AND hosted.tenant = {t}.tenant AND hosted.kind IN ({kinds}))",
    default_sort=[SortKey(SortField("name", "text"))],
    key="name",
)

ENTITIES: Mapping[str, Entity] = {
    entity.noun: entity for entity in (MACHINE, SNAPSHOT, OPERATION, AUDIT_ENTRY, PROVIDER)
}
