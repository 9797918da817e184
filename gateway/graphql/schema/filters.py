"""The filter and sort inputs of the schema. `reads/filters.py` and `reads/sorts.py` implement their semantics."""

from typing import Any

import strawberry
from strawberry import ID, UNSET

from gateway.errors import ErrorCode
from gateway.graphql.schema.enums import (
    AuditEntrySortField,
    MachineSortField,
    NullsOrder,
    OperationSortField,
    SnapshotSortField,
    SortDirection,
)
from gateway.graphql.schema.scalars import BigInt, Moment
from gateway.models import (
    AuditAction,
    AuditOutcome,
    MachineKind,
    OperationKind,
    OperationState,
    PowerState,
    SnapshotState,
    Surface,
)

_OPERATORS = {
    "eq": "Equal to the given value.",
    "ne": "Not equal to the given value. Matches null.",
    "in": "Equal to one of the given values. An empty list matches nothing.",
    "notIn": "Not equal to any of the given values. Matches null.",
    "gt": "Greater than, or later than, the given value.",
    "gte": "Greater than, later than or equal to the given value.",
    "lt": "Less than, or earlier than, the given value.",
    "lte": "Less than, earlier than or equal to the given value.",
    "isNull": "If true, matches null. If false, matches any value except null.",
}


def _operator(name: str) -> Any:
    return strawberry.field(name=name, default=UNSET, description=_OPERATORS[name])


def _member(description: str, name: str | None = None) -> Any:
    return strawberry.field(name=name, default=UNSET, description=description)


@strawberry.input(description="Conditions on an id. All given conditions must hold.")
class IDFilter:
    eq: ID | None = _operator("eq")
    ne: ID | None = _operator("ne")
    in_: list[ID] | None = _operator("in")
    not_in: list[ID] | None = _operator("notIn")
    is_null: bool | None = _operator("isNull")


@strawberry.input(description="Conditions on a string, compared by code point. All given conditions must hold.")
class StringFilter:
    eq: str | None = _operator("eq")
    ne: str | None = _operator("ne")
    in_: list[str] | None = _operator("in")
    not_in: list[str] | None = _operator("notIn")
    contains: str | None = _member("Contains the given string.")
    starts_with: str | None = _member("Starts with the given string.")
    ends_with: str | None = _member("Ends with the given string.")
    like: str | None = _member(
        "Matches the given pattern as a whole. `*` matches any number of characters, `\\*` a literal `*` and `\\\\` a"
        " literal backslash. No other characters are special. At most 16 `*`."
    )
    is_null: bool | None = _operator("isNull")
    ignore_case: bool = strawberry.field(
        default=False,
        description="Compare case-insensitively, by Unicode case folding. Applies to all operators of this object.",
    )


@strawberry.input(description="Conditions on a point in time. All given conditions must hold.")
class DateTimeFilter:
    eq: Moment | None = _operator("eq")
    ne: Moment | None = _operator("ne")
    gt: Moment | None = _operator("gt")
    gte: Moment | None = _operator("gte")
    lt: Moment | None = _operator("lt")
    lte: Moment | None = _operator("lte")
    is_null: bool | None = _operator("isNull")


@strawberry.input(description="Conditions on a 64-bit integer. All given conditions must hold.")
class BigIntFilter:
    eq: BigInt | None = _operator("eq")
    ne: BigInt | None = _operator("ne")
    gt: BigInt | None = _operator("gt")
    gte: BigInt | None = _operator("gte")
    lt: BigInt | None = _operator("lt")
    lte: BigInt | None = _operator("lte")
    is_null: bool | None = _operator("isNull")


@strawberry.input(description="Conditions on an integer. All given conditions must hold.")
class IntFilter:
    eq: int | None = _operator("eq")
    ne: int | None = _operator("ne")
    gt: int | None = _operator("gt")
    gte: int | None = _operator("gte")
    lt: int | None = _operator("lt")
    lte: int | None = _operator("lte")


@strawberry.input(description="A condition on a boolean.")
class BooleanFilter:
    eq: bool | None = _operator("eq")


@strawberry.input(description="Conditions on the state of a snapshot. All given conditions must hold.")
class SnapshotStateFilter:
    eq: SnapshotState | None = _operator("eq")
    ne: SnapshotState | None = _operator("ne")
    in_: list[SnapshotState] | None = _operator("in")
    not_in: list[SnapshotState] | None = _operator("notIn")


@strawberry.input(description="Conditions on the kind of a machine. All given conditions must hold.")
class MachineKindFilter:
    eq: MachineKind | None = _operator("eq")
    ne: MachineKind | None = _operator("ne")
    in_: list[MachineKind] | None = _operator("in")
    not_in: list[MachineKind] | None = _operator("notIn")


@strawberry.input(description="Conditions on the power state of a machine. All given conditions must hold.")
class PowerStateFilter:
    eq: PowerState | None = _operator("eq")
    ne: PowerState | None = _operator("ne")
    in_: list[PowerState] | None = _operator("in")
    not_in: list[PowerState] | None = _operator("notIn")


