"""The enums of the schema: those of the models, with their descriptions, and those for sorting."""

from enum import StrEnum
from typing import Any

import strawberry

from gateway.errors import MEANINGS, ErrorCode
from gateway.models import (
    UNKNOWN,
    AuditAction,
    AuditOutcome,
    Change,
    DescribedEnum,
    MachineKind,
    OperationKind,
    OperationState,
    PowerState,
    SnapshotAction,
    SnapshotState,
    Surface,
)

_UNKNOWN = (
    "A value that this version of the gateway does not know, stored by a newer version. Output only: it cannot be"
    " filtered by."
)


def _describe(enum: type[StrEnum], description: str, *, name: str | None = None, **values: str) -> None:
    """Registers `enum` as an enum of the schema. `values` must hold a description for every member."""
    strawberry.enum(enum, name=name, description=description)
    definition = enum.__strawberry_definition__  # type: ignore[attr-defined]
    for value in definition.values:
        value.description = values.pop(value.name)
    assert not values, values


def _register(enum: type[DescribedEnum], description: str) -> None:
    """Registers an enum of the models as an enum of the schema."""
    _describe(enum, description, **{member.name: member.description for member in enum})


def _describe_stored(enum: type[StrEnum], description: str, **values: str) -> None:
    """Registers `enum`, which is the type of a column, as an enum of the schema, with the additional value UNKNOWN.

    The schema's enum is another class, so that UNKNOWN is no member of `enum`: it is neither stored nor dispatched on.
    """
    make_enum: Any = StrEnum  # called with members that are no literals
    widened = make_enum(enum.__name__, {**{member.name: member.value for member in enum}, UNKNOWN: UNKNOWN})
    _describe(widened, description, **values, **{UNKNOWN: _UNKNOWN})
    enum.__strawberry_definition__ = widened.__strawberry_definition__  # type: ignore[attr-defined]


def _register_stored(enum: type[DescribedEnum], description: str) -> None:
    """Registers an enum of the models, with the additional value UNKNOWN (see `_describe_stored`)."""
    _describe_stored(enum, description, **{member.name: member.description for member in enum})


class SortDirection(StrEnum):
    """The direction of a sort key."""

    ASC = "ASC"
    DESC = "DESC"


class NullsOrder(StrEnum):
    """The position of rows without a value for the sort key."""

    FIRST = "FIRST"
    LAST = "LAST"


class SnapshotSortField(StrEnum):
    """The sort fields of snapshots."""

    ID = "ID"
    NAME = "NAME"
    DESCRIPTION = "DESCRIPTION"
    STATE = "STATE"
    SIZE_BYTES = "SIZE_BYTES"
    CREATED_AT = "CREATED_AT"
    MACHINE_NAME = "MACHINE_NAME"


class MachineSortField(StrEnum):
    """The sort fields of machines."""

    ID = "ID"
    NAME = "NAME"
    POWER_STATE = "POWER_STATE"
    CREATED_AT = "CREATED_AT"
    UPDATED_AT = "UPDATED_AT"
    SNAPSHOT_COUNT = "SNAPSHOT_COUNT"


class OperationSortField(StrEnum):
    """The sort fields of operations."""

    ID = "ID"
    CREATED_AT = "CREATED_AT"
    FINISHED_AT = "FINISHED_AT"


class AuditEntrySortField(StrEnum):
    """The sort fields of audit log entries."""

    ID = "ID"
    CREATED_AT = "CREATED_AT"


class MachineChangeKind(StrEnum):
    """The kind of a change that `machineChanged` sends."""

    CREATED = "CREATED"
    UPDATED = "UPDATED"
    REMOVED = "REMOVED"


_register(MachineKind, "The kind of a machine.")
_register(PowerState, "The power state of a machine. Values may be added.")
_register_stored(SnapshotState, "The lifecycle state of a snapshot. Values may be added.")
_register(SnapshotAction, "An action on the snapshots of a machine. Values may be added.")
_register_stored(OperationKind, "The kind of an operation. Values may be added.")
_register_stored(
    OperationState, "The state of an operation. Values may be added; `isDone` states whether a state is final."
)
_describe(
    Change,
    "The kind of a change of a snapshot.",
    name="SnapshotChangeKind",
    CREATED="The snapshot was added to the inventory.",
    UPDATED="At least one field of the snapshot changed.",
    DELETED="The snapshot was removed from the inventory.",
)
_describe(
    MachineChangeKind,
    "The kind of a change of a machine.",
    CREATED="The machine was added, or has started to match the filter.",
    UPDATED="The machine or its number of snapshots was changed.",
    REMOVED="The machine was deleted, or no longer matches the filter.",
)
_describe_stored(
    ErrorCode,
    "A machine-readable error code. Values may be added.",
    **{code.value: meaning.advice for code, meaning in MEANINGS.items()},
)
_describe(SortDirection, "The direction of a sort key.", ASC="Ascending order.", DESC="Descending order.")
_describe(
    NullsOrder,
    "The position of items without a value for the sort key, in either direction.",
    FIRST="Before all items with a value.",
    LAST="After all items with a value.",
)
_describe(
    SnapshotSortField,
    "The fields by which snapshots can be sorted.",
    ID="Sort by the number in the id.",
    NAME="Sort by name, by code point.",
    DESCRIPTION="Sort by description, by code point. No value if the description is null.",
    STATE="Sort by state, in the order of the values of SnapshotState.",
    SIZE_BYTES="Sort by size. No value while the size is unknown.",
    CREATED_AT="Sort by creation time.",
    MACHINE_NAME="Sort by the name of the machine, by code point.",
)
_describe(
    MachineSortField,
    "The fields by which machines can be sorted.",
    ID="Sort by the number in the id.",
    NAME="Sort by name, by code point.",
    POWER_STATE="Sort by power state, in the order of the values of PowerState.",
    CREATED_AT="Sort by creation time.",
    UPDATED_AT="Sort by the time of the last change.",
    SNAPSHOT_COUNT="Sort by the number of snapshots.",
)
_describe(
    OperationSortField,
    "The fields by which operations can be sorted.",
    ID="Sort by the number in the id.",
    CREATED_AT="Sort by the time at which the operation was requested.",
    FINISHED_AT="Sort by the time at which the operation ended. No value until then.",
)
_register_stored(AuditAction, "A requested action in the audit log. Values may be added.")
_register_stored(AuditOutcome, "The outcome of a requested action. Values may be added.")
_register_stored(Surface, "The interface through which an action was requested. Values may be added.")
_describe(
    AuditEntrySortField,
    "The fields by which audit log entries can be sorted.",
    ID="Sort by the number in the id.",
    CREATED_AT="Sort by the time at which the entry was recorded.",
)
