"""The SQLModel tables, their enums and the legal state changes. Pure: no queries, no I/O.

Triggers in the database reject every update of an audit entry, and the deletion of one younger than 30 days.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar, Self

from sqlalchemy import (
    BigInteger,
    Boolean,
    Enum,
    Float,
    Identity,
    Index,
    Integer,
    MetaData,
    text,
)
from sqlmodel import Field, SQLModel

from gateway.columns import Number, Text, UtcDateTime

# ---- enums. The order of the members is their sort order. Rows of a newer version may have values that are no members

UNKNOWN = "UNKNOWN"  # what the GraphQL API shows for such a value. It is stored only where it is a member


class DescribedEnum(StrEnum):
    """An enum whose members have a value, a description for the schema and, if needed, an activity for messages."""

    description: str
    activity: str

    def __new__(cls, value: str, description: str = "", activity: str = "") -> Self:
        member = str.__new__(cls, value)
        member._value_ = value
        member.description = description
        member.activity = activity
        return member


class MachineKind(DescribedEnum):
    """Kind of a machine: virtual machine or cloud instance.

    It decides a machine's GraphQL type, so a process cannot show a machine of a kind that it does not know. Rows of a
    new kind may be stored only when the release before knows it.
    """

    VM = "VM", "A virtual machine. It can be reverted to its snapshots."
    INSTANCE = "INSTANCE", "A cloud instance. It cannot be reverted to its snapshots."


class PowerState(DescribedEnum):
    """Power state of a machine."""

    ON = "ON", "The machine is running."
    OFF = "OFF", "The machine is shut down."
    SUSPENDED = "SUSPENDED", "The machine is suspended and its memory is preserved."
    UNKNOWN = (
        "UNKNOWN",
        "The provider does not report the power state, or this version of the gateway does not know it.",
    )


class SnapshotState(DescribedEnum):
    """Lifecycle state of a snapshot.

    CREATING -> READY <-> REVERTING
    CREATING -> ERROR
    READY | ERROR -> DELETING -> (row deleted), or back to the previous state when the delete fails
    """

    CREATING = "CREATING", "The creation was accepted and is not finished."
    READY = "READY", "The snapshot exists on the provider."
    REVERTING = "REVERTING", "The machine is being reverted to the snapshot."
    DELETING = "DELETING", "The deletion was accepted and is not finished."
    ERROR = "ERROR", "The creation failed. The snapshot can be deleted."


class SnapshotAction(DescribedEnum):
    """Action on the snapshots of a machine. Rights and capabilities are given per action.

    `activity` is the subject of a message, followed by machines: "Reverting" Vms requires the right vm:revert.
    """

    READ = "READ", "Read the snapshots.", "Reading snapshots of"
    CREATE = "CREATE", "Create a snapshot without the machine's memory.", "Creating snapshots of"
    CREATE_WITH_MEMORY = (
        "CREATE_WITH_MEMORY",
        "Create a snapshot that includes the machine's memory.",
        "Creating snapshots of",
    )
    REVERT = "REVERT", "Revert the machine to a snapshot.", "Reverting"
    DELETE = "DELETE", "Delete a snapshot.", "Deleting snapshots of"
    UPDATE = "UPDATE", "Change the name or description of a snapshot.", "Updating snapshots of"


class OperationKind(DescribedEnum):
    """Kind of an operation. `activity` is the beginning of its name in the REST API, before those of its subjects."""

    CREATE_SNAPSHOT = "CREATE_SNAPSHOT", "Creates a snapshot.", "Creating snapshot"
    REVERT_VM_SNAPSHOT = "REVERT_VM_SNAPSHOT", "Reverts a Vm to a snapshot.", "Reverting to snapshot"
    DELETE_SNAPSHOT = "DELETE_SNAPSHOT", "Deletes one snapshot.", "Deleting snapshot"
    REFRESH_MACHINE = (
        "REFRESH_MACHINE",
        "Reloads a machine and its snapshots from the provider.",
        "Refreshing",
    )
    UPDATE_SNAPSHOT = "UPDATE_SNAPSHOT", "Changes the name or description of a snapshot.", "Updating snapshot"


class OperationState(DescribedEnum):
    """State of an operation: QUEUED -> RUNNING -> SUCCEEDED | FAILED, or QUEUED | RUNNING -> CANCELED."""

    QUEUED = "QUEUED", "The operation waits to be executed. The operations of a machine run one at a time, in order."
    RUNNING = "RUNNING", "The operation has started."
    SUCCEEDED = "SUCCEEDED", "The provider confirmed completion. Final."
    FAILED = "FAILED", "The operation had no effect, or its outcome is unknown: see `error`. Final."
    CANCELED = "CANCELED", "The operation was canceled on request and left nothing behind. Final."


UNFINISHED: tuple[OperationState, ...] = (OperationState.QUEUED, OperationState.RUNNING)
UNFINISHED_SQL = "state IN ('QUEUED', 'RUNNING')"  # the predicate of `ix_operation_unfinished`, word for word


def is_final(state: str, finished_at: object) -> bool:
    """Whether an operation has ended. A state that this version does not know is final if the operation has an end."""
    known = OperationState.__members__.get(state)
    return finished_at is not None if known is None else known not in UNFINISHED


class Change(StrEnum):
    """Kind of change of a row, in the change feed."""

    CREATED = "CREATED"
    UPDATED = "UPDATED"
    DELETED = "DELETED"


class AuditAction(DescribedEnum):
    """Audited action. An action that is recorded as an operation has the name of the operation's kind."""

    CREATE_SNAPSHOT = "CREATE_SNAPSHOT", "Create a snapshot."
    REVERT_VM_SNAPSHOT = "REVERT_VM_SNAPSHOT", "Revert a Vm to a snapshot."
    DELETE_SNAPSHOT = "DELETE_SNAPSHOT", "Delete one snapshot."
    REFRESH_MACHINE = "REFRESH_MACHINE", "Reload a machine and its snapshots from the provider."
    CANCEL_OPERATION = "CANCEL_OPERATION", "Cancel an operation."
    DELETE_OPERATION = "DELETE_OPERATION", "Delete the record of an operation that has ended."
    READ = "READ", "Read data, or check an action with a dry run. Recorded only if it is forbidden."
    LOG_IN = "LOG_IN", "Authenticate. Recorded only if it is refused."
    CREATE_TOKEN = "CREATE_TOKEN", "Create an API token."
    REVOKE_TOKEN = "REVOKE_TOKEN", "Revoke an API token."
    IMPORT = "IMPORT", "Import a file."
    UPDATE_SNAPSHOT = "UPDATE_SNAPSHOT", "Change the name or description of a snapshot."
    REFRESH_PROVIDER = "REFRESH_PROVIDER", "Request a refresh of a provider. What it finds is not recorded."


