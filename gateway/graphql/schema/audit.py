"""The audit log, readable by administrators. The schema has no mutation that changes it."""

from collections.abc import Sequence

import orjson
import strawberry
from strawberry import ID

from gateway.errors import ErrorCode
from gateway.graphql.schema.fields import column, sourced
from gateway.graphql.schema.scalars import Moment
from gateway.graphql.schema.types import Machine, Node, Operation, Snapshot
from gateway.models import AuditAction, AuditOutcome, MachineKind, Surface
from gateway.reads.context import Context
from gateway.reads.ids import machine_id
from gateway.reads.sources import Computed, ForeignId, ToOne


def roles(_context: Context, text: str) -> Sequence[str]:
    """Decodes the stored JSON list."""
    found: list[str] = orjson.loads(text)
    return found


def audited_machine_id(_context: Context, kind: str | None, number: int | None) -> str | None:
    """The id of the machine. Null also if only the number is known: without the kind it identifies no machine."""
    known = None if kind is None else MachineKind.__members__.get(kind)
    return None if known is None or number is None else machine_id(known, number)


@strawberry.type(
    description="An entry in the audit log: a requested action, or the end of an operation. Entries are immutable."
)
class AuditEntry(Node):
    created_at: Moment = column(
        "created_at", "When the entry was recorded. For the end of an operation: when the operation ended."
    )
    action: AuditAction = column("action", "The requested action.")
    outcome: AuditOutcome = column("outcome", "The outcome of the action.")
    code: ErrorCode | None = column("code", "Machine-readable reason for a refusal or failure. Null otherwise.")
    message: str | None = column("message", "Human-readable reason for a refusal or failure. Null otherwise.")
    repeats: int = column(
        "repeats",
        "Number of further refusals with the same caller, action and code that were counted instead of recorded. 0 if"
        " none.",
    )
    caller_name: str | None = column("caller_name", "The caller's name. Null if the caller was not authenticated.")
    caller_key: str | None = column(
        "caller_key",
        "Identifier of the caller, which distinguishes callers of the same name. Null if the caller was not"
        " authenticated; empty for the local caller.",
    )
    caller_roles: list[str] = sourced(Computed(("caller_roles",), roles), "The caller's roles at that time.")
    address: str | None = column("address", "Network address of the client. Null for the command line.")
    surface: Surface = column("surface", "The surface through which the action was requested.")
    request_id: str | None = column(
        "request_id", "The request id, which is also in the response and in the log. Null for the command line."
    )
    machine: Machine | None = sourced(
        ToOne("machine", "machine_id"),
        "The affected machine. Null if there is none, or if it was removed from the inventory.",
    )
    machine_id: ID | None = sourced(
        Computed(("machine_kind", "machine_id"), audited_machine_id),
        "The id of the affected machine, kept after the machine is removed. Null if there is none.",
    )
    machine_name: str | None = column("machine_name", "The machine's name at that time. Null if there is none.")
    snapshot: Snapshot | None = sourced(
        ToOne("snapshot", "snapshot_id"), "The affected snapshot. Null if there is none, or if it no longer exists."
    )
    snapshot_id: ID | None = sourced(
        ForeignId("snapshot", "snapshot_id"),
        "The id of the affected snapshot, kept after the snapshot is deleted. Null if there is none.",
    )
    snapshot_name: str | None = column("snapshot_name", "The snapshot's name at that time. Null if there is none.")
    operation: Operation | None = sourced(
        ToOne("operation", "operation_id"),
        "The resulting operation. Null if there is none, or if its retention period has passed.",
    )
    operation_id: ID | None = sourced(
        ForeignId("operation", "operation_id"),
        "The id of the resulting operation, kept after its retention period. Null if there is none.",
    )
    subject: str | None = column(
        "subject",
        "What was affected if it is not a machine, snapshot or operation, such as the name of a token. Null otherwise.",
    )
