"""The things that clients read: machines, snapshots, operations, providers, and the lists of them.

Each field says where its value comes from, and nothing here runs when it is read.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Generic, TypeVar

import strawberry
from graphql import GraphQLAbstractType, GraphQLResolveInfo
from strawberry import ID

from gateway.access.capabilities import FACTS, MachineFacts, machine_refusal, snapshot_refusal
from gateway.errors import MEANINGS, ErrorCode, Refusal
from gateway.graphql.schema.fields import column, connection, sourced
from gateway.graphql.schema.filters import OperationFilter, OperationSort, SnapshotFilter, SnapshotSort
from gateway.graphql.schema.scalars import BigInt, Moment
from gateway.models import OperationKind, OperationState, PowerState, SnapshotAction, SnapshotState
from gateway.reads.context import Context
from gateway.reads.rendering import Record
from gateway.reads.sources import Computed, Given, IdOf, Inline, Many, One, OwnId

NodeType = TypeVar("NodeType")

# ---- lists


@strawberry.type(description="Where a page lies in its list. All four fields are exact, in both directions.")
class PageInfo:
    has_next_page: bool = strawberry.field(description="Whether anything follows the page.")
    has_previous_page: bool = strawberry.field(description="Whether anything comes before the page.")
    start_cursor: str | None = strawberry.field(description="The cursor of the first edge. Null when there is none.")
    end_cursor: str | None = strawberry.field(description="The cursor of the last edge. Null when there is none.")


@strawberry.type(description="An item of a list and its place in it.")
class Edge(Generic[NodeType]):
    cursor: str = strawberry.field(description="The place in the list, for `after` and `before`, under the same sort.")
    node: NodeType = strawberry.field(description="The item.")


@strawberry.type(description="A page of a list.")
class Connection(Generic[NodeType]):
    edges: list[Edge[NodeType]] = strawberry.field(description="The items with their cursors.")
    nodes: list[NodeType] = strawberry.field(description="The items.")
    page_info: PageInfo = strawberry.field(description="Where the page lies in the list.")
    total_count: int = strawberry.field(description="How many there are with this filter, on all pages.")


# ---- capabilities


@strawberry.type(description="Whether something can be done, and why not.")
class Capability:
    action: SnapshotAction = strawberry.field(description="What is to be done.")
    supported: bool = strawberry.field(description="Whether the caller can do it now.")
    reason: str | None = strawberry.field(description="Why not, for people. Null when supported.")


def _capability(action: SnapshotAction, refusal: Refusal | None) -> dict[str, Any]:
    return {
        "action": action.value,
        "supported": refusal is None,
        "reason": None if refusal is None else refusal.message,
    }


def machine_capabilities(context: Context, *columns: Any) -> Sequence[Any]:
    """Every action, for a machine."""
    answer = context.answers.get(columns)
    if answer is None:
        facts = MachineFacts.of(*columns)
        answer = context.answers[columns] = [
            _capability(action, machine_refusal(action, facts, context.matrices, context.caller))
            for action in SnapshotAction
        ]
    return answer


def snapshot_capabilities(context: Context, state: str, provider_ref: str | None, *columns: Any) -> Sequence[Any]:
    """REVERT and DELETE, for a snapshot."""
    on_provider = provider_ref is not None
    key = (state, on_provider, *columns)
    answer = context.answers.get(key)
    if answer is None:
        facts, now = MachineFacts.of(*columns), SnapshotState(state)
        answer = context.answers[key] = [
            _capability(action, snapshot_refusal(action, now, on_provider, facts, context.matrices, context.caller))
            for action in (SnapshotAction.REVERT, SnapshotAction.DELETE)
        ]
    return answer


# ---- nouns


@strawberry.interface(description="Anything that can be fetched again by its `id`.")
class Node:
    id: ID = sourced(OwnId(), "Reads as TYPE-NUMBER: vm-11, instance-201, snapshot-3, operation-7. Never used twice.")

    @classmethod
    def resolve_type(cls, value: Record, _info: GraphQLResolveInfo[Any], _type: GraphQLAbstractType) -> str:
        return value.type_name

    @classmethod
    def is_type_of(cls, value: Any, _info: GraphQLResolveInfo[Any]) -> bool:
        return isinstance(value, Record)


@strawberry.interface(description="A computer whose state can be snapshotted: a `Vm` or an `Instance`.")
class Machine(Node):
    name: str = column("name", "The name that people know it by. Empty when its source has none.")
    description: str | None = column("description", "What it is for. Null without one.")
    provider: str = column("provider", "Name of the configured provider that runs it, or of the import it came with.")
    provider_ref: str = column("provider_ref", "The provider's own identifier of the machine.")
    power_state: PowerState = column("power_state", "Whether it runs.")
    created_at: Moment = column("created_at", "When it was created.")
    updated_at: Moment = column("updated_at", "When something about it last changed.")
    observed_at: Moment = column("observed_at", "When the provider last confirmed what is shown here.")
    gone_at: Moment | None = column("gone_at", "When the provider stopped reporting it. Null while it exists.")
    capabilities: list[Capability] = sourced(
        Computed(FACTS, machine_capabilities),
        "What the caller can do with this machine's snapshots now, and why not where they cannot: provider, power"
        " state, rights.",
    )
    snapshots: Connection[Annotated["Snapshot", strawberry.lazy("gateway.graphql.schema.types")]] = connection(
        Many("snapshot", match="machine_id", counter="snapshot_count"), SnapshotFilter, SnapshotSort, "Its snapshots."
    )
    current_snapshot: Annotated["Snapshot", strawberry.lazy("gateway.graphql.schema.types")] | None = sourced(
        One("snapshot", "id", match="machine_id", where="{t}.is_current"),
        "The snapshot the machine now runs on top of. Null when there is none, or its provider keeps no tree.",
    )
    operations: Connection[Annotated["Operation", strawberry.lazy("gateway.graphql.schema.types")]] = connection(
        Many("operation", match="machine_id"), OperationFilter, OperationSort, "The work done on it."
    )


@strawberry.type(description="A virtual machine. Its snapshots can be created, reverted to and deleted.")
class Vm(Machine):
    host: str | None = column("host", "The host it runs on. Null when the provider does not say.")


@strawberry.type(description="A cloud instance. Its snapshots can be created and deleted.")
class Instance(Machine):
    flavor: str | None = column("flavor", "Its size, in the provider's words. Null when the provider does not say.")
    availability_zone: str | None = column("availability_zone", "Where it runs. Null when the provider does not say.")


@strawberry.type(description="A machine's state at one time.")
class Snapshot(Node):
    name: str = column("name", "The name it was given. Names need not be unique. Empty when its source has none.")
    description: str | None = column("description", "What it is for. Null without one.")
    state: SnapshotState = column("state", "Where it is in its life.")
    memory: bool = column("memory", "Whether the machine's memory is part of it.")
    is_current: bool = column("is_current", "Whether the machine now runs on top of it.")
    size_bytes: BigInt | None = column("size_bytes", "Its size in bytes. Null while unknown, never 0 for unknown.")
    provider_ref: str | None = column(
        "provider_ref", "The provider's own identifier. Null until the provider has made it."
    )
    created_at: Moment = column("created_at", "When it was made, or, until then, asked for.")
    created_by: str | None = column("created_by", "Who asked for it, when the gateway knows.")
    observed_at: Moment | None = column(
        "observed_at", "When the provider last confirmed it. Null until the provider has made it."
    )
    machine: Machine = sourced(One("machine", "machine_id"), "The machine whose state it is.")
    capabilities: list[Capability] = sourced(
        Computed(("state", "provider_ref", *(f"machine.{column}" for column in FACTS)), snapshot_capabilities),
        "What the caller can do with this snapshot now: REVERT, DELETE.",
    )
    parent: "Snapshot | None" = sourced(
        One("snapshot", "parent_id"),
        "The snapshot it was taken on top of. Known once the provider has made it; null for a root, or where the"
        " provider keeps no tree.",
    )
    children: Connection["Snapshot"] = connection(
        Many("snapshot", match="parent_id"), SnapshotFilter, SnapshotSort, "The snapshots taken on top of it."
    )


def error_retryable(_context: Context, code: str) -> bool:
    return MEANINGS[ErrorCode(code)].retryable


@strawberry.type(description="Why an operation failed.")
class OperationError:
    code: ErrorCode = column("error_code", "What went wrong, for programs.")
    message: str = column("error_message", "What went wrong, for people.")
    retryable: bool = sourced(
        Computed(("error_code",), error_retryable), "Whether the same request may succeed later, unchanged."
    )
    provider_message: str | None = column(
        "error_provider_message", "The provider's own words. Null when it said nothing."
    )


def is_done(_context: Context, state: str) -> bool:
    return state not in ("QUEUED", "RUNNING")


def is_cancelable(_context: Context, state: str, cancel_requested_at: Any) -> bool:
    return state == "QUEUED" or (state == "RUNNING" and cancel_requested_at is None)


@strawberry.type(description="Work that goes on after a mutation has answered.")
class Operation(Node):
    kind: OperationKind = column("kind", "What it does.")
    state: OperationState = column("state", "Where it is.")
    is_done: bool = sourced(Computed(("state",), is_done), "Whether `state` is final.")
    progress_percent: int | None = column("progress_percent", "0 to 100. Null unless the provider reports it.")
    phase: str | None = column("phase", "What is being done now, for people. Null when there is nothing to say.")
    is_cancelable: bool = sourced(
        Computed(("state", "cancel_requested_at"), is_cancelable),
        "Whether `cancelOperation` would be taken: surely while QUEUED, as a wish while RUNNING.",
    )
    cancel_requested_at: Moment | None = column(
        "cancel_requested_at", "When somebody wished it to stop. Null when nobody has."
    )
    requested_by: str | None = column("requested_by", "Who asked. Null when the gateway itself did.")
    created_at: Moment = column("created_at", "When it was asked for.")
    started_at: Moment | None = column("started_at", "When it began. Null while QUEUED.")
    finished_at: Moment | None = column("finished_at", "When it ended. Null until then.")
    error: OperationError | None = sourced(Inline("error_code"), "Why it failed. Null unless `state` is FAILED.")
    machine: Machine | None = sourced(
        One("machine", "machine_id"), "The machine it works on. Null once that is cleared away."
    )
    snapshot: Snapshot | None = sourced(
        One("snapshot", "snapshot_id"),
        "The snapshot it makes, reverts to or deletes. Null once the snapshot is gone; `snapshotId` stays.",
    )
    snapshot_id: ID | None = sourced(
        IdOf("snapshot", "snapshot_id"), "The id of that snapshot. Null for a refresh, which has none."
    )
    snapshot_name: str | None = column("snapshot_name", "The name of that snapshot when the operation was asked for.")


_MACHINES = (
    "(SELECT count(*) FROM machine counted WHERE counted.provider = {t}.name"
    " AND counted.tenant = {t}.tenant AND counted.kind IN ({kinds}))"
)


@strawberry.type(description="A configured provider, or the source of an import.")
class Provider:
    name: str = column("name", "Its name, unique.")
    driver: str = column("driver", "The kind of driver that speaks to it; `none` for the source of an import.")
    machine_count: int = column(_MACHINES, "How many machines it has, gone ones included.")
    observed_at: Moment | None = column("observed_at", "When it was last read whole. Null when it never was.")
    problem: str | None = column("problem", "Why it cannot be reached. Null when it can.")


@strawberry.type(description="Who is asking, and what they may do.")
class Viewer:
    name: str = sourced(Given("name"), "The name that is recorded with what they do.")
    roles: list[str] = sourced(Given("roles"), "What they may do, by name.")
    tenant: str | None = sourced(Given("tenant"), "Whose machines they see. Null: everybody's.")
