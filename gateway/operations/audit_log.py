"""SQL of the audit log. Accepted changes are recorded in their own transaction, all operations with one statement.

The statements copy the names from the rows, so that entries keep them after the rows are deleted.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlmodel import col

from gateway.access.caller import Caller
from gateway.access.origin import RequestOrigin
from gateway.columns import now
from gateway.models import AuditAction, AuditEntry, AuditOutcome, Machine, MachineKind, Operation, Snapshot
from gateway.store.database import Transaction
from gateway.store.statements import OneOf, Statement, table_of

_ENTRY = table_of(AuditEntry)
_MAX_MESSAGE = 1_000  # characters; the rest of a message is cut off


@dataclass(frozen=True, slots=True)
class AuditContext:
    """Caller, origin and action of an audited request. `caller` is None if the request was not authenticated."""

    caller: Caller | None
    origin: RequestOrigin
    action: AuditAction


@dataclass(frozen=True, slots=True)
class AuditSubject:
    """Rows that an audited request is about, as far as they are known.

    `subject` names what has no row, such as a field, a path or a token.
    """

    machine_kind: MachineKind | None = None
    machine_id: int | None = None
    snapshot_id: int | None = None
    operation_id: int | None = None
    subject: str | None = None


def _parameters(*names: str) -> dict[str, sa.ColumnElement[Any]]:
    return {name: bindparam(name, type_=_ENTRY.c[name].type) for name in names}


def _insert(columns: Iterable[str], select: sa.Select[Any]) -> Statement:
    return Statement(sa.insert(_ENTRY).from_select(list(columns), select))


_CONTEXT = _parameters(
    *("created_at", "tenant", "caller_key", "caller_name", "caller_name_folded", "caller_roles", "address", "surface"),
    *("request_id", "action", "outcome", "repeats"),
)

_operations = _CONTEXT | {
    "machine_kind": col(Operation.machine_kind),
    "machine_id": col(Operation.machine_id),
    "machine_name": col(Operation.machine_name),
    "snapshot_id": col(Operation.snapshot_id),
    "snapshot_name": col(Operation.snapshot_name),
    "operation_id": col(Operation.id),
}
_OPERATIONS = _insert(
    _operations,
    sa.select(*_operations.values()).where(OneOf(col(Operation.id), "ids")).order_by(col(Operation.id)),
)

# A row that does not exist or belongs to another tenant is recorded with the number from the request, without a name.
_subject = _parameters("machine_kind", "machine_id", "snapshot_id", "operation_id", "subject", "code", "message")
_snapshot_id = sa.func.coalesce(_subject["snapshot_id"], col(Operation.snapshot_id))
_machine_id = sa.func.coalesce(_subject["machine_id"], col(Snapshot.machine_id), col(Operation.machine_id))
_named = (
    _CONTEXT
    | _subject
    | {
        "snapshot_id": _snapshot_id,
        "snapshot_name": sa.func.coalesce(col(Snapshot.name), col(Operation.snapshot_name)),
        "machine_id": _machine_id,
        "machine_kind": sa.func.coalesce(col(Machine.kind), col(Operation.machine_kind), _subject["machine_kind"]),
        "machine_name": sa.func.coalesce(col(Machine.name), col(Operation.machine_name)),
    }
)
_tenant = _CONTEXT["tenant"]
_NAMED = _insert(
    _named,
    sa.select(*_named.values()).select_from(
        sa.select(sa.literal_column("1").label("one"))
        .subquery("one")
        .outerjoin(Operation, (col(Operation.id) == _subject["operation_id"]) & (col(Operation.tenant) == _tenant))
        .outerjoin(Snapshot, (col(Snapshot.id) == _snapshot_id) & (col(Snapshot.tenant) == _tenant))
        .outerjoin(
            Machine,
            (col(Machine.id) == _machine_id)
            & (col(Machine.tenant) == _tenant)
            & (col(Machine.kind) == sa.func.coalesce(_subject["machine_kind"], col(Machine.kind))),
        )
    ),
)


async def record_accepted(tx: Transaction, context: AuditContext, operation_ids: Sequence[int]) -> None:
    """Inserts an ACCEPTED entry for each of these operations, whose rows exist already, with one statement."""
    if operation_ids:
        assert context.caller is not None
        shared = entry_values(context, context.caller.tenant, AuditOutcome.ACCEPTED)
        await tx.run(_OPERATIONS, ids=operation_ids, **shared)


async def record_done(tx: Transaction, context: AuditContext, subject: AuditSubject, tenant: str) -> None:
    """Inserts a SUCCEEDED entry for an action without an operation, which is complete when `tx` commits."""
    await record_entries(tx, [entry_values(context, tenant, AuditOutcome.SUCCEEDED, subject)])


async def record_entries(tx: Transaction, entries: Sequence[Mapping[str, object]]) -> None:
    """Inserts entries made by `entry_values`, and fills in the names of their subjects."""
    compiled = _NAMED.compiled(tx.dialect)
    await tx.run_many(compiled.sql, [compiled.parameters(entry) for entry in entries])


def entry_values(
    context: AuditContext,
    tenant: str,
    outcome: AuditOutcome,
    subject: AuditSubject | None = None,
    *,
    code: str | None = None,
    message: str | None = None,
    repeats: int = 0,
) -> dict[str, object]:
    """Column values of an entry, without those that are read from the database."""
    caller, origin, subject = context.caller, context.origin, subject or AuditSubject()
    return {
        "created_at": now(),
        "tenant": tenant,
        "caller_key": caller and caller.key,
        "caller_name": caller and caller.name,
        "caller_roles": orjson.dumps(caller.roles if caller else ()).decode(),
        "address": origin.address,
        "surface": origin.surface,
        "request_id": origin.request_id,
        "action": context.action,
        "outcome": outcome,
        "repeats": repeats,
        "machine_kind": subject.machine_kind,
        "machine_id": subject.machine_id,
        "snapshot_id": subject.snapshot_id,
        "operation_id": subject.operation_id,
        "subject": subject.subject,
        "code": code,
        "message": message and message[:_MAX_MESSAGE],
    }