class AuditOutcome(DescribedEnum):
    """Outcome of an audited action. When an accepted operation ends, a second entry records its end."""

    ACCEPTED = (
        "ACCEPTED",
        "The action was accepted and continues as an operation. Another entry records how the operation ended.",
    )
    REFUSED = "REFUSED", "The action was refused and nothing was changed: see `code` and `message`."
    SUCCEEDED = "SUCCEEDED", "The action is complete. For an operation: the provider confirmed completion."
    FAILED = "FAILED", "The operation failed, or its outcome is unknown: see `code` and `message`."
    CANCELED = "CANCELED", "The operation was canceled on request."


class Surface(DescribedEnum):
    """Surface that received the request."""

    GRAPHQL = "GRAPHQL", "The GraphQL API, over HTTP or WebSocket."
    REST = "REST", "The ManageIQ-compatible REST API."
    COMMAND_LINE = "COMMAND_LINE", "A command on the host of the gateway."


# ---- tables


def enum_column(kind: type[StrEnum]) -> Enum:
    """Column type that stores the member's name as text of at most 24 characters."""
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
    """64-bit primary key. A number is never reused, even after its row is deleted (with `_NEVER_REUSED` on SQLite)."""
    return Field(default=None, primary_key=True, sa_type=Number, sa_column_args=(Identity(always=False),))


