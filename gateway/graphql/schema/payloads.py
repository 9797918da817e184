"""What the payloads of mutations and subscriptions share, and the functions that build their values."""

from collections.abc import Sequence
from typing import Any

import strawberry
from strawberry import ID

from gateway.errors import ErrorCode, Refusal
from gateway.graphql.schema.enums import MachineChangeKind
from gateway.graphql.schema.fields import sourced
from gateway.graphql.schema.types import Edge, Machine, Node, Snapshot
from gateway.models import Change
from gateway.reads.sources import PayloadEdge, PayloadRow, PayloadValue


def given(name: str, description: str) -> Any:
    return sourced(PayloadValue(name), description)


def row(noun: str | None, name: str, description: str) -> Any:
    return sourced(PayloadRow(noun, name), description)


# ---- refusals


@strawberry.type(description="A reason why a mutation, or one item of it, was refused.")
class UserError:
    code: ErrorCode = given("code", "The machine-readable error code.")
    message: str = given("message", "The human-readable error message.")
    path: list[str] = given("path", 'The path of the invalid argument, for example ["input", "ids", "2"].')
    conflict: Node | None = row(
        None,
        "conflict",
        "The object that prevents the action: an unfinished operation, or the snapshot that has the requested name."
        " Null if there is none.",
    )


def user_errors(refusal: Refusal | None) -> list[dict[str, Any]]:
    """The UserErrors for a refusal: one, or none if `refusal` is None. The path starts at the argument `input`."""
    if refusal is None:
        return []
    return [
        {
            "code": refusal.code.value,
            "message": refusal.message,
            "path": ["input", *refusal.path],
            "conflict": refusal.conflict,
        }
    ]


ERRORS = "Why the request was refused; nothing was changed in that case. Empty if it was accepted."

# ---- changes


@strawberry.type(description="A change of a snapshot, sent by `snapshotChanged`.")
class SnapshotChange:
    kind: Change = given("kind", "The kind of the change.")
    snapshot_id: ID = given("snapshotId", "The id of the snapshot.")
    machine: Machine = row("machine", "machine", "The machine of the snapshot.")
    snapshot: Snapshot | None = row(
        "snapshot", "snapshot", "The snapshot in its current state. Null if it was deleted."
    )
    snapshot_edge: Edge[Snapshot] | None = sourced(
        PayloadEdge("snapshot", "snapshot"),
        "The snapshot as an edge, with a cursor of the default sort. Null if it was deleted.",
    )
    deleted_snapshot_id: ID | None = given(
        "deletedSnapshotId", "The id of the snapshot if it was deleted, for client caches. Null otherwise."
    )


@strawberry.type(description="A change of a machine, sent by `machineChanged`.")
class MachineChange:
    kind: MachineChangeKind = given("kind", "The kind of the change.")
    machine_id: ID = given("machineId", "The id of the machine.")
    machine: Machine | None = row("machine", "machine", "The machine in its current state. Null if `kind` is REMOVED.")
    deleted_machine_id: ID | None = given(
        "deletedMachineId", "The id of the machine if `kind` is REMOVED, for client caches. Null otherwise."
    )


def bulk_payload(results: Sequence[dict[str, Any]], accepted: int, refusal: Refusal | None) -> dict[str, Any]:
    """The payload of a mutation that returns one result per item."""
    return {
        "results": list(results),
        "acceptedCount": accepted,
        "refusedCount": sum(1 for result in results if result["errors"]),
        "errors": user_errors(refusal),
    }
