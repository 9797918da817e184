"""The mutations of the schema: their inputs and payloads, and the commands that they execute.

The arguments of an input are the fields of the command of the same name; a field that holds targets names its argument.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

import strawberry
from strawberry import ID
from strawberry.utils.str_converters import to_camel_case

from gateway.access.caller import Caller
from gateway.access.origin import RequestOrigin
from gateway.errors import NotFound, Refusal
from gateway.graphql.schema.fields import sourced
from gateway.graphql.schema.payloads import ERRORS, UserError, bulk_payload, given, row, user_errors
from gateway.graphql.schema.types import Edge, Machine, Operation, Provider, Snapshot, Vm
from gateway.operations.commands.base import Command, MachineId, MachineTarget, Outcome, Target
from gateway.operations.commands.cancel_operation import CancelOperation
from gateway.operations.commands.create_snapshot import CreateSnapshot, CreateSnapshots
from gateway.operations.commands.delete_snapshots import DeleteSnapshots
from gateway.operations.commands.refresh_machine import RefreshMachine
from gateway.operations.commands.refresh_provider import RefreshProvider
from gateway.operations.commands.revert_vm_snapshot import RevertVmSnapshot
from gateway.operations.commands.update_snapshot import UpdateSnapshot
from gateway.operations.service import Operations
from gateway.reads.ids import parse_id
from gateway.reads.sources import PayloadEdge, PayloadValue

Input = Mapping[str, Any]
Payload = dict[str, Any]
Handler = Callable[[Operations, Caller, RequestOrigin, Input], Awaitable[Payload]]

KEY = (
    "Idempotency key for safe retries, 1 to 255 characters. For 24 hours, a request with the same key and arguments"
    " returns the original operation in its current state."
)
NAME = "The name of the snapshot, 1 to 255 characters after trimming. Need not be unique."
DESCRIPTION = "The description of the snapshot. At most 4000 characters."
MEMORY = "Whether to include the machine's memory. Requires CREATE_WITH_MEMORY in `capabilities`."
DRY_RUN = "Check the request and return the result, but change nothing."


def _optional(description: str) -> Any:
    return strawberry.field(default=strawberry.UNSET, description=description)


def _flag(description: str) -> Any:
    return strawberry.field(default=False, description=description)


def _required(description: str) -> Any:
    return strawberry.field(description=description)


# ---- create


@strawberry.input(description="Input of `createSnapshot`.")
class CreateSnapshotInput:
    machine_id: ID = _required("The id of the Vm or Instance.")
    name: str = _required(NAME)
    description: str | None = _optional(DESCRIPTION)
    memory: bool = _flag(MEMORY)
    idempotency_key: str | None = _optional(KEY)


@strawberry.type(description="Payload of `createSnapshot`.")
class CreateSnapshotPayload:
    operation: Operation | None = row("operation", "operation", "The operation. Null if refused.")
    snapshot: Snapshot | None = row("snapshot", "snapshot", "The new snapshot, in state CREATING. Null if refused.")
    snapshot_edge: Edge[Snapshot] | None = sourced(
        PayloadEdge("snapshot", "snapshot"),
        "The new snapshot as an edge of `Machine.snapshots`, with a cursor of the default sort. Null if refused.",
    )
    machine: Machine | None = row("machine", "machine", "The machine. Null if refused.")
    errors: list[UserError] = given("errors", ERRORS)


@strawberry.input(description="Input of `createSnapshots`.")
class CreateSnapshotsInput:
    machine_ids: list[ID] = _required("The ids of the Vms and Instances, 1 to 100.")
    name: str = _required(NAME)
    description: str | None = _optional(DESCRIPTION)
    memory: bool = _flag(MEMORY)
    idempotency_key: str | None = _optional(KEY)


@strawberry.type(description="The result of `createSnapshots` for one machine.")
class CreateSnapshotResult:
    machine_id: ID = given("machineId", "The machine id as given in the input.")
    operation: Operation | None = row("operation", "operation", "The operation. Null if refused.")
    snapshot: Snapshot | None = row("snapshot", "snapshot", "The new snapshot, in state CREATING. Null if refused.")
    errors: list[UserError] = given("errors", ERRORS)


@strawberry.type(description="Payload of `createSnapshots`.")
class CreateSnapshotsPayload:
    results: list[CreateSnapshotResult] = given("results", "One result per id in `machineIds`, in the same order.")
    accepted_count: int = given("acceptedCount", "Number of snapshots accepted for creation.")
    refused_count: int = given("refusedCount", "Number of machines that were refused.")
    errors: list[UserError] = given("errors", "Why the request as a whole was refused. Empty if it was not.")


# ---- revert


@strawberry.input(description="Input of `revertVmSnapshot`.")
class RevertVmSnapshotInput:
    snapshot_id: ID = _required("The id of a snapshot of a Vm.")
    dry_run: bool = _flag(DRY_RUN)
    idempotency_key: str | None = _optional(KEY)


@strawberry.type(description="Payload of `revertVmSnapshot`.")
class RevertVmSnapshotPayload:
    operation: Operation | None = row("operation", "operation", "The operation. Null if refused, and for a dry run.")
    vm: Vm | None = row("machine", "machine", "The Vm that is being reverted. Null if refused.")
    snapshot: Snapshot | None = row("snapshot", "snapshot", "The snapshot. Null if refused.")
    errors: list[UserError] = given("errors", ERRORS)


# ---- delete


@strawberry.input(description="Input of `deleteSnapshots`.")
class DeleteSnapshotsInput:
    ids: list[ID] = _required("The ids of the snapshots, 1 to 100. They may belong to different machines.")
    with_descendants: bool = _flag("Also delete all descendants of the snapshots. At most 1000 snapshots in total.")
    all_or_nothing: bool = _flag("Refuse all snapshots if one of them is refused.")
    dry_run: bool = _flag(DRY_RUN)
    idempotency_key: str | None = _optional(KEY)


@strawberry.type(description="The result of `deleteSnapshots` for one snapshot.")
class DeleteSnapshotResult:
    snapshot_id: ID = given("snapshotId", "The snapshot id as given in the input, or the id of a descendant.")
    is_descendant: bool = given("isDescendant", "Whether the snapshot was included by `withDescendants`.")
    operation: Operation | None = row("operation", "operation", "The operation. Null if refused, and for a dry run.")
    snapshot: Snapshot | None = row("snapshot", "snapshot", "The snapshot. Null if it does not exist.")
    errors: list[UserError] = given("errors", ERRORS)


@strawberry.type(description="Payload of `deleteSnapshots`.")
class DeleteSnapshotsPayload:
    results: list[DeleteSnapshotResult] = given(
        "results", "One result per id in `ids`, in the same order, followed by the descendants."
    )
    accepted_count: int = given("acceptedCount", "Number of distinct snapshots accepted for deletion.")
    refused_count: int = given("refusedCount", "Number of results that are refusals.")
    errors: list[UserError] = given("errors", "Why the request as a whole was refused. Empty if it was not.")


# ---- update


@strawberry.input(description="Input of `updateSnapshot`. At least one of `name` and `description` is required.")
class UpdateSnapshotInput:
    snapshot_id: ID = _required("The id of the snapshot.")
    name: str | None = _optional("The new name, 1 to 255 characters after trimming. Unchanged if omitted.")
    description: str | None = _optional(f"{DESCRIPTION} Unchanged if omitted; null clears it.")
    idempotency_key: str | None = _optional(KEY)


@strawberry.type(description="Payload of `updateSnapshot`.")
class UpdateSnapshotPayload:
    operation: Operation | None = row("operation", "operation", "The operation. Null if refused.")
    snapshot: Snapshot | None = row(
        "snapshot", "snapshot", "The snapshot, which changes when the operation succeeds. Null if refused."
    )
    errors: list[UserError] = given("errors", ERRORS)


# ---- refresh and cancel


@strawberry.input(description="Input of `refreshMachine`.")
class RefreshMachineInput:
    machine_id: ID = _required("The id of the Vm or Instance.")
    idempotency_key: str | None = _optional(KEY)


@strawberry.type(description="Payload of `refreshMachine`.")
class RefreshMachinePayload:
    operation: Operation | None = row("operation", "operation", "The operation. Null if refused.")
    machine: Machine | None = row("machine", "machine", "The machine. Null if refused.")
    errors: list[UserError] = given("errors", ERRORS)


@strawberry.input(description="Input of `refreshProvider`.")
class RefreshProviderInput:
    name: str = _required("The name of the provider.")


@strawberry.type(description="Payload of `refreshProvider`.")
class RefreshProviderPayload:
    provider: Provider | None = row(
        "provider",
        "provider",
        "The provider as it was last read. Its `observedAt` or `problem` changes when the refresh has ended. Null if"
        " refused.",
    )
    errors: list[UserError] = given("errors", ERRORS)


@strawberry.input(description="Input of `cancelOperation`.")
class CancelOperationInput:
    operation_id: ID = _required("The id of the operation.")


@strawberry.type(description="Payload of `cancelOperation`.")
class CancelOperationPayload:
    operation: Operation | None = row(
        "operation", "operation", "The operation, canceled or with a pending cancel request. Null if refused."
    )
    errors: list[UserError] = given("errors", ERRORS)


# ---- the mutations


def _mutation(name: str, arguments_type: type, description: str) -> Any:
    return sourced(PayloadValue(name), description, input=(arguments_type, "The parameters of the mutation."))


@strawberry.type(description="The mutation root. Each mutation runs in its own transaction.")
class Mutation:
    create_snapshot: CreateSnapshotPayload = _mutation(
        "createSnapshot", CreateSnapshotInput, "Create a snapshot of a Vm or Instance."
    )
    create_snapshots: CreateSnapshotsPayload = _mutation(
        "createSnapshots",
        CreateSnapshotsInput,
        "Create snapshots with the same name on up to 100 machines. Each machine is accepted or refused independently.",
    )
    revert_vm_snapshot: RevertVmSnapshotPayload = _mutation(
        "revertVmSnapshot",
        RevertVmSnapshotInput,
        "Revert a Vm to a snapshot. Not available for Instances. Refused, not queued, while the machine has unfinished"
        " operations.",
    )
    delete_snapshots: DeleteSnapshotsPayload = _mutation(
        "deleteSnapshots",
        DeleteSnapshotsInput,
        "Delete up to 100 snapshots of any machines. Each snapshot is accepted or refused independently, unless"
        " `allOrNothing` is set. The children of a deleted snapshot become children of its parent.",
    )
    update_snapshot: UpdateSnapshotPayload = _mutation(
        "updateSnapshot",
        UpdateSnapshotInput,
        "Change the name or description of a snapshot at its provider. Requires UPDATE in `capabilities`.",
    )
    refresh_machine: RefreshMachinePayload = _mutation(
        "refreshMachine",
        RefreshMachineInput,
        "Reload a machine and its snapshots from the provider.",
    )
    refresh_provider: RefreshProviderPayload = _mutation(
        "refreshProvider",
        RefreshProviderInput,
        "Read a provider again, as a whole. The refresh begins at once, or after the one that is under way: there is"
        " one at a time for each provider.",
    )
    cancel_operation: CancelOperationPayload = _mutation(
        "cancelOperation",
        CancelOperationInput,
        "Cancel an operation: immediately while QUEUED; best effort while RUNNING, as the provider may not support it.",
    )


# ---- from the input to the command


def _machine(text: str) -> MachineTarget:
    """The machine with this id, or the refusal if the id is malformed or of another type."""
    try:
        id_ = parse_id(text)
    except Refusal as refusal:
        return refusal
    if id_.noun != "machine" or id_.kind is None:
        return NotFound(f"Machine '{text}' was not found.")
    return MachineId(id_.kind, id_.number)


def _number(noun: str, text: str) -> Target:
    """The number of the row of `noun` with this id, or the refusal if the id is malformed or of another type."""
    try:
        id_ = parse_id(text)
    except Refusal as refusal:
        return refusal
    return id_.number if id_.noun == noun else NotFound(f"{noun.capitalize()} '{text}' was not found.")


class Parameter(NamedTuple):
    """A field of a command, and the argument of the mutation that it comes from."""

    name: str
    argument: str
    convert: Callable[[Any], Any]


def parameters(command: type[Command]) -> list[Parameter]:
    """The fields of a command, and the arguments of its mutation."""
    arguments: Any = command  # a dataclass, as all commands are
    return [
        Parameter(each.name, each.metadata.get("argument", to_camel_case(each.name)), _converter(each.metadata))
        for each in fields(arguments)
    ]


def _converter(metadata: Mapping[str, str]) -> Callable[[Any], Any]:
    noun = metadata.get("noun")
    if noun is None:
        return lambda value: value

    def target(text: str) -> MachineTarget:
        return _machine(text) if noun == "machine" else _number(noun, text)

    return lambda value: [target(text) for text in value] if isinstance(value, list) else target(value)


def _builder(command: type[Command]) -> Callable[[Input], Command]:
    """A function that makes the command of an input. Arguments that are absent keep the defaults of the command."""
    sources = parameters(command)

    def build(input_: Input) -> Command:
        given_arguments = {
            each.name: each.convert(input_[each.argument]) for each in sources if each.argument in input_
        }
        return command(**given_arguments)

    return build


# ---- from the outcomes to the payload


def _rows(outcome: Outcome | None) -> Payload:
    return {
        "operation": outcome and outcome.operation_id,
        "snapshot": outcome and outcome.snapshot_id,
        "machine": outcome and outcome.machine_id,
        "provider": outcome and outcome.provider,
    }


def _single(command: type[Command]) -> Handler:
    """The handler of a mutation of a single object. A refusal becomes the payload's `errors`."""
    build = _builder(command)

    async def handle(operations: Operations, caller: Caller, origin: RequestOrigin, input_: Input) -> Payload:
        try:
            (outcome,) = await operations.execute(build(input_), caller, origin, input_.get("idempotencyKey"))
        except Refusal as refusal:
            return {**_rows(None), "errors": user_errors(refusal)}
        return {**_rows(outcome), "errors": []}

    return handle