_NEVER_REUSED = {"sqlite_autoincrement": True}


PUBLISHED = "published"  # key in the `info` of a column


def column(type_: Any = Text, *, published: bool = False, **arguments: Any) -> Any:
    """Column. A change of a `published` one is an event of the change feed: see `gateway.store.change_triggers`.

    `arguments` are those of `Field`.
    """
    more = arguments.pop("sa_column_kwargs", {})
    return Field(sa_type=type_, sa_column_kwargs={"info": {PUBLISHED: published}, **more}, **arguments)


def optional_column(type_: Any = Text, *, published: bool = False, **arguments: Any) -> Any:
    """Nullable column, null by default. The parameters are those of `column`."""
    return column(type_, published=published, default=None, nullable=True, **arguments)


def _stored_as(column: str, attribute: str) -> dict[str, Any]:
    """Column arguments of an attribute whose column has another name in the database, kept from the first release."""
    return {"name": column, "key": attribute}


class Provider(SQLModel, table=True):
    """Configured endpoint that runs machines, or the source of an import (driver `none`)."""

    __tablename__: ClassVar[Any] = "provider"

    name: str = Field(primary_key=True, sa_type=Text)
    tenant: str = Field(sa_type=Text)
    driver: str = column(published=True)
    observed_at: datetime | None = optional_column(UtcDateTime)  # last complete refresh
    problem: str | None = optional_column(published=True)  # why the provider cannot be reached; null when it can be


