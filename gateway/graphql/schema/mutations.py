"""The mutations of the schema: ids are read, `operations` decides, the payload's dict is filled.

A handler never raises a refusal: it goes into the payload, so that the results of its neighbours stay.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import strawberry

from gateway.access.caller import Caller
from gateway.access.origin import RequestOrigin
from gateway.errors import NotFound, Refusal
from gateway.graphql.schema import payloads
from gateway.graphql.schema.fields import sourced
from gateway.graphql.schema.payloads import several, user_errors
from gateway.operations.service import MachineId, MachineTarget, Operations, Outcome, Target
from gateway.reads.ids import parse_id
from gateway.reads.sources import Given

Input = Mapping[str, Any]
Payload = dict[str, Any]
Handler = Callable[[Operations, Caller, RequestOrigin, Input], Awaitable[Payload]]


def _mutation(name: str, input_type: type, description: str) -> Any:
    return sourced(Given(name), description, input=(input_type, "What is wished for."))


@strawberry.type(description="What can be changed. Each mutation is its own transaction.")
class Mutation:
    create_snapshot: payloads.CreateSnapshotPayload = _mutation(
        "createSnapshot", payloads.CreateSnapshotInput, "Creates a snapshot of a Vm or an Instance."
    )
    create_snapshots: payloads.CreateSnapshotsPayload = _mutation(
        "createSnapshots",
        payloads.CreateSnapshotsInput,
        "The same snapshot on up to 100 machines; each succeeds or fails on its own.",
    )
    revert_vm_snapshot: payloads.RevertVmSnapshotPayload = _mutation(
        "revertVmSnapshot",
        payloads.RevertVmSnapshotInput,
        "Takes a Vm back to a snapshot. For snapshots of a `Vm` only. Refused, not queued, while the machine has"
        " unfinished operations.",
    )
    delete_snapshots: payloads.DeleteSnapshotsPayload = _mutation(
        "deleteSnapshots",
        payloads.DeleteSnapshotsInput,
        "Deletes up to 100 snapshots, of any machines; each succeeds or fails on its own unless `allOrNothing`. What"
        " was taken on top of one becomes its parent's.",
    )
    refresh_machine: payloads.RefreshMachinePayload = _mutation(
        "refreshMachine",
        payloads.RefreshMachineInput,
        "Reads the machine and its snapshots from the provider again.",
    )
    cancel_operation: payloads.CancelOperationPayload = _mutation(
        "cancelOperation",
        payloads.CancelOperationInput,
        "Stops an operation: at once while QUEUED; while RUNNING a wish that the provider may not be able to grant.",
    )


def _machine(text: str) -> MachineTarget:
    try:
        id_ = parse_id(text)
    except Refusal as refusal:
        return refusal
    if id_.noun != "machine" or id_.kind is None:
        return NotFound(f"there is no machine {text}")
    return MachineId(id_.kind, id_.number)


def _number(noun: str, text: str) -> Target:
    try:
        id_ = parse_id(text)
    except Refusal as refusal:
        return refusal
    return id_.number if id_.noun == noun else NotFound(f"there is no {noun} {text}")


def _rows(outcome: Outcome | None) -> Payload:
    return {
        "operation": outcome and outcome.operation_id,
        "snapshot": outcome and outcome.snapshot_id,
        "machine": outcome and outcome.machine_id,
    }


async def _single(outcome: Awaitable[Outcome]) -> Payload:
    """The payload of a mutation about one thing."""
    try:
        return {**_rows(await outcome), "errors": []}
    except Refusal as refusal:
        return {**_rows(None), "errors": user_errors(refusal)}


async def create_snapshot(operations: Operations, caller: Caller, origin: RequestOrigin, wish: Input) -> Payload:
    return await _single(
        operations.create_snapshot(
            caller,
            origin,
            _machine(wish["machineId"]),
            wish["name"],
            wish.get("description"),
            wish["memory"],
            wish.get("idempotencyKey"),
        )
    )


async def create_snapshots(operations: Operations, caller: Caller, origin: RequestOrigin, wish: Input) -> Payload:
    ids: Sequence[str] = wish["machineIds"]
    try:
        outcomes = await operations.create_snapshots(
            caller,
            origin,
            [_machine(text) for text in ids],
            wish["name"],
            wish.get("description"),
            wish["memory"],
            wish.get("idempotencyKey"),
        )
    except Refusal as refusal:
        return several([], 0, refusal)
    results = [
        {"machineId": text, **_rows(outcome), "errors": user_errors(outcome.refusal)}
        for text, outcome in zip(ids, outcomes, strict=True)
    ]
    return several(results, _accepted(outcomes), None)


async def revert_vm_snapshot(operations: Operations, caller: Caller, origin: RequestOrigin, wish: Input) -> Payload:
    snapshot = _number("snapshot", wish["snapshotId"])
    return await _single(
        operations.revert_vm_snapshot(caller, origin, snapshot, dry_run=wish["dryRun"], key=wish.get("idempotencyKey"))
    )


async def delete_snapshots(operations: Operations, caller: Caller, origin: RequestOrigin, wish: Input) -> Payload:
    ids: Sequence[str] = wish["ids"]
    try:
        outcomes = await operations.delete_snapshots(
            caller,
            origin,
            [_number("snapshot", text) for text in ids],
            with_descendants=wish["withDescendants"],
            all_or_nothing=wish["allOrNothing"],
            dry_run=wish["dryRun"],
            key=wish.get("idempotencyKey"),
        )
    except Refusal as refusal:
        return several([], 0, refusal)
    results = [
        {
            "snapshotId": ids[number] if number < len(ids) else f"snapshot-{outcome.snapshot_id}",
            "isDescendant": outcome.is_descendant,
            **_rows(outcome),
            "errors": user_errors(outcome.refusal),
        }
        for number, outcome in enumerate(outcomes)
    ]
    return several(results, _accepted(outcomes), None)


def _accepted(outcomes: Sequence[Outcome]) -> int:
    """Snapshots that will be worked on: one named twice, or pulled in as well, counts once. So in a dry run."""
    return len({outcome.snapshot_id or id(outcome) for outcome in outcomes if outcome.refusal is None})


async def refresh_machine(operations: Operations, caller: Caller, origin: RequestOrigin, wish: Input) -> Payload:
    machine = _machine(wish["machineId"])
    return await _single(operations.refresh_machine(caller, origin, machine, wish.get("idempotencyKey")))


async def cancel_operation(operations: Operations, caller: Caller, origin: RequestOrigin, wish: Input) -> Payload:
    return await _single(operations.cancel_operation(caller, origin, _number("operation", wish["operationId"])))


HANDLERS: Mapping[str, Handler] = {
    "createSnapshot": create_snapshot,
    "createSnapshots": create_snapshots,
    "revertVmSnapshot": revert_vm_snapshot,
    "deleteSnapshots": delete_snapshots,
    "refreshMachine": refresh_machine,
    "cancelOperation": cancel_operation,
}
