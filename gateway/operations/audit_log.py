"""The SQL of the record of who did what. Accepted changes are recorded in their own transaction, many at a time.

Names are read from the rows themselves, so that entries keep them when the rows are gone.
"""

from collections.abc import Mapping, Sequence
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
from gateway.store.statements import OneOf, Statement

_ENTRY = AuditEntry.__table__  # type: ignore[attr-defined]
_LONGEST = 1_000  # characters kept of a message


@dataclass(frozen=True, slots=True)
class AuditContext:
    """Who asked, from where, and for what. No caller: nobody known."""

    caller: Caller | None
    origin: RequestOrigin
    action: AuditAction


@dataclass(frozen=True, slots=True)
class AuditSubject:
    """What was asked about, as far as it is known. `subject` is what it is called when it is none of the others."""

    machine_kind: MachineKind | None = None
    machine_id: int | None = None
    snapshot_id: int | None = None
    operation_id: int | None = None
    subject: str | None = None


def _given(*names: str) -> dict[str, Any]:
    return {name: bindparam(name, type_=_ENTRY.c[name].type) for name in names}


def _insert(values: Mapping[str, Any], select: sa.Select[Any]) -> Statement:
    return Statement(sa.insert(_ENTRY).from_select(list(values), select))


_ASKED = _given(
    *("created_at", "tenant", "caller_key", "caller_name", "caller_name_folded", "caller_roles", "address", "surface"),
    *("request_id", "action", "outcome", "repeats"),
)

_operations = _ASKED | {
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

# What is not there, or another tenant's, has the number that was given for it and no name.
_about = _given("machine_kind", "machine_id", "snapshot_id", "operation_id", "subject", "code", "message")
_snapshot_id = sa.func.coalesce(_about["snapshot_id"], col(Operation.snapshot_id))
_machine_id = sa.func.coalesce(_about["machine_id"], col(Snapshot.machine_id), col(Operation.machine_id))
_named = (
    _ASKED
    | _about
    | {
        "snapshot_id": _snapshot_id,
        "snapshot_name": sa.func.coalesce(col(Snapshot.name), col(Operation.snapshot_name)),
        "machine_id": _machine_id,
        "machine_kind": sa.func.coalesce(col(Machine.kind), col(Operation.machine_kind), _about["machine_kind"]),
        "machine_name": sa.func.coalesce(col(Machine.name), col(Operation.machine_name)),
    }
)
_tenant = _ASKED["tenant"]
_NAMED = _insert(
    _named,
    sa.select(*_named.values()).select_from(
        sa.select(sa.literal_column("1").label("one"))
        .subquery("one")
        .outerjoin(Operation, (col(Operation.id) == _about["operation_id"]) & (col(Operation.tenant) == _tenant))
        .outerjoin(Snapshot, (col(Snapshot.id) == _snapshot_id) & (col(Snapshot.tenant) == _tenant))
        .outerjoin(
            Machine,
            (col(Machine.id) == _machine_id)
            & (col(Machine.tenant) == _tenant)
            & (col(Machine.kind) == sa.func.coalesce(_about["machine_kind"], col(Machine.kind))),
        )
    ),
)


async def record_accepted(tx: Transaction, asked: AuditContext, operation_ids: Sequence[int]) -> None:
    """An entry for each of these operations, which are in the database already: one statement for them all."""
    if operation_ids:
        assert asked.caller is not None
        asking = values(asked, asked.caller.tenant, AuditOutcome.ACCEPTED)
        await tx.run(_OPERATIONS, ids=operation_ids, **asking)


async def record_done(tx: Transaction, asked: AuditContext, about: AuditSubject, tenant: str) -> None:
    """An entry for something that is no operation, and is done when `tx` commits."""
    await record(tx, [values(asked, tenant, AuditOutcome.SUCCEEDED, about)])


async def record(tx: Transaction, entries: Sequence[Mapping[str, Any]]) -> None:
    """Entries as `values` makes them, the names of what they are about filled in."""
    compiled = _NAMED.compiled(tx.dialect)
    await tx.run_many(compiled.sql, [compiled.parameters(entry) for entry in entries])


def values(
    asked: AuditContext,
    tenant: str,
    outcome: AuditOutcome,
    about: AuditSubject | None = None,
    *,
    code: str | None = None,
    message: str | None = None,
    repeats: int = 0,
) -> dict[str, Any]:
    """The columns of an entry, as far as they are known without the database."""
    caller, origin, about = asked.caller, asked.origin, about or AuditSubject()
    return {
        "created_at": now(),
        "tenant": tenant,
        "caller_key": caller and caller.key,
        "caller_name": caller and caller.name,
        "caller_roles": orjson.dumps(caller.roles if caller else ()).decode(),
        "address": origin.address,
        "surface": origin.surface,
        "request_id": origin.request_id,
        "action": asked.action,
        "outcome": outcome,
        "repeats": repeats,
        "machine_kind": about.machine_kind,
        "machine_id": about.machine_id,
        "snapshot_id": about.snapshot_id,
        "operation_id": about.operation_id,
        "subject": about.subject,
        "code": code,
        "message": message and message[:_LONGEST],
    }
