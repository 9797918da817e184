"""The filter and sort inputs of the schema. What they mean is in `reads/filters.py` and `reads/sorts.py`."""

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
    "eq": "Equal to this.",
    "ne": "Not equal to this; also what has no value.",
    "in": "One of these; none of them when the list is empty.",
    "notIn": "None of these; also what has no value.",
    "gt": "Greater, or later, than this.",
    "gte": "This, or greater, or later.",
    "lt": "Smaller, or earlier, than this.",
    "lte": "This, or smaller, or earlier.",
    "isNull": "Whether there is no value.",
}


def _operator(name: str) -> Any:
    return strawberry.field(name=name, default=UNSET, description=_OPERATORS[name])


def _member(description: str, name: str | None = None) -> Any:
    return strawberry.field(name=name, default=UNSET, description=description)


@strawberry.input(description="Conditions on an id. All that are given must hold.")
class IDFilter:
    eq: ID | None = _operator("eq")
    ne: ID | None = _operator("ne")
    in_: list[ID] | None = _operator("in")
    not_in: list[ID] | None = _operator("notIn")
    is_null: bool | None = _operator("isNull")


@strawberry.input(description="Conditions on a text, compared by code point. All that are given must hold.")
class StringFilter:
    eq: str | None = _operator("eq")
    ne: str | None = _operator("ne")
    in_: list[str] | None = _operator("in")
    not_in: list[str] | None = _operator("notIn")
    contains: str | None = _member("Has this somewhere.")
    starts_with: str | None = _member("Starts with this.")
    ends_with: str | None = _member("Ends with this.")
    like: str | None = _member(
        "The whole text fits this pattern: `*` stands for any run of characters, `\\*` for a star, `\\\\` for a"
        " backslash. Nothing else is special."
    )
    is_null: bool | None = _operator("isNull")
    ignore_case: bool = strawberry.field(
        default=False, description="Compare by Unicode case folding, for every operator of this object."
    )


@strawberry.input(description="Conditions on an instant. All that are given must hold.")
class DateTimeFilter:
    eq: Moment | None = _operator("eq")
    ne: Moment | None = _operator("ne")
    gt: Moment | None = _operator("gt")
    gte: Moment | None = _operator("gte")
    lt: Moment | None = _operator("lt")
    lte: Moment | None = _operator("lte")
    is_null: bool | None = _operator("isNull")


@strawberry.input(description="Conditions on a large whole number. All that are given must hold.")
class BigIntFilter:
    eq: BigInt | None = _operator("eq")
    ne: BigInt | None = _operator("ne")
    gt: BigInt | None = _operator("gt")
    gte: BigInt | None = _operator("gte")
    lt: BigInt | None = _operator("lt")
    lte: BigInt | None = _operator("lte")
    is_null: bool | None = _operator("isNull")


@strawberry.input(description="Conditions on a whole number. All that are given must hold.")
class IntFilter:
    eq: int | None = _operator("eq")
    ne: int | None = _operator("ne")
    gt: int | None = _operator("gt")
    gte: int | None = _operator("gte")
    lt: int | None = _operator("lt")
    lte: int | None = _operator("lte")


@strawberry.input(description="A condition on something that is true or false.")
class BooleanFilter:
    eq: bool | None = _operator("eq")


@strawberry.input(description="Conditions on a snapshot's state. All that are given must hold.")
class SnapshotStateFilter:
    eq: SnapshotState | None = _operator("eq")
    ne: SnapshotState | None = _operator("ne")
    in_: list[SnapshotState] | None = _operator("in")
    not_in: list[SnapshotState] | None = _operator("notIn")


@strawberry.input(description="Conditions on a machine's kind. All that are given must hold.")
class MachineKindFilter:
    eq: MachineKind | None = _operator("eq")
    ne: MachineKind | None = _operator("ne")
    in_: list[MachineKind] | None = _operator("in")
    not_in: list[MachineKind] | None = _operator("notIn")


@strawberry.input(description="Conditions on a machine's power state. All that are given must hold.")
class PowerStateFilter:
    eq: PowerState | None = _operator("eq")
    ne: PowerState | None = _operator("ne")
    in_: list[PowerState] | None = _operator("in")
    not_in: list[PowerState] | None = _operator("notIn")


@strawberry.input(description="Conditions on an operation's kind. All that are given must hold.")
class OperationKindFilter:
    eq: OperationKind | None = _operator("eq")
    ne: OperationKind | None = _operator("ne")
    in_: list[OperationKind] | None = _operator("in")
    not_in: list[OperationKind] | None = _operator("notIn")