@strawberry.input(description="Conditions on the kind of an operation. All given conditions must hold.")
class OperationKindFilter:
    eq: OperationKind | None = _operator("eq")
    ne: OperationKind | None = _operator("ne")
    in_: list[OperationKind] | None = _operator("in")
    not_in: list[OperationKind] | None = _operator("notIn")


@strawberry.input(description="Conditions on the state of an operation. All given conditions must hold.")
class OperationStateFilter:
    eq: OperationState | None = _operator("eq")
    ne: OperationState | None = _operator("ne")
    in_: list[OperationState] | None = _operator("in")
    not_in: list[OperationState] | None = _operator("notIn")


@strawberry.input(
    description="Conditions on a string that is compared as a whole, case-sensitively. All given conditions must hold."
)
class ExactFilter:
    eq: str | None = _operator("eq")
    ne: str | None = _operator("ne")
    in_: list[str] | None = _operator("in")
    not_in: list[str] | None = _operator("notIn")
    is_null: bool | None = _operator("isNull")


@strawberry.input(description="Conditions on a requested action. All given conditions must hold.")
class AuditActionFilter:
    eq: AuditAction | None = _operator("eq")
    ne: AuditAction | None = _operator("ne")
    in_: list[AuditAction] | None = _operator("in")
    not_in: list[AuditAction] | None = _operator("notIn")


@strawberry.input(description="Conditions on the outcome of an action. All given conditions must hold.")
class AuditOutcomeFilter:
    eq: AuditOutcome | None = _operator("eq")
    ne: AuditOutcome | None = _operator("ne")
    in_: list[AuditOutcome] | None = _operator("in")
    not_in: list[AuditOutcome] | None = _operator("notIn")


@strawberry.input(description="Conditions on an error code. All given conditions must hold.")
class ErrorCodeFilter:
    eq: ErrorCode | None = _operator("eq")
    ne: ErrorCode | None = _operator("ne")
    in_: list[ErrorCode] | None = _operator("in")
    not_in: list[ErrorCode] | None = _operator("notIn")
    is_null: bool | None = _operator("isNull")


@strawberry.input(
    description="Conditions on the surface through which an action was requested. All given conditions must hold."
)
class SurfaceFilter:
    eq: Surface | None = _operator("eq")
    ne: Surface | None = _operator("ne")
    in_: list[Surface] | None = _operator("in")
    not_in: list[Surface] | None = _operator("notIn")


_RULES = (
    " All given conditions must hold; `{}` matches all. `not` and the negative operators are exact complements and"
    " include null values. An explicit null is an error."
)
_AND = "Matches if all of the given filters match. An empty list matches all."
_OR = "Matches if at least one of the given filters matches. An empty list matches nothing."
_NOT = "Matches if the given filter does not match."


@strawberry.input(description="A filter for snapshots." + _RULES)
class SnapshotFilter:
    id: IDFilter | None = _member("Filter by id.")
    name: StringFilter | None = _member("Filter by name.")
    description: StringFilter | None = _member("Filter by description.")
    state: SnapshotStateFilter | None = _member("Filter by state.")
    memory: BooleanFilter | None = _member("Filter by whether the snapshot includes the machine's memory.")
    is_current: BooleanFilter | None = _member("Filter by whether the snapshot is the machine's current snapshot.")
    size_bytes: BigIntFilter | None = _member("Filter by size in bytes.")
    created_at: DateTimeFilter | None = _member("Filter by creation time.")
    parent_id: IDFilter | None = _member("Filter by the id of the parent snapshot.")
    machine_id: IDFilter | None = _member("Filter by the id of the machine.")
    machine: "MachineFilter | None" = _member("Filter by the machine.")
    created_by: StringFilter | None = _member("Filter by the name of the caller who requested the snapshot.")
    provider_ref: StringFilter | None = _member("Filter by the provider's identifier of the snapshot.")
    and_: "list[SnapshotFilter] | None" = _member(_AND, "and")
    or_: "list[SnapshotFilter] | None" = _member(_OR, "or")
    not_: "SnapshotFilter | None" = _member(_NOT, "not")


@strawberry.input(description="A filter for machines." + _RULES)
class MachineFilter:
    id: IDFilter | None = _member("Filter by id.")
    kind: MachineKindFilter | None = _member("Filter by kind: Vm or Instance.")
    name: StringFilter | None = _member("Filter by name.")
    description: StringFilter | None = _member("Filter by description.")
    provider: StringFilter | None = _member("Filter by the name of the provider.")
    provider_ref: StringFilter | None = _member("Filter by the provider's identifier of the machine.")
    host: StringFilter | None = _member("Filter by the host that runs the machine. Null for an Instance.")
    power_state: PowerStateFilter | None = _member("Filter by power state.")
    created_at: DateTimeFilter | None = _member("Filter by creation time.")
    observed_at: DateTimeFilter | None = _member("Filter by the time at which the provider last confirmed the machine.")
    gone_at: DateTimeFilter | None = _member("Filter by the time at which the provider stopped reporting the machine.")
    snapshot_count: IntFilter | None = _member("Filter by the number of snapshots.")
    some_snapshot: SnapshotFilter | None = _member(
        "Matches if at least one snapshot of the machine matches. `{}` matches machines with any snapshot."
    )
    and_: "list[MachineFilter] | None" = _member(_AND, "and")
    or_: "list[MachineFilter] | None" = _member(_OR, "or")
    not_: "MachineFilter | None" = _member(_NOT, "not")


