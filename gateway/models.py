"""The tables, their enums and the legal state changes. Pure: no queries, no I/O.

The database itself refuses to change an audit entry, and to delete one that is younger than 30 days.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar

from sqlalchemy import (
    BigInteger,
    Enum,
    Float,
    Identity,
    Index,
    MetaData,
    text,
)
from sqlmodel import Field, SQLModel

from gateway.columns import Number, Text, UtcDateTime

# ---- enums, in the order they sort in


class MachineKind(StrEnum):
    """What a machine is."""

    VM = "VM"
    INSTANCE = "INSTANCE"


class PowerState(StrEnum):
    """Whether a machine runs."""

    ON = "ON"
    OFF = "OFF"
    SUSPENDED = "SUSPENDED"
    UNKNOWN = "UNKNOWN"


class SnapshotState(StrEnum):
    """Where a snapshot is in its life.

    CREATING -> READY <-> REVERTING
    CREATING -> ERROR
    READY | ERROR -> DELETING -> (gone), or back when the delete fails
    """

    CREATING = "CREATING"
    READY = "READY"
    REVERTING = "REVERTING"
    DELETING = "DELETING"
    ERROR = "ERROR"


class SnapshotAction(StrEnum):
    """What can be done with a machine's snapshots."""

    READ = "READ"
    CREATE = "CREATE"
    CREATE_WITH_MEMORY = "CREATE_WITH_MEMORY"
    REVERT = "REVERT"
    DELETE = "DELETE"


class OperationKind(StrEnum):
    """What an operation does."""

    CREATE_SNAPSHOT = "CREATE_SNAPSHOT"
    REVERT_VM_SNAPSHOT = "REVERT_VM_SNAPSHOT"
    DELETE_SNAPSHOT = "DELETE_SNAPSHOT"
    REFRESH_MACHINE = "REFRESH_MACHINE"


