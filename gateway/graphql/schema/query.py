"""The queries of the schema."""

from typing import Any

import strawberry
from strawberry import ID

from gateway.graphql.schema.audit import AuditEntry
from gateway.graphql.schema.fields import connection, sourced
from gateway.graphql.schema.filters import (
    AuditEntryFilter,
    AuditEntrySort,
    MachineFilter,
    MachineSort,
    OperationFilter,
    OperationSort,
    SnapshotFilter,
    SnapshotSort,
)
from gateway.graphql.schema.types import (
    Connection,
    Instance,
    Machine,
    Node,
    Operation,
    Provider,
    Snapshot,
    SnapshotConnection,
    Viewer,
    Vm,
    viewer,
)
from gateway.reads.sources import BoundedRows, ComputedRoot, RowById, RowsByIds, ToMany


def _lookup(noun: str | None, description: str) -> Any:
    return sourced(RowById(noun), description, id=(ID, "The id, for example `vm-11`."))


@strawberry.type(description="The query root.")
class Query:
    viewer: Viewer = sourced(ComputedRoot(viewer, cost=0), "The authenticated caller.")
    providers: list[Provider] = sourced(
        BoundedRows("provider", bound=1_000, cost_rows=10),
        "All configured providers and import sources, ordered by name. More than 1000 are the error `LIMIT_EXCEEDED`.",
    )
    node: Node | None = _lookup(None, "Look up an object by id. Null if it does not exist.")
    nodes: list[Node | None] = sourced(
        RowsByIds(),
        "Look up objects by id. The result has the length and order of `ids`, with null for each id that is unknown or"
        " malformed.",
        ids=(list[ID], "The ids. At most 1000."),
    )
    vm: Vm | None = _lookup("machine", "Look up a Vm by id. Null if it does not exist.")
    vms: Connection[Vm] = connection(ToMany("machine"), MachineFilter, MachineSort, "The Vms that the caller can see.")
    instance: Instance | None = _lookup("machine", "Look up an Instance by id. Null if it does not exist.")
    instances: Connection[Instance] = connection(
        ToMany("machine"), MachineFilter, MachineSort, "The Instances that the caller can see."
    )
    machine: Machine | None = _lookup("machine", "Look up a Vm or an Instance by id. Null if it does not exist.")
    machines: Connection[Machine] = connection(
        ToMany("machine"), MachineFilter, MachineSort, "The machines (Vms and Instances) that the caller can see."
    )
    snapshot: Snapshot | None = _lookup("snapshot", "Look up a snapshot by id. Null if it does not exist.")
    snapshots: SnapshotConnection = connection(
        ToMany("snapshot"), SnapshotFilter, SnapshotSort, "The snapshots of all machines that the caller can see."
    )
    operation: Operation | None = _lookup("operation", "Look up an operation by id. Null if it does not exist.")
    operations: Connection[Operation] = connection(
        ToMany("operation"), OperationFilter, OperationSort, "The operations on all machines that the caller can see."
    )
    audit_entries: Connection[AuditEntry] = connection(
        ToMany("audit_entry"),
        AuditEntryFilter,
        AuditEntrySort,
        "The audit log, without entries about machines that the caller cannot read. Administrators only; for other"
        " callers the error `FORBIDDEN`.",
    )