@strawberry.input(description="A filter for operations." + _RULES)
class OperationFilter:
    id: IDFilter | None = _member("Filter by id.")
    kind: OperationKindFilter | None = _member("Filter by kind.")
    state: OperationStateFilter | None = _member("Filter by state.")
    created_at: DateTimeFilter | None = _member("Filter by the time at which the operation was requested.")
    finished_at: DateTimeFilter | None = _member("Filter by the time at which the operation ended.")
    requested_by: StringFilter | None = _member("Filter by the name of the caller who requested the operation.")
    machine_id: IDFilter | None = _member("Filter by the id of the machine.")
    snapshot_id: IDFilter | None = _member("Filter by the id of the snapshot.")
    and_: "list[OperationFilter] | None" = _member(_AND, "and")
    or_: "list[OperationFilter] | None" = _member(_OR, "or")
    not_: "OperationFilter | None" = _member(_NOT, "not")


@strawberry.input(description="A filter for audit log entries." + _RULES)
class AuditEntryFilter:
    id: IDFilter | None = _member("Filter by id.")
    created_at: DateTimeFilter | None = _member("Filter by the time at which the entry was recorded.")
    action: AuditActionFilter | None = _member("Filter by the requested action.")
    outcome: AuditOutcomeFilter | None = _member("Filter by outcome.")
    code: ErrorCodeFilter | None = _member("Filter by the error code of a refusal or failure.")
    caller_name: StringFilter | None = _member("Filter by the name of the caller.")
    caller_key: ExactFilter | None = _member("Filter by the key of the caller.")
    address: ExactFilter | None = _member("Filter by the network address of the client.")
    surface: SurfaceFilter | None = _member("Filter by surface.")
    request_id: ExactFilter | None = _member("Filter by request id.")
    machine_id: IDFilter | None = _member("Filter by the id of the machine. Also matches a machine that was removed.")
    machine_name: ExactFilter | None = _member("Filter by the machine's name at that time.")
    snapshot_id: IDFilter | None = _member("Filter by the id of the snapshot. Also matches a deleted snapshot.")
    snapshot_name: ExactFilter | None = _member("Filter by the snapshot's name at that time.")
    operation_id: IDFilter | None = _member("Filter by the id of the resulting operation.")
    subject: ExactFilter | None = _member("Filter by what was affected if not a machine, snapshot or operation.")
    and_: "list[AuditEntryFilter] | None" = _member(_AND, "and")
    or_: "list[AuditEntryFilter] | None" = _member(_OR, "or")
    not_: "AuditEntryFilter | None" = _member(_NOT, "not")


_DIRECTION = "The direction of this key."
_NULLS = "The position of items without a value for this key."
_IGNORE_CASE = "Compare case-insensitively, by Unicode case folding. For text fields only."


@strawberry.input(description="A sort key for snapshots.")
class SnapshotSort:
    field: SnapshotSortField = strawberry.field(description="The field to sort by.")
    direction: SortDirection = strawberry.field(default=SortDirection.ASC, description=_DIRECTION)
    nulls: NullsOrder = strawberry.field(default=NullsOrder.LAST, description=_NULLS)
    ignore_case: bool = strawberry.field(default=False, description=_IGNORE_CASE)


@strawberry.input(description="A sort key for machines.")
class MachineSort:
    field: MachineSortField = strawberry.field(description="The field to sort by.")
    direction: SortDirection = strawberry.field(default=SortDirection.ASC, description=_DIRECTION)
    nulls: NullsOrder = strawberry.field(default=NullsOrder.LAST, description=_NULLS)
    ignore_case: bool = strawberry.field(default=False, description=_IGNORE_CASE)


@strawberry.input(description="A sort key for operations.")
class OperationSort:
    field: OperationSortField = strawberry.field(description="The field to sort by.")
    direction: SortDirection = strawberry.field(default=SortDirection.ASC, description=_DIRECTION)
    nulls: NullsOrder = strawberry.field(default=NullsOrder.LAST, description=_NULLS)


@strawberry.input(description="A sort key for audit log entries.")
class AuditEntrySort:
    field: AuditEntrySortField = strawberry.field(description="The field to sort by.")
    direction: SortDirection = strawberry.field(default=SortDirection.ASC, description=_DIRECTION)