def _several(command: type[Command], ids: str, noun: str) -> Handler:
    """The handler of a mutation of the objects in the argument `ids`, with a result per id and per added snapshot."""
    build = _builder(command)

    async def handle(operations: Operations, caller: Caller, origin: RequestOrigin, input_: Input) -> Payload:
        given_ids: Sequence[str] = input_[ids]
        try:
            outcomes = await operations.execute(build(input_), caller, origin, input_.get("idempotencyKey"))
        except Refusal as refusal:
            return bulk_payload([], 0, refusal)
        results = [
            {
                f"{noun}Id": given_ids[index] if index < len(given_ids) else f"snapshot-{outcome.snapshot_id}",
                "isDescendant": outcome.is_descendant,
                **_rows(outcome),
                "errors": user_errors(outcome.refusal),
            }
            for index, outcome in enumerate(outcomes)
        ]
        return bulk_payload(results, _accepted(outcomes), None)

    return handle


def _accepted(outcomes: Sequence[Outcome]) -> int:
    """Number of distinct snapshots that were accepted. A repeated id, or one that is also a descendant, counts once."""
    return len({outcome.snapshot_id or id(outcome) for outcome in outcomes if outcome.refusal is None})


COMMANDS: Mapping[type[Command], Handler] = {
    CreateSnapshot: _single(CreateSnapshot),
    CreateSnapshots: _several(CreateSnapshots, "machineIds", "machine"),
    RevertVmSnapshot: _single(RevertVmSnapshot),
    DeleteSnapshots: _several(DeleteSnapshots, "ids", "snapshot"),
    UpdateSnapshot: _single(UpdateSnapshot),
    RefreshMachine: _single(RefreshMachine),
    RefreshProvider: _single(RefreshProvider),
    CancelOperation: _single(CancelOperation),
}
HANDLERS: Mapping[str, Handler] = {command.mutation: handler for command, handler in COMMANDS.items()}
