"""Inputs and payloads of mutations, payloads of subscriptions, and the functions that build payload values."""

from collections.abc import Sequence
from typing import Any

import strawberry
from strawberry import ID

from gateway.errors import ErrorCode, Refusal
from gateway.graphql.schema.fields import sourced
from gateway.graphql.schema.types import Edge, Machine, Node, Operation, Snapshot, Vm
from gateway.models import Change
from gateway.reads.sources import PayloadEdge, PayloadRow, PayloadValue

KEY = (
    "Idempotency key for safe retries, 1 to 255 characters. For 24 hours, a request with the same key and arguments"
    " returns the original operation in its current state."
)
NAME = "The name of the snapshot, 1 to 255 characters after trimming. Need not be unique."
DESCRIPTION = "The description of the snapshot. At most 4000 characters."
MEMORY = "Whether to include the machine's memory. Requires CREATE_WITH_MEMORY in `capabilities`."
DRY_RUN = "Check the request and return the result, but change nothing."


def _optional(description: str) -> Any:
    return strawberry.field(default=strawberry.UNSET, description=description)


def _flag(description: str) -> Any:
    return strawberry.field(default=False, description=description)


def _required(description: str) -> Any:
    return strawberry.field(description=description)


def _given(name: str, description: str) -> Any:
    return sourced(PayloadValue(name), description)


def _row(noun: str | None, name: str, description: str) -> Any:
    return sourced(PayloadRow(noun, name), description)


# ---- refusals


