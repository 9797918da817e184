"""The enums of the schema: the models' own, described here."""

from enum import StrEnum

import strawberry

from gateway.errors import MEANINGS, ErrorCode
from gateway.models import (
    AuditAction,
    AuditOutcome,
    Change,
    MachineKind,
    OperationKind,
    OperationState,
    PowerState,
    SnapshotAction,
    SnapshotState,
    Surface,
)


def _describe(enum: type[StrEnum], description: str, *, name: str | None = None, **values: str) -> None:
    """Makes `enum` an enum of the schema. Every member needs a description."""
    strawberry.enum(enum, name=name, description=description)
    definition = enum.__strawberry_definition__  # type: ignore[attr-defined]
    for value in definition.values:
        value.description = values.pop(value.name)
    assert not values, values


class SortDirection(StrEnum):
    """From small to large, or the other way."""

    ASC = "ASC"
    DESC = "DESC"


class NullsOrder(StrEnum):
    """Where what has no value goes."""

    FIRST = "FIRST"
    LAST = "LAST"


class SnapshotSortField(StrEnum):
    """What snapshots can be sorted by."""

    ID = "ID"
    NAME = "NAME"
    DESCRIPTION = "DESCRIPTION"
    STATE = "STATE"
    SIZE_BYTES = "SIZE_BYTES"
    CREATED_AT = "CREATED_AT"
    MACHINE_NAME = "MACHINE_NAME"


class MachineSortField(StrEnum):
    """What machines can be sorted by."""

    ID = "ID"
    NAME = "NAME"
    POWER_STATE = "POWER_STATE"
    CREATED_AT = "CREATED_AT"
    UPDATED_AT = "UPDATED_AT"
    SNAPSHOT_COUNT = "SNAPSHOT_COUNT"


class OperationSortField(StrEnum):
    """What operations can be sorted by."""

    ID = "ID"
    CREATED_AT = "CREATED_AT"
    FINISHED_AT = "FINISHED_AT"


class AuditEntrySortField(StrEnum):
    """What the record of who did what can be sorted by."""

    ID = "ID"
    CREATED_AT = "CREATED_AT"


_describe(
    MachineKind,
    "What a machine is.",
    VM="A virtual machine: its snapshots can be reverted to.",
    INSTANCE="A cloud instance: its snapshots cannot be reverted to.",
)
_describe(
    PowerState,
    "Whether a machine runs.",
    ON="It runs.",
    OFF="It is shut down.",
    SUSPENDED="It stands still with its memory kept.",
    UNKNOWN="The provider does not say.",
)
_describe(
    SnapshotState,
    "Where a snapshot is in its life. Values may be added.",
    CREATING="Its creation was accepted and has not ended.",
    READY="It exists on the provider.",
    REVERTING="Its machine is being taken back to it.",
    DELETING="Its deletion was accepted and has not ended.",
    ERROR="Its creation failed. It can be deleted.",
)
_describe(
    SnapshotAction,
    "Something that can be done with a machine's snapshots. Values may be added.",
    READ="See them.",
    CREATE="Create one without the machine's memory.",
    CREATE_WITH_MEMORY="Create one that holds the machine's memory.",
    REVERT="Take the machine back to one.",
    DELETE="Delete one.",
)
_describe(
    OperationKind,
    "What an operation does. Values may be added.",
    CREATE_SNAPSHOT="Creates a snapshot.",
    REVERT_VM_SNAPSHOT="Takes a Vm back to a snapshot.",
    DELETE_SNAPSHOT="Deletes one snapshot.",
    REFRESH_MACHINE="Reads a machine and its snapshots from its provider again.",
)
_describe(
    OperationState,
    "Where an operation is. Values may be added: `isDone` says whether one is final.",
    QUEUED="It waits for its turn; each machine's operations run one after the other.",
    RUNNING="It has begun.",
    SUCCEEDED="The provider has confirmed it. Final.",
    FAILED="It did not happen, or nobody can tell: see `error`. Final.",
    CANCELED="It was stopped as wished, and nothing of it is left. Final.",
)
_describe(
    Change,
    "What happened to a snapshot.",
    name="SnapshotChangeKind",
    CREATED="It was added to the inventory.",
    UPDATED="Something about it changed.",
    DELETED="It is gone.",
)
_describe(
    ErrorCode,
    "What went wrong, for programs. Values may be added.",
    **{code.value: meaning.advice for code, meaning in MEANINGS.items()},
)
_describe(SortDirection, "Which way a key sorts.", ASC="From small to large.", DESC="From large to small.")
_describe(
    NullsOrder,
    "Where rows without a value for the key go, whatever the direction.",
    FIRST="Before the others.",
    LAST="After the others.",
)
_describe(
    SnapshotSortField,
    "What snapshots can be sorted by.",
    ID="The number in the id.",
    NAME="The name, by code point.",
    DESCRIPTION="The description, by code point; null without one.",
    STATE="The state, in the order that the enum declares.",
    SIZE_BYTES="The size; null while unknown.",
    CREATED_AT="When it was created.",
    MACHINE_NAME="The name of its machine, by code point.",
)
_describe(
    MachineSortField,
    "What machines can be sorted by.",
    ID="The number in the id.",
    NAME="The name, by code point.",
    POWER_STATE="The power state, in the order that the enum declares.",
    CREATED_AT="When it was created.",
    UPDATED_AT="When something about it last changed.",
    SNAPSHOT_COUNT="How many snapshots it has.",
)
_describe(
    OperationSortField,
    "What operations can be sorted by.",
    ID="The number in the id.",
    CREATED_AT="When it was asked for.",
    FINISHED_AT="When it ended; null until then.",
)
_describe(
    AuditAction,
    "What was asked for. Values may be added.",
    CREATE_SNAPSHOT="To create a snapshot.",
    REVERT_VM_SNAPSHOT="To take a Vm back to a snapshot.",
    DELETE_SNAPSHOT="To delete one snapshot.",
    REFRESH_MACHINE="To read a machine and its snapshots from its provider again.",
    CANCEL_OPERATION="To stop an operation.",
    READ="To see something, or to know by a dry run whether something could be done. Recorded when it is forbidden.",
    LOG_IN="To be let in. Recorded when it is refused.",
    CREATE_TOKEN="To issue an API token.",  # noqa: S106 - the name of an action
    REVOKE_TOKEN="To make an API token worthless.",  # noqa: S106
    IMPORT="To import a file.",
)
_describe(
    AuditOutcome,
    "What became of what was asked for. Values may be added.",
    ACCEPTED="It was accepted, and goes on as an operation; when that has ended, another entry says how.",
    REFUSED="It was refused, and nothing was changed: see `code` and `message`.",
    SUCCEEDED="It is done; of an operation: the provider has confirmed it.",
    FAILED="The operation failed, or nobody can tell: see `code` and `message`.",
    CANCELED="The operation was stopped as wished.",
)
_describe(
    Surface,
    "The way something was asked for. Values may be added.",
    GRAPHQL="GraphQL, over HTTP or WebSocket.",
    REST="ManageIQ's REST routes.",
    COMMAND_LINE="A command on the gateway's own host.",
)
_describe(
    AuditEntrySortField,
    "What the record of who did what can be sorted by.",
    ID="The number in the id.",
    CREATED_AT="When it was recorded.",
)
