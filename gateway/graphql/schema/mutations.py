"""The mutations of the schema. A handler parses ids, calls `Operations` and builds the payload as a dict.

A handler does not raise refusals but returns them in the payload, so that other mutations of the request keep their
results.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import strawberry

from gateway.access.caller import Caller
from gateway.access.origin import RequestOrigin
from gateway.errors import NotFound, Refusal
from gateway.graphql.schema import payloads
from gateway.graphql.schema.fields import sourced
from gateway.graphql.schema.payloads import bulk_payload, user_errors
from gateway.operations.service import MachineId, MachineTarget, Operations, Outcome, Target
from gateway.reads.ids import parse_id
from gateway.reads.sources import PayloadValue

Input = Mapping[str, Any]
Payload = dict[str, Any]
Handler = Callable[[Operations, Caller, RequestOrigin, Input], Awaitable[Payload]]


def _mutation(name: str, argumentstype: type, description: str) -> Any:
    return sourced(PayloadValue(name), description, input=(argumentstype, "The parameters of the mutation."))


@strawberry.type(description="The mutation root. Each mutation runs in its own transaction.")
class Mutation:
    create_snapshot: payloads.CreateSnapshotPayload = _mutation(
        "createSnapshot", payloads.CreateSnapshotInput, "Create a snapshot of a Vm or Instance."
    )
    create_snapshots: payloads.CreateSnapshotsPayload = _mutation(
        "createSnapshots",
        payloads.CreateSnapshotsInput,
        "Create snapshots with the same name on up to 100 machines. Each machine is accepted or refused independently.",
    )
    revert_vm_snapshot: payloads.RevertVmSnapshotPayload = _mutation(
        "revertVmSnapshot",
        payloads.RevertVmSnapshotInput,
        "Revert a Vm to a snapshot. Not available for Instances. Refused, not queued, while the machine has unfinished"
        " operations.",
    )
    delete_snapshots: payloads.DeleteSnapshotsPayload = _mutation(
        "deleteSnapshots",
        payloads.DeleteSnapshotsInput,
        "Delete up to 100 snapshots of any machines. Each snapshot is accepted or refused independently, unless"
        " `allOrNothing` is set. The children of a deleted snapshot become children of its parent.",
    )
    refresh_machine: payloads.RefreshMachinePayload = _mutation(
        "refreshMachine",
        payloads.RefreshMachineInput,
        "Reload a machine and its snapshots from the provider.",
    )
    cancel_operation: payloads.CancelOperationPayload = _mutation(
        "cancelOperation",
        payloads.CancelOperationInput,
        "Cancel an operation: immediately while QUEUED; best effort while RUNNING, as the provider may not support it.",
    )


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


def _rows(outcome: Outcome | None) -> Payload:
    return {
        "operation": outcome and outcome.operation_id,
        "snapshot": outcome and outcome.snapshot_id,
        "machine": outcome and outcome.machine_id,
    }


async def _single(outcome: Awaitable[Outcome]) -> Payload:
    """The payload of a mutation of a single object. A refusal becomes its `errors`."""
    try:
        return {**_rows(await outcome), "errors": []}
    except Refusal as refusal:
        return {**_rows(None), "errors": user_errors(refusal)}


async def create_snapshot(operations: Operations, caller: Caller, origin: RequestOrigin, arguments: Input) -> Payload:
    return await _single(
        operations.create_snapshot(
            caller,
            origin,
            _machine(arguments["machineId"]),
            name=arguments["name"],
            description=arguments.get("description"),
            memory=arguments["memory"],
            key=arguments.get("idempotencyKey"),
        )
    )


async def create_snapshots(operations: Operations, caller: Caller, origin: RequestOrigin, arguments: Input) -> Payload:
    ids: Sequence[str] = arguments["machineIds"]
    try:
        outcomes = await operations.create_snapshots(
            caller,
            origin,
            [_machine(text) for text in ids],
            name=arguments["name"],
            description=arguments.get("description"),
            memory=arguments["memory"],
            key=arguments.get("idempotencyKey"),
        )
    except Refusal as refusal:
        return bulk_payload([], 0, refusal)
    results = [
        {"machineId": text, **_rows(outcome), "errors": user_errors(outcome.refusal)}
        for text, outcome in zip(ids, outcomes, strict=True)
    ]
    return bulk_payload(results, _accepted(outcomes), None)


async def revert_vm_snapshot(
    operations: Operations, caller: Caller, origin: RequestOrigin, arguments: Input
) -> Payload:
    snapshot = _number("snapshot", arguments["snapshotId"])
    return await _single(
        operations.revert_vm_snapshot(
            caller, origin, snapshot, dry_run=arguments["dryRun"], key=arguments.get("idempotencyKey")
        )
    )


async def delete_snapshots(operations: Operations, caller: Caller, origin: RequestOrigin, arguments: Input) -> Payload:
    ids: Sequence[str] = arguments["ids"]
    try:
        outcomes = await operations.delete_snapshots(
            caller,
            origin,
            [_number("snapshot", text) for text in ids],
            with_descendants=arguments["withDescendants"],
            all_or_nothing=arguments["allOrNothing"],
            dry_run=arguments["dryRun"],
            key=arguments.get("idempotencyKey"),
        )
    except Refusal as refusal:
        return bulk_payload([], 0, refusal)
    results = [
        {
            "snapshotId": ids[number] if number < len(ids) else f"snapshot-{outcome.snapshot_id}",
            "isDescendant": outcome.is_descendant,
            **_rows(outcome),
            "errors": user_errors(outcome.refusal),
        }
        for number, outcome in enumerate(outcomes)
    ]
    return bulk_payload(results, _accepted(outcomes), None)


def _accepted(outcomes: Sequence[Outcome]) -> int:
    """Number of distinct snapshots that were accepted. A repeated id, or one that is also a descendant, counts once."""
    return len({outcome.snapshot_id or id(outcome) for outcome in outcomes if outcome.refusal is None})


async def refresh_machine(operations: Operations, caller: Caller, origin: RequestOrigin, arguments: Input) -> Payload:
    machine = _machine(arguments["machineId"])
    return await _single(operations.refresh_machine(caller, origin, machine, arguments.get("idempotencyKey")))


async def cancel_operation(operations: Operations, caller: Caller, origin: RequestOrigin, arguments: Input) -> Payload:
    return await _single(operations.cancel_operation(caller, origin, _number("operation", arguments["operationId"])))


HANDLERS: Mapping[str, Handler] = {
    "createSnapshot": create_snapshot,
    "createSnapshots": create_snapshots,
    "revertVmSnapshot": revert_vm_snapshot,
    "deleteSnapshots": delete_snapshots,
    "refreshMachine": refresh_machine,
    "cancelOperation": cancel_operation,
}