@strawberry.type(description="A reason why a mutation, or one item of it, was refused.")
class UserError:
    code: ErrorCode = _given("code", "The machine-readable error code.")
    message: str = _given("message", "The human-readable error message.")
    path: list[str] = _given("path", 'The path of the invalid argument, for example ["input", "ids", "2"].')
    conflict: Node | None = _row(
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


_ERRORS = "Why the request was refused; nothing was changed in that case. Empty if it was accepted."

# ---- create


@strawberry.input(description="Input of `createSnapshot`.")
class CreateSnapshotInput:
    machine_id: ID = _required("The id of the Vm or Instance.")
    name: str = _required(NAME)
    description: str | None = _optional(DESCRIPTION)
    memory: bool = _flag(MEMORY)
    idempotency_key: str | None = _optional(KEY)


@strawberry.type(description="Payload of `createSnapshot`.")
class CreateSnapshotPayload:
    operation: Operation | None = _row("operation", "operation", "The operation. Null if refused.")
    snapshot: Snapshot | None = _row("snapshot", "snapshot", "The new snapshot, in state CREATING. Null if refused.")
    snapshot_edge: Edge[Snapshot] | None = sourced(
        PayloadEdge("snapshot", "snapshot"),
        "The new snapshot as an edge of `Machine.snapshots`, with a cursor of the default sort. Null if refused.",
    )
    machine: Machine | None = _row("machine", "machine", "The machine. Null if refused.")
    errors: list[UserError] = _given("errors", _ERRORS)


@strawberry.input(description="Input of `createSnapshots`.")
class CreateSnapshotsInput:
    machine_ids: list[ID] = _required("The ids of the Vms and Instances, 1 to 100.")
    name: str = _required(NAME)
    description: str | None = _optional(DESCRIPTION)
    memory: bool = _flag(MEMORY)
    idempotency_key: str | None = _optional(KEY)


@strawberry.type(description="The result of `createSnapshots` for one machine.")
class CreateSnapshotResult:
    machine_id: ID = _given("machineId", "The machine id as given in the input.")
    operation: Operation | None = _row("operation", "operation", "The operation. Null if refused.")
    snapshot: Snapshot | None = _row("snapshot", "snapshot", "The new snapshot, in state CREATING. Null if refused.")
    errors: list[UserError] = _given("errors", _ERRORS)


@strawberry.type(description="Payload of `createSnapshots`.")
class CreateSnapshotsPayload:
    results: list[CreateSnapshotResult] = _given("results", "One result per id in `machineIds`, in the same order.")
    accepted_count: int = _given("acceptedCount", "Number of snapshots accepted for creation.")
    refused_count: int = _given("refusedCount", "Number of machines that were refused.")
    errors: list[UserError] = _given("errors", "Why the request as a whole was refused. Empty if it was not.")


# ---- revert


@strawberry.input(description="Input of `revertVmSnapshot`.")
class RevertVmSnapshotInput:
    snapshot_id: ID = _required("The id of a snapshot of a Vm.")
    dry_run: bool = _flag(DRY_RUN)
    idempotency_key: str | None = _optional(KEY)


@strawberry.type(description="Payload of `revertVmSnapshot`.")
class RevertVmSnapshotPayload:
    operation: Operation | None = _row("operation", "operation", "The operation. Null if refused, and for a dry run.")
    vm: Vm | None = _row("machine", "machine", "The Vm that is being reverted. Null if refused.")
    snapshot: Snapshot | None = _row("snapshot", "snapshot", "The snapshot. Null if refused.")
    errors: list[UserError] = _given("errors", _ERRORS)


# ---- delete


@strawberry.input(description="Input of `deleteSnapshots`.")
class DeleteSnapshotsInput:
    ids: list[ID] = _required("The ids of the snapshots, 1 to 100. They may belong to different machines.")
    with_descendants: bool = _flag("Also delete all descendants of the snapshots. At most 1000 snapshots in total.")
    all_or_nothing: bool = _flag("Refuse all snapshots if one of them is refused.")
    dry_run: bool = _flag(DRY_RUN)
    idempotency_key: str | None = _optional(KEY)


@strawberry.type(description="The result of `deleteSnapshots` for one snapshot.")
class DeleteSnapshotResult:
    snapshot_id: ID = _given("snapshotId", "The snapshot id as given in the input, or the id of a descendant.")
    is_descendant: bool = _given("isDescendant", "Whether the snapshot was included by `withDescendants`.")
    operation: Operation | None = _row("operation", "operation", "The operation. Null if refused, and for a dry run.")
    snapshot: Snapshot | None = _row("snapshot", "snapshot", "The snapshot. Null if it does not exist.")
    errors: list[UserError] = _given("errors", _ERRORS)


@strawberry.type(description="Payload of `deleteSnapshots`.")
class DeleteSnapshotsPayload:
    results: list[DeleteSnapshotResult] = _given(
        "results", "One result per id in `ids`, in the same order, followed by the descendants."
    )
    accepted_count: int = _given("acceptedCount", "Number of distinct snapshots accepted for deletion.")
    refused_count: int = _given("refusedCount", "Number of results that are refusals.")
    errors: list[UserError] = _given("errors", "Why the request as a whole was refused. Empty if it was not.")


# ---- refresh and cancel


@strawberry.input(description="Input of `refreshMachine`.")
class RefreshMachineInput:
    machine_id: ID = _required("The id of the Vm or Instance.")
    idempotency_key: str | None = _optional(KEY)


@strawberry.type(description="Payload of `refreshMachine`.")
class RefreshMachinePayload:
    operation: Operation | None = _row("operation", "operation", "The operation. Null if refused.")
    machine: Machine | None = _row("machine", "machine", "The machine. Null if refused.")
    errors: list[UserError] = _given("errors", _ERRORS)


@strawberry.input(description="Input of `cancelOperation`.")
class CancelOperationInput:
    operation_id: ID = _required("The id of the operation.")


@strawberry.type(description="Payload of `cancelOperation`.")
class CancelOperationPayload:
    operation: Operation | None = _row(
        "operation", "operation", "The operation, canceled or with a pending cancel request. Null if refused."
    )
    errors: list[UserError] = _given("errors", _ERRORS)


# ---- changes


@strawberry.type(description="A change of a snapshot, sent by `snapshotChanged`.")
class SnapshotChange:
    kind: Change = _given("kind", "The kind of the change.")
    snapshot_id: ID = _given("snapshotId", "The id of the snapshot.")
    machine: Machine = _row("machine", "machine", "The machine of the snapshot.")
    snapshot: Snapshot | None = _row(
        "snapshot", "snapshot", "The snapshot in its current state. Null if it was deleted."
    )
    snapshot_edge: Edge[Snapshot] | None = sourced(
        PayloadEdge("snapshot", "snapshot"),
        "The snapshot as an edge, with a cursor of the default sort. Null if it was deleted.",
    )
    deleted_snapshot_id: ID | None = _given(
        "deletedSnapshotId", "The id of the snapshot if it was deleted, for client caches. Null otherwise."
    )


def bulk_payload(results: Sequence[dict[str, Any]], accepted: int, refusal: Refusal | None) -> dict[str, Any]:
    """The payload of a mutation that returns one result per item."""
    return {
        "results": list(results),
        "acceptedCount": accepted,
        "refusedCount": sum(1 for result in results if result["errors"]),
        "errors": user_errors(refusal),
    }
