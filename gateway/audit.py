"""The record of who did what: its table and its words. Pure: no queries, no I/O.

The database itself refuses to change an entry, and to delete one that is younger than 30 days.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar

from sqlalchemy import Enum, Identity, Index, text
from sqlmodel import Field, SQLModel

from gateway.columns import Number, Text, UtcDateTime
from gateway.models import MachineKind


class AuditAction(StrEnum):
    """What was asked for. What becomes an operation is called as its kind is."""

    CREATE_SNAPSHOT = "CREATE_SNAPSHOT"
    REVERT_VM_SNAPSHOT = "REVERT_VM_SNAPSHOT"
    DELETE_SNAPSHOT = "DELETE_SNAPSHOT"
    REFRESH_MACHINE = "REFRESH_MACHINE"
    CANCEL_OPERATION = "CANCEL_OPERATION"
    READ = "READ"
    LOG_IN = "LOG_IN"
    CREATE_TOKEN = "CREATE_TOKEN"  # noqa: S105 - the name of an action
    REVOKE_TOKEN = "REVOKE_TOKEN"  # noqa: S105
    IMPORT = "IMPORT"


class AuditOutcome(StrEnum):
    """What became of it. An ACCEPTED entry of an operation is followed by another when that has ended."""

    ACCEPTED = "ACCEPTED"
    REFUSED = "REFUSED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"


class Surface(StrEnum):
    """The way something was asked for."""

    GRAPHQL = "GRAPHQL"
    REST = "REST"
    COMMAND_LINE = "COMMAND_LINE"


def _enum(kind: type[StrEnum]) -> Enum:
    return Enum(kind, native_enum=False, length=24)


def _optional(type_: Any = Text) -> Any:
    return Field(default=None, nullable=True, sa_type=type_)


class AuditEntry(SQLModel, table=True):
    """One thing that was asked for, or the end of it. It names everything itself: what it is about may be gone."""

    __tablename__: ClassVar[Any] = "audit_entry"

    id: int = Field(default=None, primary_key=True, sa_type=Number, sa_column_args=(Identity(always=False),))
    created_at: datetime = Field(sa_type=UtcDateTime)
    tenant: str = Field(sa_type=Text)
    caller_key: str | None = _optional()
    caller_name: str | None = _optional()  # null when nobody known asked
    caller_name_folded: str | None = _optional()
    caller_roles: str = Field(sa_type=Text)  # JSON: a list of names
    address: str | None = _optional()
    surface: Surface = Field(sa_type=_enum(Surface))
    request_id: str | None = _optional()
    action: AuditAction = Field(sa_type=_enum(AuditAction))
    outcome: AuditOutcome = Field(sa_type=_enum(AuditOutcome))
    machine_kind: MachineKind | None = _optional(_enum(MachineKind))
    machine_id: int | None = _optional(Number)
    machine_name: str | None = _optional()
    snapshot_id: int | None = _optional(Number)
    snapshot_name: str | None = _optional()
    operation_id: int | None = _optional(Number)
    subject: str | None = _optional()  # what it is about when that is none of these
    code: str | None = _optional()
    message: str | None = _optional()
    repeats: int = 0  # how many like it were refused and only counted

    __table_args__ = (
        Index("ix_audit_entry_created", "tenant", "created_at", "id"),
        Index(
            "ix_audit_entry_machine",
            "tenant",
            "machine_id",
            "created_at",
            "id",
            sqlite_where=text("machine_id IS NOT NULL"),
            postgresql_where=text("machine_id IS NOT NULL"),
        ),
        Index(
            "ix_audit_entry_operation",
            "tenant",
            "operation_id",
            "created_at",
            "id",
            sqlite_where=text("operation_id IS NOT NULL"),
            postgresql_where=text("operation_id IS NOT NULL"),
        ),
        {"sqlite_autoincrement": True},
    )
