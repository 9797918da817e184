"""The output types of the schema: machines, snapshots, operations, providers, the caller, and their connections.

Each field declares the source of its value for the read compiler; there are no resolvers.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Generic, TypeVar

import strawberry
from graphql import GraphQLAbstractType, GraphQLResolveInfo
from strawberry import ID

from gateway.access.capabilities import (
    MACHINE_COLUMNS,
    SNAPSHOT_ACTIONS,
    SNAPSHOT_COLUMNS,
    MachineFacts,
    SnapshotFacts,
    decisive,
    machine_refusal,
    snapshot_refusal,
)
from gateway.access.roles import Grant
from gateway.errors import MEANINGS, ErrorCode, Refusal
from gateway.graphql.schema.fields import column, connection, sourced
from gateway.graphql.schema.filters import OperationFilter, OperationSort, SnapshotFilter, SnapshotSort
from gateway.graphql.schema.scalars import BigInt, Moment
from gateway.models import OperationKind, OperationState, PowerState, SnapshotAction, SnapshotState, is_final
from gateway.reads.conditions import member_name
from gateway.reads.context import Context
from gateway.reads.rendering import Record
from gateway.reads.selection import Arguments
from gateway.reads.sources import Aggregate, Computed, ForeignId, Inline, OwnId, PayloadValue, ToMany, ToOne

NodeType = TypeVar("NodeType")

# ---- lists


@strawberry.type(description="Information about a page of a list. All fields are exact in both directions.")
class PageInfo:
    has_next_page: bool = strawberry.field(description="Whether there are items after the page.")
    has_previous_page: bool = strawberry.field(description="Whether there are items before the page.")
    start_cursor: str | None = strawberry.field(description="The cursor of the first edge. Null if the page is empty.")
    end_cursor: str | None = strawberry.field(description="The cursor of the last edge. Null if the page is empty.")


@strawberry.type(description="An item of a list, with its cursor.")
class Edge(Generic[NodeType]):
    cursor: str = strawberry.field(description="The position in the list, for `after` and `before` with the same sort.")
    node: NodeType = strawberry.field(description="The item.")


@strawberry.type(description="A page of a list.")
class Connection(Generic[NodeType]):
    edges: list[Edge[NodeType]] = strawberry.field(description="The items of the page, with their cursors.")
    nodes: list[NodeType] = strawberry.field(description="The items of the page.")
    page_info: PageInfo = strawberry.field(description="Information about the page.")
    total_count: int = strawberry.field(description="The total number of items that match the filter, on all pages.")


# ---- capabilities


@strawberry.type(description="Whether the caller can perform an action, and the reason if not.")
class Capability:
    action: SnapshotAction = strawberry.field(description="The action.")
    supported: bool = strawberry.field(description="Whether the caller can currently perform the action.")
    reason: str | None = strawberry.field(
        description="Human-readable reason why the action is not supported. Null if it is."
    )


def _capability(action: SnapshotAction, refusal: Refusal | None) -> dict[str, Any]:
    return {
        "action": action.value,
        "supported": refusal is None,
        "reason": None if refusal is None else refusal.message,
    }


def machine_capabilities(context: Context, *columns: Any) -> Sequence[Mapping[str, Any]]:
    """The capabilities of a machine: one per action."""
    key = ("machine", *decisive(columns))
    answer: Sequence[Mapping[str, Any]] | None = context.computed_cache.get(key)
    if answer is None:
        facts = MachineFacts.of(*columns)
        answer = context.computed_cache[key] = [
            _capability(action, machine_refusal(action, facts, context.rules, context.caller))
            for action in SnapshotAction
        ]
    return answer


def snapshot_capabilities(
    context: Context, state: str, provider_ref: str | None, cause: int | None, *machine: Any
) -> Sequence[Mapping[str, Any]]:
    """The capabilities of a snapshot: one per action on a snapshot."""
    key = ("snapshot", state, provider_ref is not None, cause, *decisive(machine))
    answer: Sequence[Mapping[str, Any]] | None = context.computed_cache.get(key)
    if answer is None:
        facts = SnapshotFacts.of(state, provider_ref, cause, *machine)
        answer = context.computed_cache[key] = [
            _capability(action, snapshot_refusal(action, facts, context.rules, context.caller))
            for action in SNAPSHOT_ACTIONS
        ]
    return answer


def requested_action(arguments: Arguments) -> str:
    """The argument `action`."""
    return member_name(arguments["action"])


def machine_capability(context: Context, action: str, *columns: Any) -> Mapping[str, Any]:
    """The capability of a machine for one action."""
    return next(one for one in machine_capabilities(context, *columns) if one["action"] == action)


def snapshot_capability(context: Context, action: str, *columns: Any) -> Mapping[str, Any]:
    """The capability of a snapshot for one action. Actions that concern its machine are not supported."""
    for one in snapshot_capabilities(context, *columns):
        if one["action"] == action:
            return one
    return {
        "action": action,
        "supported": False,
        "reason": f"{action} is an action on a machine, not on a snapshot. See `capability` of the snapshot's machine.",
    }


# ---- nodes


@strawberry.interface(description="An object with an id, which can be looked up with `node(id:)`.")
class Node:
    id: ID = sourced(OwnId(), "The id, in the form TYPE-NUMBER, for example `vm-11` or `snapshot-3`. Never reused.")

    @classmethod
    def resolve_type(cls, value: Record, _info: GraphQLResolveInfo[Any], _type: GraphQLAbstractType) -> str:
        return value.type_name

    @classmethod
    def is_type_of(cls, value: Any, _info: GraphQLResolveInfo[Any]) -> bool:
        return isinstance(value, Record)


@strawberry.interface(description="A machine that can have snapshots: a `Vm` or an `Instance`.")
class Machine(Node):
    name: str = column("name", "The name of the machine. Empty if the provider or import has none.")
    description: str | None = column("description", "The description. Null if there is none.")
    provider: str = column("provider", "The name of the configured provider, or of the import source.")
    provider_ref: str = column("provider_ref", "The provider's identifier of the machine.")
    power_state: PowerState = column("power_state", "The power state.")
    created_at: Moment = column("created_at", "When the machine was created.")
    updated_at: Moment = column("updated_at", "When the machine was last changed.")
    observed_at: Moment = column("observed_at", "When the provider last confirmed the data of the machine.")
    gone_at: Moment | None = column(
        "gone_at", "When the provider stopped reporting the machine. Null while the provider reports it."
    )
    capabilities: list[Capability] = sourced(
        Computed(MACHINE_COLUMNS, machine_capabilities),
        "Which actions on the machine's snapshots the caller can currently perform, and why not otherwise. Depends on"
        " the provider, the power state, the machine's unfinished operations and the caller's rights.",
    )
    capability: Capability = sourced(
        Computed(MACHINE_COLUMNS, machine_capability, bind=requested_action),
        "Whether the caller can currently perform one action on the machine's snapshots, and why not otherwise.",
        action=(SnapshotAction, "The action."),
    )
    snapshots: Annotated["SnapshotConnection", strawberry.lazy("gateway.graphql.schema.types")] = connection(
        ToMany("snapshot", match="machine_id", counter="snapshot_count"),
        SnapshotFilter,
        SnapshotSort,
        "The snapshots of the machine.",
    )
    current_snapshot: Annotated["Snapshot", strawberry.lazy("gateway.graphql.schema.types")] | None = sourced(
        ToOne("snapshot", "id", match="machine_id", where="{t}.is_current"),
        "The snapshot that the machine's current state is based on. Null if there is none, or if the provider has no"
        " snapshot tree.",
    )
    operations: Connection[Annotated["Operation", strawberry.lazy("gateway.graphql.schema.types")]] = connection(
        ToMany("operation", match="machine_id"), OperationFilter, OperationSort, "The operations on the machine."
    )


@strawberry.type(description="A virtual machine. Its snapshots can be created, updated, reverted to and deleted.")
class Vm(Machine):
    host: str | None = column("host", "The host that runs the machine. Null if the provider does not report it.")


@strawberry.type(description="A cloud instance. Its snapshots can be created, updated and deleted.")
class Instance(Machine):
    flavor: str | None = column(
        "flavor", "The provider's name of the instance type or flavor. Null if the provider does not report it."
    )
    availability_zone: str | None = column(
        "availability_zone", "The availability zone. Null if the provider does not report it."
    )


@strawberry.type(description="A snapshot: the saved state of a machine at a point in time.")
class Snapshot(Node):
    name: str = column(
        "name", "The name of the snapshot. Not necessarily unique. Empty if the provider or import has none."
    )
    description: str | None = column("description", "The description. Null if there is none.")
    state: SnapshotState = column("state", "The lifecycle state.")
    memory: bool = column("memory", "Whether the snapshot includes the machine's memory.")
    is_current: bool = column("is_current", "Whether the machine's current state is based on this snapshot.")
    size_bytes: BigInt | None = column("size_bytes", "The size in bytes. Null if unknown, never 0 instead of unknown.")
    provider_ref: str | None = column(
        "provider_ref", "The provider's identifier of the snapshot. Null until the provider has created it."
    )
    created_at: Moment = column(
        "created_at", "When the provider created the snapshot. Until then, when it was requested."
    )
    created_by: str | None = column("created_by", "The name of the caller who requested the snapshot. Null if unknown.")
    observed_at: Moment | None = column(
        "observed_at", "When the provider last confirmed the snapshot. Null until the provider has created it."
    )
    machine: Machine = sourced(ToOne("machine", "machine_id"), "The machine of the snapshot.")
    capabilities: list[Capability] = sourced(
        Computed(SNAPSHOT_COLUMNS, snapshot_capabilities),
        "Whether the caller can currently revert to (REVERT), delete (DELETE) or change (UPDATE) the snapshot, and why"
        " not otherwise.",
    )
    capability: Capability = sourced(
        Computed(SNAPSHOT_COLUMNS, snapshot_capability, bind=requested_action),
        "Whether the caller can currently perform one action on the snapshot, and why not otherwise. An action that"
        " concerns a machine, such as CREATE, is not supported.",
        action=(SnapshotAction, "The action."),
    )
    parent: "Snapshot | None" = sourced(
        ToOne("snapshot", "parent_id"),
        "The snapshot on which this snapshot is based. Null for a root, if the provider has no snapshot tree, and until"
        " the provider has created the snapshot.",
    )
    children: "SnapshotConnection" = connection(
        ToMany("snapshot", match="parent_id"), SnapshotFilter, SnapshotSort, "The snapshots based on this snapshot."
    )


@strawberry.type(description="A page of a list of snapshots.")
class SnapshotConnection(Connection[Snapshot]):
    total_bytes: BigInt = sourced(
        Aggregate("sum", "{t}.size_bytes"),
        "The sum of the known sizes of all snapshots that match the filter, on all pages, in bytes. 0 if no size is"
        " known. At most 2^63 - 1. Reads every snapshot that matches.",
    )
    unknown_size_count: int = sourced(
        Aggregate("count", "{t}.size_bytes IS NULL"),
        "The number of snapshots that match the filter, on all pages, whose size is unknown.",
    )


def error_retryable(_context: Context, code: str) -> bool:
    """Whether a request that failed with this code may be retried unchanged. Not with a code that is unknown here."""
    known = ErrorCode.__members__.get(code)
    return known is not None and MEANINGS[known].retryable


@strawberry.type(description="The reason why an operation failed.")
class OperationError:
    code: ErrorCode = column("error_code", "The machine-readable error code.")
    message: str = column("error_message", "The human-readable error message.")
    retryable: bool = sourced(
        Computed(("error_code",), error_retryable), "Whether the same request may succeed if it is retried later."
    )
    provider_message: str | None = column(
        "error_provider_message", "The provider's own error message. Null if there is none."
    )


def is_done(_context: Context, state: str, finished_at: Any) -> bool:
    """Whether the operation has ended."""
    return is_final(state, finished_at)


def is_cancelable(_context: Context, kind: str, state: str, cancel_requested_at: Any) -> bool:
    """Whether the operation is queued, or running without a cancel request, and of a kind that this version knows."""
    waits_or_runs = state == "QUEUED" or (state == "RUNNING" and cancel_requested_at is None)
    return waits_or_runs and kind in OperationKind.__members__


def own_idempotency_key(context: Context, key: str | None, requested_by: str | None) -> str | None:
    """The key, for the caller who sent it."""
    return key if requested_by == context.caller.key else None


@strawberry.type(description="An asynchronous operation on a machine, for example the creation of a snapshot.")
class Operation(Node):
    kind: OperationKind = column("kind", "The kind of the operation.")
    state: OperationState = column("state", "The state of the operation.")
    is_done: bool = sourced(Computed(("state", "finished_at"), is_done), "Whether `state` is final.")
    progress_percent: int | None = column(
        "progress_percent", "Progress in percent, 0 to 100. Null if the provider does not report it."
    )
    phase: str | None = column("phase", "Human-readable description of the current step. Null if there is none.")
    is_cancelable: bool = sourced(
        Computed(("kind", "state", "cancel_requested_at"), is_cancelable),
        "Whether the operation can be canceled: always while QUEUED, best effort while RUNNING. False once cancellation"
        " was requested.",
    )
    cancel_requested_at: Moment | None = column(
        "cancel_requested_at", "When cancellation was requested. Null if it was not."
    )
    requested_by: str | None = column(
        "requested_by", "The name of the caller who requested the operation. Null if the gateway started it itself."
    )
    idempotency_key: str | None = sourced(
        Computed(("idempotency_key", "requested_by_key"), own_idempotency_key),
        "The idempotency key of the request, by which its sender recognizes the operation. Null for other callers, and"
        " if the request had no key.",
    )
    created_at: Moment = column("created_at", "When the operation was requested.")
    started_at: Moment | None = column("started_at", "When the operation started. Null while QUEUED.")
    finished_at: Moment | None = column("finished_at", "When the operation ended. Null until then.")
    error: OperationError | None = sourced(
        Inline("error_code"), "The reason for the failure. Null unless `state` is FAILED."
    )
    machine: Machine | None = sourced(
        ToOne("machine", "machine_id"), "The machine. Null if it was removed from the inventory."
    )
    snapshot: Snapshot | None = sourced(
        ToOne("snapshot", "snapshot_id"),
        "The snapshot that is created, reverted to or deleted. Null for a refresh, and if the snapshot no longer"
        " exists; `snapshotId` is kept.",
    )
    snapshot_id: ID | None = sourced(
        ForeignId("snapshot", "snapshot_id"),
        "The id of the snapshot, kept after the snapshot is deleted. Null for a refresh.",
    )
    snapshot_name: str | None = column(
        "snapshot_name", "The name of the snapshot when the operation was requested. Null for a refresh."
    )


_MACHINE_COUNT = (
    "(SELECT count(*) FROM machine counted WHERE counted.provider = {t}.name"
    " AND counted.tenant = {t}.tenant AND counted.kind IN ({kinds}))"
)


@strawberry.type(description="A configured provider, or an import source.")
class Provider:
    name: str = column("name", "The name of the provider. Unique.")
    driver: str = column("driver", "The driver that is used to access the provider, or `none` for an import source.")
    machine_count: int = column(
        _MACHINE_COUNT, "The number of machines that the caller can see, including those with `goneAt`."
    )
    observed_at: Moment | None = column(
        "observed_at", "When the provider was last read completely. Null if it never was."
    )
    problem: str | None = column("problem", "Why the provider cannot be read. Null if there is no problem.")


@strawberry.type(description="The authenticated caller.")
class Viewer:
    name: str = sourced(PayloadValue("name"), "The name of the caller, which is recorded with every change.")
    roles: list[str] = sourced(PayloadValue("roles"), "The names of the caller's roles.")
    tenant: str | None = sourced(
        PayloadValue("tenant"), "The tenant whose machines the caller can see. Null: all tenants."
    )
    rights: list[str] = sourced(
        PayloadValue("rights"),
        "The names of the caller's rights, such as `vm:create`, in alphabetical order: those of all of its roles. While"
        " authentication is not required, callers have all rights. Values may be added.",
    )


def viewer(context: Context) -> Mapping[str, Any]:
    """The caller, as a `Viewer`."""
    caller = context.caller
    rights = Grant(caller.rights, caller.administers).names
    return {"name": caller.name, "roles": list(caller.roles), "tenant": caller.tenant, "rights": rights}
