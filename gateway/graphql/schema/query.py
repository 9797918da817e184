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
from gateway.reads.sources import Every, Given, Lookup, Lookups, Many


def _lookup(noun: str | None, description: str) -> Any:
    return sourced(Lookup(noun), description, id=(ID, "The id, such as vm-11."))


@strawberry.type(description="What can be read.")
class Query:
    viewer: Viewer = sourced(Given("viewer"), "Who is asking.")
    providers: list[Provider] = sourced(
        Every("provider"), "The configured providers and the sources of imports, by name."
    )
    node: Node | None = _lookup(None, "Anything by its id. Null when there is nothing by that id.")
    nodes: list[Node | None] = sourced(
        Lookups(),
        "Up to 1000 things by their ids, with the length and order of `ids`; null in the place of an id that is unknown"
        " or malformed.",
        ids=(list[ID], "The ids."),
    )
    vm: Vm | None = _lookup("machine", "A Vm by its id. Null when there is none.")
    vms: Connection[Vm] = connection(Many("machine"), MachineFilter, MachineSort, "The Vms.")
    instance: Instance | None = _lookup("machine", "An Instance by its id. Null when there is none.")
    instances: Connection[Instance] = connection(Many("machine"), MachineFilter, MachineSort, "The Instances.")
    machines: Connection[Machine] = connection(
        Many("machine"), MachineFilter, MachineSort, "Vms and Instances in one list."
    )
    snapshot: Snapshot | None = _lookup("snapshot", "A snapshot by its id. Null when there is none.")
    snapshots: Connection[Snapshot] = connection(
        Many("snapshot"), SnapshotFilter, SnapshotSort, "Snapshots of all machines the caller may see."
    )
    operation: Operation | None = _lookup("operation", "An operation by its id. Null when there is none.")
    operations: Connection[Operation] = connection(
        Many("operation"), OperationFilter, OperationSort, "The work on all machines the caller may see."
    )
    audit_entries: Connection[AuditEntry] = connection(
        Many("audit_entry"),
        AuditEntryFilter,
        AuditEntrySort,
        "The record of who did what, for administrators. Others are refused.",
    )