class OperationState(StrEnum):
    """Where an operation is: QUEUED -> RUNNING -> SUCCEEDED | FAILED, or QUEUED | RUNNING -> CANCELED."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"


UNFINISHED: tuple[OperationState, ...] = (OperationState.QUEUED, OperationState.RUNNING)


class Change(StrEnum):
    """What happened to a row."""

    CREATED = "CREATED"
    UPDATED = "UPDATED"
    DELETED = "DELETED"


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


# ---- tables


def enum_column(kind: type[StrEnum]) -> Enum:
    return Enum(kind, native_enum=False, length=24)


SQLModel.metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _identity() -> Any:
    """A 64-bit number that is never used twice, not even after its row is gone."""
    return Field(default=None, primary_key=True, sa_type=Number, sa_column_args=(Identity(always=False),))


_NEVER_REUSED = {"sqlite_autoincrement": True}


def optional_column(type_: Any = Text) -> Any:
    return Field(default=None, nullable=True, sa_type=type_)


class Provider(SQLModel, table=True):
    """A configured endpoint that runs machines, or the source of an import (driver `none`)."""

    __tablename__: ClassVar[Any] = "provider"

    name: str = Field(primary_key=True, sa_type=Text)
    tenant: str = Field(sa_type=Text)
    driver: str = Field(sa_type=Text)
    observed_at: datetime | None = optional_column(UtcDateTime)  # when it was last read whole
    problem: str | None = optional_column()  # why it cannot be reached


class Machine(SQLModel, table=True):
    """A Vm or an Instance."""

    __tablename__: ClassVar[Any] = "machine"

    id: int = _identity()
    tenant: str = Field(sa_type=Text)
    kind: MachineKind = Field(sa_type=enum_column(MachineKind))
    name: str = Field(sa_type=Text)
    name_folded: str = Field(sa_type=Text)
    description: str | None = optional_column()
    description_folded: str | None = optional_column()
    provider: str = Field(sa_type=Text, foreign_key="provider.name")
    provider_folded: str = Field(sa_type=Text)
    provider_ref: str = Field(sa_type=Text)
    provider_ref_folded: str = Field(sa_type=Text)
    provider_uid: str | None = (
        optional_column()
    )  # a second identity, such as a BIOS UUID; known to imports and some drivers
    imported: bool = False  # came from a file and no driver has met it yet
    power_state: PowerState = Field(sa_type=enum_column(PowerState))
    obstacle: str | None = optional_column()  # why no snapshot can be made of it, whatever its power state
    host: str | None = optional_column()
    host_folded: str | None = optional_column()
    flavor: str | None = optional_column()
    availability_zone: str | None = optional_column()
    created_at: datetime = Field(sa_type=UtcDateTime)
    updated_at: datetime = Field(sa_type=UtcDateTime)
    observed_at: datetime = Field(sa_type=UtcDateTime)
    gone_at: datetime | None = optional_column(UtcDateTime)
    snapshot_count: int = Field(default=0, sa_column_kwargs={"server_default": text("0")})  # kept by triggers

    __table_args__ = (
        Index("ix_machine_created", "tenant", "created_at", "id"),
        Index("ix_machine_name", "tenant", "name", "id"),
        Index("ix_machine_name_folded", "tenant", "name_folded", "id"),
        Index(
            "one_machine_per_provider_ref",
            "provider",
            "provider_ref",
            unique=True,
            sqlite_where=text("NOT imported"),
            postgresql_where=text("NOT imported"),
        ),
        _NEVER_REUSED,
    )


class Snapshot(SQLModel, table=True):
    """A machine's state at one time."""

    __tablename__: ClassVar[Any] = "snapshot"

    id: int = _identity()
    tenant: str = Field(sa_type=Text)  # the machine's, repeated for the fleet's indexes
    machine_id: int = Field(sa_type=Number, foreign_key="machine.id")
    name: str = Field(sa_type=Text)
    name_folded: str = Field(sa_type=Text)
    description: str | None = optional_column()
    description_folded: str | None = optional_column()
    state: SnapshotState = Field(sa_type=enum_column(SnapshotState))
    memory: bool = False
    is_current: bool = False
    size_bytes: int | None = optional_column(BigInteger)
    provider_ref: str | None = optional_column()
    provider_ref_folded: str | None = optional_column()
    created_at: datetime = Field(sa_type=UtcDateTime)
    created_by: str | None = optional_column()
    created_by_folded: str | None = optional_column()
    observed_at: datetime | None = optional_column(UtcDateTime)
    parent_id: int | None = Field(default=None, sa_type=Number, foreign_key="snapshot.id")

    __table_args__ = (
        Index("ix_snapshot_machine_created", "machine_id", "created_at", "id"),
        Index("ix_snapshot_machine_name", "machine_id", "name_folded", "id"),
        Index("ix_snapshot_created", "tenant", "created_at", "id"),
        Index("ix_snapshot_name", "tenant", "name_folded", "id"),
        Index(
            "ix_snapshot_parent",
            "parent_id",
            sqlite_where=text("parent_id IS NOT NULL"),
            postgresql_where=text("parent_id IS NOT NULL"),
        ),
        Index(
            "one_current_per_machine",
            "machine_id",
            unique=True,
            sqlite_where=text("is_current"),
            postgresql_where=text("is_current"),
        ),
        _NEVER_REUSED,
    )


class Operation(SQLModel, table=True):
    """Work on one machine: the record that clients see, and the queue that workers claim from."""

    __tablename__: ClassVar[Any] = "operation"

    id: int = _identity()
    tenant: str = Field(sa_type=Text)
    kind: OperationKind = Field(sa_type=enum_column(OperationKind))
    state: OperationState = Field(sa_type=enum_column(OperationState))
    machine_id: int | None = Field(default=None, sa_type=Number)  # stays when the machine is cleared away
    machine_kind: MachineKind = Field(sa_type=enum_column(MachineKind))
    machine_name: str = Field(sa_type=Text)
    snapshot_id: int | None = Field(default=None, sa_type=Number)  # stays when the snapshot is gone
    snapshot_name: str | None = optional_column()
    requested_by: str | None = optional_column()
    requested_by_folded: str | None = optional_column()
    created_at: datetime = Field(sa_type=UtcDateTime)
    started_at: datetime | None = optional_column(UtcDateTime)
    finished_at: datetime | None = optional_column(UtcDateTime)
    cancel_requested_at: datetime | None = optional_column(UtcDateTime)
    progress_percent: int | None = None
    phase: str | None = optional_column()
    error_code: str | None = optional_column()
    error_message: str | None = optional_column()
    error_provider_message: str | None = optional_column()

    # What follows is the worker's own and is never shown.
    token: str = Field(sa_type=Text)  # what the provider's snapshot is marked with, so that recovery can look
    wish: str = Field(sa_type=Text)  # JSON: what the driver needs beyond the rows
    task_ref: str | None = optional_column()  # the provider's own task, committed before it is waited for
    issued: bool = False  # the driver has been called: from here on a restart looks before it acts
    attempt: int = 0
    retry_at: datetime | None = optional_column(UtcDateTime)  # not before this
    owner: str | None = optional_column()
    fence: int = 0  # grows with every claim; a write with an older one is refused
    lease_until: datetime | None = optional_column(UtcDateTime)

    __table_args__ = (
        Index("ix_operation_created", "tenant", "created_at", "id"),
        Index("ix_operation_machine", "machine_id", "created_at", "id"),
        Index("ix_operation_snapshot", "snapshot_id", "id"),
        Index(
            "ix_operation_unfinished",
            "machine_id",
            "id",
            sqlite_where=text("state IN ('QUEUED', 'RUNNING')"),
            postgresql_where=text("state IN ('QUEUED', 'RUNNING')"),
        ),
        Index(
            "one_running_per_machine",
            "machine_id",
            unique=True,
            sqlite_where=text("state = 'RUNNING'"),
            postgresql_where=text("state = 'RUNNING'"),
        ),
        _NEVER_REUSED,
    )