@strawberry.input(description="Conditions on an operation's state. All that are given must hold.")
class OperationStateFilter:
    eq: OperationState | None = _operator("eq")
    ne: OperationState | None = _operator("ne")
    in_: list[OperationState] | None = _operator("in")
    not_in: list[OperationState] | None = _operator("notIn")


@strawberry.input(description="Conditions on a text that is looked for as a whole. All that are given must hold.")
class ExactFilter:
    eq: str | None = _operator("eq")
    ne: str | None = _operator("ne")
    in_: list[str] | None = _operator("in")
    not_in: list[str] | None = _operator("notIn")
    is_null: bool | None = _operator("isNull")


@strawberry.input(description="Conditions on what was asked for. All that are given must hold.")
class AuditActionFilter:
    eq: AuditAction | None = _operator("eq")
    ne: AuditAction | None = _operator("ne")
    in_: list[AuditAction] | None = _operator("in")
    not_in: list[AuditAction] | None = _operator("notIn")


@strawberry.input(description="Conditions on what became of it. All that are given must hold.")
class AuditOutcomeFilter:
    eq: AuditOutcome | None = _operator("eq")
    ne: AuditOutcome | None = _operator("ne")
    in_: list[AuditOutcome] | None = _operator("in")
    not_in: list[AuditOutcome] | None = _operator("notIn")


@strawberry.input(description="Conditions on the code of an error. All that are given must hold.")
class ErrorCodeFilter:
    eq: ErrorCode | None = _operator("eq")
    ne: ErrorCode | None = _operator("ne")
    in_: list[ErrorCode] | None = _operator("in")
    not_in: list[ErrorCode] | None = _operator("notIn")
    is_null: bool | None = _operator("isNull")


@strawberry.input(description="Conditions on the way something was asked for. All that are given must hold.")
class SurfaceFilter:
    eq: Surface | None = _operator("eq")
    ne: Surface | None = _operator("ne")
    in_: list[Surface] | None = _operator("in")
    not_in: list[Surface] | None = _operator("notIn")


_RULES = (
    " All members that are given must hold; `{}` matches everything. `not` and the negative operators are exact"
    " complements, what has no value included. An explicit null is refused."
)
_AND = "All of these; everything when the list is empty."
_OR = "Any of these; nothing when the list is empty."
_NOT = "Exactly what this does not match."


@strawberry.input(description="Which snapshots." + _RULES)
class SnapshotFilter:
    id: IDFilter | None = _member("The id.")
    name: StringFilter | None = _member("The name.")
    description: StringFilter | None = _member("The description.")
    state: SnapshotStateFilter | None = _member("The state.")
    memory: BooleanFilter | None = _member("Whether the machine's memory is part of it.")
    is_current: BooleanFilter | None = _member("Whether its machine now runs on top of it.")
    size_bytes: BigIntFilter | None = _member("The size in bytes.")
    created_at: DateTimeFilter | None = _member("When it was created.")
    parent_id: IDFilter | None = _member("The id of the snapshot it was taken on top of.")
    machine_id: IDFilter | None = _member("The id of its machine.")
    machine: "MachineFilter | None" = _member("Its machine matches.")
    created_by: StringFilter | None = _member("Who asked for it.")
    provider_ref: StringFilter | None = _member("The provider's own identifier of it.")
    and_: "list[SnapshotFilter] | None" = _member(_AND, "and")
    or_: "list[SnapshotFilter] | None" = _member(_OR, "or")
    not_: "SnapshotFilter | None" = _member(_NOT, "not")


@strawberry.input(description="Which machines." + _RULES)
class MachineFilter:
    id: IDFilter | None = _member("The id.")
    kind: MachineKindFilter | None = _member("Vm or Instance.")
    name: StringFilter | None = _member("The name.")
    description: StringFilter | None = _member("The description.")
    provider: StringFilter | None = _member("The name of the provider that runs it.")
    provider_ref: StringFilter | None = _member("The provider's own identifier of it.")
    host: StringFilter | None = _member("The host it runs on. No value for an Instance.")
    power_state: PowerStateFilter | None = _member("The power state.")
    created_at: DateTimeFilter | None = _member("When it was created.")
    observed_at: DateTimeFilter | None = _member("When the provider last confirmed it.")
    gone_at: DateTimeFilter | None = _member("When the provider stopped reporting it.")
    snapshot_count: IntFilter | None = _member("How many snapshots it has.")
    some_snapshot: SnapshotFilter | None = _member("At least one of its snapshots matches; `{}` means: has any.")
    and_: "list[MachineFilter] | None" = _member(_AND, "and")
    or_: "list[MachineFilter] | None" = _member(_OR, "or")
    not_: "MachineFilter | None" = _member(_NOT, "not")