class Machine(SQLModel, table=True):
    """Machine of a provider: a Vm or an Instance."""

    __tablename__: ClassVar[Any] = "machine"

    id: int = _identity()
    tenant: str = Field(sa_type=Text)
    kind: MachineKind = Field(sa_type=enum_column(MachineKind))
    name: str = column(published=True)
    name_folded: str = Field(sa_type=Text)
    description: str | None = optional_column(published=True)
    description_folded: str | None = optional_column()
    provider: str = column(published=True, foreign_key="provider.name")
    provider_folded: str = Field(sa_type=Text)
    provider_ref: str = column(published=True)
    provider_ref_folded: str = Field(sa_type=Text)
    # Second identity, such as a BIOS UUID. Set by imports and by some drivers.
    provider_uid: str | None = optional_column()
    imported: bool = False  # read from an import file; no driver has reported the machine yet
    power_state: PowerState = column(enum_column(PowerState), published=True)
    # Why no snapshot can be created of this machine in any power state; null when nothing blocks it.
    snapshot_blocker: str | None = optional_column(
        published=True, sa_column_kwargs=_stored_as("obstacle", "snapshot_blocker")
    )
    host: str | None = optional_column(published=True)
    host_folded: str | None = optional_column()
    flavor: str | None = optional_column(published=True)
    availability_zone: str | None = optional_column(published=True)
    created_at: datetime = column(UtcDateTime, published=True)
    updated_at: datetime = Field(sa_type=UtcDateTime)
    observed_at: datetime = Field(sa_type=UtcDateTime)
    gone_at: datetime | None = optional_column(UtcDateTime, published=True)
    # Maintained by triggers. Not published: it changes only with the events CREATED and DELETED of snapshots, and a
    # second event for each of them would slow down imports.
    snapshot_count: int = Field(default=0, sa_column_kwargs={"server_default": text("0")})

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
    """Snapshot of a machine: its state at one time."""

    __tablename__: ClassVar[Any] = "snapshot"

    id: int = _identity()
    tenant: str = Field(sa_type=Text)  # copy of the machine's tenant, for the indexes over all machines
    machine_id: int = Field(sa_type=Number, foreign_key="machine.id")
    name: str = column(published=True)
    name_folded: str = Field(sa_type=Text)
    description: str | None = optional_column(published=True)
    description_folded: str | None = optional_column()
    state: SnapshotState = column(enum_column(SnapshotState), published=True)
    memory: bool = column(Boolean, published=True, default=False)
    is_current: bool = column(Boolean, published=True, default=False)
    size_bytes: int | None = optional_column(BigInteger, published=True)
    provider_ref: str | None = optional_column(published=True)
    provider_ref_folded: str | None = optional_column()
    created_at: datetime = column(UtcDateTime, published=True)
    created_by: str | None = optional_column(published=True)
    created_by_folded: str | None = optional_column()
    observed_at: datetime | None = optional_column(UtcDateTime)
    parent_id: int | None = optional_column(Number, published=True, foreign_key="snapshot.id")

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
    """Operation on one machine: the record that clients read, and the queue that workers claim from.

    `gateway.operations.leases` describes who writes which of the columns.
    """

    __tablename__: ClassVar[Any] = "operation"

    id: int = _identity()
    tenant: str = Field(sa_type=Text)
    kind: OperationKind = Field(sa_type=enum_column(OperationKind))
    state: OperationState = column(enum_column(OperationState), published=True)
    machine_id: int | None = Field(default=None, sa_type=Number)  # kept after the machine's row is deleted
    machine_kind: MachineKind = Field(sa_type=enum_column(MachineKind))
    machine_name: str = Field(sa_type=Text)
    snapshot_id: int | None = optional_column(Number, published=True)  # kept after the snapshot's row is deleted
    snapshot_name: str | None = optional_column()
    requested_by: str | None = optional_column()
    requested_by_folded: str | None = optional_column()
    requested_by_key: str | None = optional_column()  # the caller's unique key; `requested_by` is a display name
    idempotency_key: str | None = optional_column()  # of the request; only that caller sees it
    created_at: datetime = Field(sa_type=UtcDateTime)
    started_at: datetime | None = optional_column(UtcDateTime, published=True)
    finished_at: datetime | None = optional_column(UtcDateTime, published=True)
    cancel_requested_at: datetime | None = optional_column(UtcDateTime, published=True)
    progress_percent: int | None = optional_column(Integer, published=True)
    phase: str | None = optional_column(published=True)
    error_code: str | None = optional_column(published=True)
    error_message: str | None = optional_column(published=True)
    error_provider_message: str | None = optional_column(published=True)

    # The columns below are internal to the worker. No surface returns them.
    # Tag that the driver puts on the provider's snapshot, by which recovery finds it.
    token: str = Field(sa_type=Text)
    # JSON object: the driver command's arguments that are not in the rows, and the snapshot's previous state.
    payload: str = Field(sa_type=Text, sa_column_kwargs=_stored_as("wish", "payload"))
    task_ref: str | None = optional_column()  # the provider's task, committed before the driver waits for it
    # The driver may have been called: the next attempt calls `recover` before it repeats the command.
    dispatched: bool = Field(default=False, sa_column_kwargs=_stored_as("issued", "dispatched"))
    attempt: int = 0  # number of claims so far
    retry_at: datetime | None = optional_column(UtcDateTime)  # not claimed before this time
    owner: str | None = optional_column()  # name of the worker that holds the lease
    fence: int = 0  # incremented by every claim; a write that carries an older fence changes no row
    lease_until: datetime | None = optional_column(UtcDateTime)  # another worker may claim after this time

    __table_args__ = (
        Index("ix_operation_created", "tenant", "created_at", "id"),
        Index("ix_operation_machine", "machine_id", "created_at", "id"),
        Index("ix_operation_snapshot", "snapshot_id", "id"),
        Index(
            "ix_operation_unfinished",
            "machine_id",
            "id",
            sqlite_where=text(UNFINISHED_SQL),
            postgresql_where=text(UNFINISHED_SQL),
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
    """Idempotency key of a mutation, with a fingerprint of its arguments and the recorded answer."""

    __tablename__: ClassVar[Any] = "idempotency_key"

    caller: str = Field(primary_key=True, sa_type=Text)
    tenant: str = Field(primary_key=True, sa_type=Text)
    mutation: str = Field(primary_key=True, sa_type=Text)
    key: str = Field(primary_key=True, sa_type=Text)
    fingerprint: str = Field(sa_type=Text)
    answer: str = Field(sa_type=Text)  # JSON
    created_at: datetime = Field(sa_type=UtcDateTime, index=True)


class AuditEntry(SQLModel, table=True):
    """Audit entry: one audited request, or the end of its operation.

    It copies the names of everything it refers to, because those rows may be deleted.
    """

    __tablename__: ClassVar[Any] = "audit_entry"

    id: int = Field(default=None, primary_key=True, sa_type=Number, sa_column_args=(Identity(always=False),))
    created_at: datetime = Field(sa_type=UtcDateTime)
    tenant: str = Field(sa_type=Text)
    caller_key: str | None = optional_column()
    caller_name: str | None = optional_column()  # null when the caller was not authenticated
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
    subject: str | None = optional_column()  # field, path or name that the entry is about, when it is none of the above
    code: str | None = optional_column()
    message: str | None = optional_column()
    repeats: int = 0  # number of similar refusals that were counted and have no entry of their own

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
    """Quota use of a caller with much traffic, shared by all processes."""

    __tablename__: ClassVar[Any] = "caller_use"

    caller: str = Field(primary_key=True, sa_type=Text)
    full_at: float = Field(sa_type=Float(53))  # Unix time at which the quota is full again


class JobLease(SQLModel, table=True):
    """State of a cluster job, which one process at a time runs.

    `gateway.jobs.leases` describes who writes which of the columns.
    """

    __tablename__: ClassVar[Any] = "job_lease"

    name: str = Field(primary_key=True, sa_type=Text)
    next_run_at: datetime = Field(sa_type=UtcDateTime)  # not claimed before this time
    owner: str | None = optional_column()  # name of the process that runs the job
    fence: int = 0  # incremented by every claim; a write that carries an older fence changes no row
    lease_until: datetime | None = optional_column(UtcDateTime)  # another process may claim after this time
    started_at: datetime | None = optional_column(UtcDateTime)  # of the last run, which may not have ended
    succeeded_at: datetime | None = optional_column(UtcDateTime)  # end of the last run that succeeded
    failures: int = 0  # runs that failed since the last one that succeeded
    problem: str | None = optional_column()  # why the last run failed; null when it succeeded


class Process(SQLModel, table=True):
    """A gateway process that runs operations, and the kinds that it knows."""

    __tablename__: ClassVar[Any] = "process"

    name: str = Field(primary_key=True, sa_type=Text)
    version: str = Field(sa_type=Text)
    kinds: str = Field(sa_type=Text)  # JSON: a list of operation kinds
    lease_until: datetime = Field(sa_type=UtcDateTime)  # the process has ended unless it renews the row before


class Event(SQLModel, table=True):
    """Row of the change feed's outbox. Triggers write one per change of a published row, in its transaction."""

    __tablename__: ClassVar[Any] = "event"

    id: int = _identity()
    xid: int = Field(default=0, sa_type=BigInteger)  # id of the writing transaction on PostgreSQL, 0 on SQLite
    at: datetime = Field(sa_type=UtcDateTime)
    tenant: str = Field(sa_type=Text)
    noun: str = Field(sa_type=Text)  # table of the changed row
    change: Change = Field(sa_type=enum_column(Change))
    machine_id: int | None = Field(default=None, sa_type=Number)
    subject_id: int = Field(sa_type=Number)  # id of the row; 0 for a row that has none, such as a provider
    machine_kind: MachineKind | None = optional_column(enum_column(MachineKind))  # of a machine only
    subject_name: str | None = optional_column()  # primary key of a row without an id, such as a provider's name

    __table_args__ = (Index("ix_event_order", "xid", "id"), _NEVER_REUSED)


class ChangeConsumer(SQLModel, table=True):
    """Position of a durable consumer of the change feed: the event up to which it has processed all changes."""

    __tablename__: ClassVar[Any] = "change_consumer"

    name: str = Field(primary_key=True, sa_type=Text)
    xid: int = Field(sa_type=BigInteger)
    id: int = Field(sa_type=Number)
    updated_at: datetime = Field(sa_type=UtcDateTime)