class IdempotencyKey(SQLModel, table=True):
    """A key that a caller gave to a mutation, what it was used for and what was answered."""

    __tablename__: ClassVar[Any] = "idempotency_key"

    caller: str = Field(primary_key=True, sa_type=Text)
    tenant: str = Field(primary_key=True, sa_type=Text)
    mutation: str = Field(primary_key=True, sa_type=Text)
    key: str = Field(primary_key=True, sa_type=Text)
    fingerprint: str = Field(sa_type=Text)
    answer: str = Field(sa_type=Text)  # JSON
    created_at: datetime = Field(sa_type=UtcDateTime, index=True)


class AuditEntry(SQLModel, table=True):
    """One thing that was asked for, or the end of it. It names everything itself: what it is about may be gone."""

    __tablename__: ClassVar[Any] = "audit_entry"

    id: int = Field(default=None, primary_key=True, sa_type=Number, sa_column_args=(Identity(always=False),))
    created_at: datetime = Field(sa_type=UtcDateTime)
    tenant: str = Field(sa_type=Text)
    caller_key: str | None = optional_column()
    caller_name: str | None = optional_column()  # null when nobody known asked
    caller_name_folded: str | None = optional_column()
    caller_roles: str = Field(sa_type=Text)  # JSON: a list of names
    address: str | None = optional_column()
    surface: Surface = Field(sa_type=enum_column(Surface))
    request_id: str | None = optional_column()
    action: AuditAction = Field(sa_type=enum_column(AuditAction))
    outcome: AuditOutcome = Field(sa_type=enum_column(AuditOutcome))
    machine_kind: MachineKind | None = optional_column(enum_column(MachineKind))
    machine_id: int | None = optional_column(Number)
    machine_name: str | None = optional_column()
    snapshot_id: int | None = optional_column(Number)
    snapshot_name: str | None = optional_column()
    operation_id: int | None = optional_column(Number)
    subject: str | None = optional_column()  # what it is about when that is none of these
    code: str | None = optional_column()
    message: str | None = optional_column()
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


class CallerUse(SQLModel, table=True):
    """What a caller that sends much has used of its quota, in all processes together."""

    __tablename__: ClassVar[Any] = "caller_use"

    caller: str = Field(primary_key=True, sa_type=Text)
    full_at: float = Field(sa_type=Float(53))  # Unix time at which the quota is full again


class Event(SQLModel, table=True):
    """The outbox: a row per change of a snapshot or operation, written by triggers in the change's own transaction."""

    __tablename__: ClassVar[Any] = "event"

    id: int = _identity()
    xid: int = Field(default=0, sa_type=BigInteger)  # the writing transaction on PostgreSQL, 0 on SQLite
    at: datetime = Field(sa_type=UtcDateTime)
    tenant: str = Field(sa_type=Text)
    noun: str = Field(sa_type=Text)  # "snapshot" or "operation"
    change: Change = Field(sa_type=enum_column(Change))
    machine_id: int | None = Field(default=None, sa_type=Number)
    subject_id: int = Field(sa_type=Number)  # of the snapshot or operation

    __table_args__ = (Index("ix_event_order", "xid", "id"), _NEVER_REUSED)