@strawberry.input(description="Which operations." + _RULES)
class OperationFilter:
    id: IDFilter | None = _member("The id.")
    kind: OperationKindFilter | None = _member("What it does.")
    state: OperationStateFilter | None = _member("Where it is.")
    created_at: DateTimeFilter | None = _member("When it was asked for.")
    finished_at: DateTimeFilter | None = _member("When it ended.")
    requested_by: StringFilter | None = _member("Who asked.")
    machine_id: IDFilter | None = _member("The id of the machine it works on.")
    snapshot_id: IDFilter | None = _member("The id of the snapshot it works on.")
    and_: "list[OperationFilter] | None" = _member(_AND, "and")
    or_: "list[OperationFilter] | None" = _member(_OR, "or")
    not_: "OperationFilter | None" = _member(_NOT, "not")


@strawberry.input(description="Which entries of the record of who did what." + _RULES)
class AuditEntryFilter:
    id: IDFilter | None = _member("The id.")
    created_at: DateTimeFilter | None = _member("When it was recorded.")
    action: AuditActionFilter | None = _member("What was asked for.")
    outcome: AuditOutcomeFilter | None = _member("What became of it.")
    code: ErrorCodeFilter | None = _member("Why it was refused or failed.")
    caller_name: StringFilter | None = _member("The name of who asked.")
    caller_key: ExactFilter | None = _member("The key of who asked.")
    address: ExactFilter | None = _member("The address they asked from.")
    surface: SurfaceFilter | None = _member("The way they asked.")
    request_id: ExactFilter | None = _member("The id of the request.")
    machine_id: IDFilter | None = _member("The id of the machine, also when that is gone.")
    machine_name: ExactFilter | None = _member("The name that the machine had.")
    snapshot_id: IDFilter | None = _member("The id of the snapshot, also when that is gone.")
    snapshot_name: ExactFilter | None = _member("The name that the snapshot had.")
    operation_id: IDFilter | None = _member("The id of the operation that came of it.")
    subject: ExactFilter | None = _member("What it was about when that is none of these.")
    and_: "list[AuditEntryFilter] | None" = _member(_AND, "and")
    or_: "list[AuditEntryFilter] | None" = _member(_OR, "or")
    not_: "AuditEntryFilter | None" = _member(_NOT, "not")


_DIRECTION = "Which way this key sorts."
_NULLS = "Where what has no value goes."
_IGNORE_CASE = "Compare by Unicode case folding; for text only."


@strawberry.input(description="One key to sort snapshots by.")
class SnapshotSort:
    field: SnapshotSortField = strawberry.field(description="What to sort by.")
    direction: SortDirection = strawberry.field(default=SortDirection.ASC, description=_DIRECTION)
    nulls: NullsOrder = strawberry.field(default=NullsOrder.LAST, description=_NULLS)
    ignore_case: bool = strawberry.field(default=False, description=_IGNORE_CASE)


@strawberry.input(description="One key to sort machines by.")
class MachineSort:
    field: MachineSortField = strawberry.field(description="What to sort by.")
    direction: SortDirection = strawberry.field(default=SortDirection.ASC, description=_DIRECTION)
    nulls: NullsOrder = strawberry.field(default=NullsOrder.LAST, description=_NULLS)
    ignore_case: bool = strawberry.field(default=False, description=_IGNORE_CASE)


@strawberry.input(description="One key to sort operations by.")
class OperationSort:
    field: OperationSortField = strawberry.field(description="What to sort by.")
    direction: SortDirection = strawberry.field(default=SortDirection.ASC, description=_DIRECTION)
    nulls: NullsOrder = strawberry.field(default=NullsOrder.LAST, description=_NULLS)


@strawberry.input(description="One key to sort the record of who did what by.")
class AuditEntrySort:
    field: AuditEntrySortField = strawberry.field(description="What to sort by.")
    direction: SortDirection = strawberry.field(default=SortDirection.ASC, description=_DIRECTION)
