"""The record of who did what, as administrators read it. Nothing in the schema can change it."""

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
from gateway.reads.sources import Computed, IdOf, One


def roles(_context: Context, text: str) -> Sequence[str]:
    found: list[str] = orjson.loads(text)
    return found


def shown_machine_id(_context: Context, kind: str | None, number: int | None) -> str | None:
    """Null also when only a number was given: that names no machine."""
    return None if kind is None or number is None else machine_id(MachineKind(kind), number)


@strawberry.type(description="One thing that was asked for, or the end of it. Entries are never changed.")
class AuditEntry(Node):
    created_at: Moment = column("created_at", "When it was recorded; of an operation's end: when that ended.")
    action: AuditAction = column("action", "What was asked for.")
    outcome: AuditOutcome = column("outcome", "What became of it.")
    code: ErrorCode | None = column("code", "Why it was refused or failed, for programs. Null otherwise.")
    message: str | None = column("message", "The same for people.")
    repeats: int = column(
        "repeats",
        "More than 0: so many refusals more, of the same caller, action and code, were counted instead of recorded.",
    )
    caller_name: str | None = column("caller_name", "The name of who asked. Null when nobody known did.")
    caller_key: str | None = column(
        "caller_key", "Tells callers of the same name apart. Null when nobody known asked; empty for the local caller."
    )
    caller_roles: list[str] = sourced(Computed(("caller_roles",), roles), "The roles that the caller had.")
    address: str | None = column("address", "Where the request came from. Null on the command line.")
    surface: Surface = column("surface", "The way it was asked for.")
    request_id: str | None = column(
        "request_id", "The id of the request, which its answer and the log have too. Null on the command line."
    )
    machine: Machine | None = sourced(One("machine", "machine_id"), "The machine it was about. Null once that is gone.")
    machine_id: ID | None = sourced(
        Computed(("machine_kind", "machine_id"), shown_machine_id), "The id of that machine, which stays."
    )
    machine_name: str | None = column("machine_name", "The name that the machine had.")
    snapshot: Snapshot | None = sourced(
        One("snapshot", "snapshot_id"), "The snapshot it was about. Null once that is gone."
    )
    snapshot_id: ID | None = sourced(IdOf("snapshot", "snapshot_id"), "The id of that snapshot, which stays.")
    snapshot_name: str | None = column("snapshot_name", "The name that the snapshot had.")
    operation: Operation | None = sourced(
        One("operation", "operation_id"), "The operation that came of it, as long as that is kept."
    )
    operation_id: ID | None = sourced(IdOf("operation", "operation_id"), "The id of that operation, which stays.")
    subject: str | None = column("subject", "What it was about when that is none of these, such as a token's name.")
