"""What mutations take and answer, and what subscriptions send: the types, and the dicts that fill them."""

from collections.abc import Sequence
from typing import Any

import strawberry
from strawberry import ID

from gateway.errors import ErrorCode, Refusal
from gateway.graphql.schema.fields import sourced
from gateway.graphql.schema.types import Edge, Machine, Node, Operation, Snapshot, Vm
from gateway.models import Change
from gateway.reads.sources import Given, GivenEdge, GivenOne

KEY = (
    "Makes a retry safe: for 24 hours the same key with the same arguments answers with the same operation in its"
    " present state. 1 to 255 characters."
)
NAME = "1 to 255 characters after trimming. It need not be unique."
DESCRIPTION = "What it is for. At most 4000 characters."
MEMORY = "Whether the machine's memory becomes part of it: see CREATE_WITH_MEMORY in `capabilities`."
DRY_RUN = "Decide and answer, but change nothing."


def _optional(description: str) -> Any:
    return strawberry.field(default=strawberry.UNSET, description=description)


def _flag(description: str) -> Any:
    return strawberry.field(default=False, description=description)


def _required(description: str) -> Any:
    return strawberry.field(description=description)


def _given(name: str, description: str) -> Any:
    return sourced(Given(name), description)


def _row(noun: str | None, name: str, description: str) -> Any:
    return sourced(GivenOne(noun, name), description)


# ---- refusals


@strawberry.type(description="A refusal that a person can act on.")
class UserError:
    code: ErrorCode = _given("code", "What went wrong, for programs.")
    message: str = _given("message", "What went wrong, for people.")
    path: list[str] = _given("path", 'Path to the offending argument, such as ["input", "ids", "2"].')
    conflict: Node | None = _row(
        None, "conflict", "What stands in the way: the running operation, the snapshot that has the name. Often null."
    )


def user_errors(refusal: Refusal | None) -> list[dict[str, Any]]:
    """A UserError, or none. Its path starts at the mutation's argument."""
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


_ERRORS = "Why it was refused. Empty when it was accepted; when not, nothing was changed."

# ---- create


@strawberry.input(description="A snapshot to create.")
class CreateSnapshotInput:
    machine_id: ID = _required("The Vm or Instance.")
    name: str = _required(NAME)
    description: str | None = _optional(DESCRIPTION)
    memory: bool = _flag(MEMORY)
    idempotency_key: str | None = _optional(KEY)


@strawberry.type(description="A snapshot that is being created. `snapshotEdge` carries a cursor of the default sort.")
class CreateSnapshotPayload:
    operation: Operation | None = _row("operation", "operation", "The work. Null when refused.")
    snapshot: Snapshot | None = _row("snapshot", "snapshot", "The snapshot, CREATING. Null when refused.")
    snapshot_edge: Edge[Snapshot] | None = sourced(
        GivenEdge("snapshot", "snapshot"), "The snapshot as an edge of its machine's list. Null when refused."
    )
    machine: Machine | None = _row("machine", "machine", "The machine. Null when refused.")
    errors: list[UserError] = _given("errors", _ERRORS)


@strawberry.input(description="The same snapshot to create on several machines.")
class CreateSnapshotsInput:
    machine_ids: list[ID] = _required("The Vms and Instances, 1 to 100.")
    name: str = _required(NAME)
    description: str | None = _optional(DESCRIPTION)
    memory: bool = _flag(MEMORY)
    idempotency_key: str | None = _optional(KEY)


@strawberry.type(description="What became of one machine of the request.")
class CreateSnapshotResult:
    machine_id: ID = _given("machineId", "The id as it was given.")
    operation: Operation | None = _row("operation", "operation", "The work. Null when refused.")
    snapshot: Snapshot | None = _row("snapshot", "snapshot", "The snapshot, CREATING. Null when refused.")
    errors: list[UserError] = _given("errors", _ERRORS)


@strawberry.type(description="What became of each machine.")
class CreateSnapshotsPayload:
    results: list[CreateSnapshotResult] = _given("results", "One per machine of the input, in that order.")
    accepted_count: int = _given("acceptedCount", "How many snapshots are being created.")
    refused_count: int = _given("refusedCount", "How many machines were refused.")
    errors: list[UserError] = _given("errors", "Why the whole request was refused. Empty when it was not.")


