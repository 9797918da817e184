"""The mutations: the same rows as the gateway writes, in one transaction, and their payloads."""

from typing import Any
from uuid import uuid4

import strawberry
from sqlmodel import col, select

from gateway import models
from gateway.columns import folded, now
from gateway.models import OperationKind, OperationState, SnapshotState
from tests.bench.handwritten.database import writing
from tests.bench.handwritten.types import Operation, Snapshot

_CALLER = "local"


@strawberry.type
class UserError:
    code: str
    message: str


@strawberry.input
class CreateSnapshotInput:
    machine_id: strawberry.ID
    name: str
    description: str | None = None
    memory: bool = False


@strawberry.type
class CreateSnapshotPayload:
    operation: Operation | None
    snapshot: Snapshot | None
    errors: list[UserError]


@strawberry.input
class DeleteSnapshotsInput:
    ids: list[strawberry.ID]


@strawberry.type
class DeleteSnapshotResult:
    snapshot_id: strawberry.ID
    operation: Operation | None
    errors: list[UserError]


@strawberry.type
class DeleteSnapshotsPayload:
    results: list[DeleteSnapshotResult]
    accepted_count: int
    refused_count: int


@strawberry.type
class Mutation:
    @strawberry.mutation
    async def create_snapshot(self, input: CreateSnapshotInput) -> CreateSnapshotPayload:  # noqa: A002 - the contract's
        async with writing() as session:
            machine = await session.get(models.Machine, number(input.machine_id))
            if machine is None:
                missing = UserError(code="NOT_FOUND", message=f"Machine '{input.machine_id}' was not found.")
                return CreateSnapshotPayload(operation=None, snapshot=None, errors=[missing])
            snapshot = models.Snapshot(
                tenant=machine.tenant,
                machine_id=machine.id,
                name=input.name,
                name_folded=input.name.casefold(),
                description=input.description,
                description_folded=folded(input.description),
                state=SnapshotState.CREATING,
                memory=input.memory,
                created_at=now(),
                created_by=_CALLER,
                created_by_folded=_CALLER,
            )
            session.add(snapshot)
            await session.flush()
            payload = f'{{"name": "{input.name}"}}'
            operation = _operation(OperationKind.CREATE_SNAPSHOT, machine, snapshot, payload)
            session.add(operation)
        return CreateSnapshotPayload(operation=Operation.of(operation), snapshot=Snapshot.of(snapshot), errors=[])

    @strawberry.mutation
    async def delete_snapshots(self, input: DeleteSnapshotsInput) -> DeleteSnapshotsPayload:  # noqa: A002 - the contract's
        async with writing() as session:
            found = {
                snapshot.id: (snapshot, machine)
                for snapshot, machine in await session.exec(
                    select(models.Snapshot, models.Machine)
                    .join(models.Machine, col(models.Machine.id) == col(models.Snapshot.machine_id))
                    .where(col(models.Snapshot.id).in_([number(id) for id in input.ids]))
                )
            }
            operations: dict[int, models.Operation] = {}
            for key, (snapshot, machine) in found.items():
                if snapshot.state in (SnapshotState.READY, SnapshotState.ERROR):
                    payload = f'{{"previous": "{snapshot.state}"}}'
                    operations[key] = _operation(OperationKind.DELETE_SNAPSHOT, machine, snapshot, payload)
                    snapshot.state = SnapshotState.DELETING
                    session.add(operations[key])
        results = [_result(id, number(id) in found, operations.get(number(id))) for id in input.ids]
        return DeleteSnapshotsPayload(
            results=results, accepted_count=len(operations), refused_count=len(results) - len(operations)
        )


def number(id: strawberry.ID) -> int:
    """Of an id such as `vm-11`."""
    return int(id.rpartition("-")[2])


def _operation(kind: OperationKind, machine: Any, snapshot: Any, payload: str) -> models.Operation:
    return models.Operation(
        tenant=machine.tenant,
        kind=kind,
        state=OperationState.QUEUED,
        machine_id=machine.id,
        machine_kind=machine.kind,
        machine_name=machine.name,
        snapshot_id=snapshot.id,
        snapshot_name=snapshot.name,
        requested_by=_CALLER,
        requested_by_folded=_CALLER,
        created_at=now(),
        token=uuid4().hex,
        payload=payload,
    )


def _result(id: strawberry.ID, known: bool, operation: models.Operation | None) -> DeleteSnapshotResult:
    if operation is not None:
        return DeleteSnapshotResult(snapshot_id=id, operation=Operation.of(operation), errors=[])
    error = (
        UserError(code="CONFLICT", message=f"{id} is busy")
        if known
        else UserError(code="NOT_FOUND", message=f"there is no {id}")
    )
    return DeleteSnapshotResult(snapshot_id=id, operation=None, errors=[error])
