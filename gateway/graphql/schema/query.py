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
from gateway.graphql.schema.types import Connection, Instance, Machine, Node, Operation, Provider, Snapshot, Viewer, Vm
from gateway.reads.sources import AllRows, PayloadValue, RowById, RowsByIds, ToMany


def _lookup(noun: str | None, description: str) -> Any:
    return sourced(RowById(noun), description, id=(ID, "The id, for example `vm-11`."))


@strawberry.type(description="The query root.")
class Query:
    viewer: Viewer = sourced(PayloadValue("viewer"), "The authenticated caller.")
    providers: list[Provider] = sourced(
        AllRows("provider"), "All configured providers and import sources, ordered by name."
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
    machines: Connection[Machine] = connection(
        ToMany("machine"), MachineFilter, MachineSort, "The machines (Vms and Instances) that the caller can see."
    )
    snapshot: Snapshot | None = _lookup("snapshot", "Look up a snapshot by id. Null if it does not exist.")
    snapshots: Connection[Snapshot] = connection(
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
        "The audit log. Administrators only; for other callers the error `FORBIDDEN`.",
    )