# ---- revert


@strawberry.input(description="A snapshot to take its Vm back to.")
class RevertVmSnapshotInput:
    snapshot_id: ID = _required("The snapshot, of a Vm.")
    dry_run: bool = _flag(DRY_RUN)
    idempotency_key: str | None = _optional(KEY)


@strawberry.type(description="A Vm that is being reverted.")
class RevertVmSnapshotPayload:
    operation: Operation | None = _row("operation", "operation", "The work. Null when refused, and for a dry run.")
    vm: Vm | None = _row("machine", "machine", "The Vm. Null when refused.")
    snapshot: Snapshot | None = _row("snapshot", "snapshot", "The snapshot. Null when refused.")
    errors: list[UserError] = _given("errors", _ERRORS)


# ---- delete


@strawberry.input(description="Snapshots to delete.")
class DeleteSnapshotsInput:
    ids: list[ID] = _required("The snapshots, 1 to 100, of any machines.")
    with_descendants: bool = _flag("Also everything taken on top of them, at most 1000 in all.")
    all_or_nothing: bool = _flag("When one is refused, refuse all.")
    dry_run: bool = _flag(DRY_RUN)
    idempotency_key: str | None = _optional(KEY)


@strawberry.type(description="What became of one snapshot of the request.")
class DeleteSnapshotResult:
    snapshot_id: ID = _given("snapshotId", "The id as it was given, or of a descendant.")
    is_descendant: bool = _given("isDescendant", "Pulled in by `withDescendants`.")
    operation: Operation | None = _row("operation", "operation", "The work. Null when refused, and for a dry run.")
    snapshot: Snapshot | None = _row("snapshot", "snapshot", "The snapshot. Null when unknown.")
    errors: list[UserError] = _given("errors", _ERRORS)


@strawberry.type(description="What became of each snapshot.")
class DeleteSnapshotsPayload:
    results: list[DeleteSnapshotResult] = _given(
        "results", "One per id of the input, in that order; then the descendants pulled in."
    )
    accepted_count: int = _given("acceptedCount", "How many snapshots are being deleted, each counted once.")
    refused_count: int = _given("refusedCount", "How many results are refusals.")
    errors: list[UserError] = _given("errors", "Why the whole request was refused. Empty when it was not.")


# ---- refresh and cancel


@strawberry.input(description="A machine to read again.")
class RefreshMachineInput:
    machine_id: ID = _required("The Vm or Instance.")
    idempotency_key: str | None = _optional(KEY)


@strawberry.type(description="A machine that is being read again.")
class RefreshMachinePayload:
    operation: Operation | None = _row("operation", "operation", "The work. Null when refused.")
    machine: Machine | None = _row("machine", "machine", "The machine. Null when refused.")
    errors: list[UserError] = _given("errors", _ERRORS)


@strawberry.input(description="An operation to stop.")
class CancelOperationInput:
    operation_id: ID = _required("The operation.")


@strawberry.type(description="An operation that was stopped, or is wished to.")
class CancelOperationPayload:
    operation: Operation | None = _row("operation", "operation", "The operation. Null when refused.")
    errors: list[UserError] = _given("errors", _ERRORS)


# ---- changes


@strawberry.type(description="A change of a snapshot.")
class SnapshotChange:
    kind: Change = _given("kind", "What happened.")
    snapshot_id: ID = _given("snapshotId", "The snapshot's id.")
    machine: Machine = _row("machine", "machine", "Its machine.")
    snapshot: Snapshot | None = _row("snapshot", "snapshot", "The snapshot as it is now. Null when deleted.")
    snapshot_edge: Edge[Snapshot] | None = sourced(
        GivenEdge("snapshot", "snapshot"), "With a cursor of the default sort. Null when deleted."
    )
    deleted_snapshot_id: ID | None = _given("deletedSnapshotId", "Set only when deleted, for client caches.")


def several(results: Sequence[dict[str, Any]], accepted: int, refusal: Refusal | None) -> dict[str, Any]:
    """The payload of a mutation with a result per item."""
    return {
        "results": list(results),
        "acceptedCount": accepted,
        "refusedCount": sum(1 for result in results if result["errors"]),
        "errors": user_errors(refusal),
    }
