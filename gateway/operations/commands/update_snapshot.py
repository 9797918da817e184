"""The mutation `updateSnapshot`, and the operations of kind UPDATE_SNAPSHOT."""

from dataclasses import dataclass, replace
from enum import Enum
from typing import Self

import orjson
import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlmodel import col

from gateway.drivers.base import UpdateCommand
from gateway.errors import InvalidInput, ProviderMissing, Unsupported
from gateway.models import AuditAction, OperationKind, Snapshot, SnapshotAction
from gateway.operations.admission import NewOperation, enqueue
from gateway.operations.attempt import Attempt, Effect, OperationType
from gateway.operations.commands.base import CommandContext, Outcome, SnapshotCommand, check_description, checked_name
from gateway.operations.targets import lock_snapshot
from gateway.store.database import Transaction
from gateway.store.statements import Statement, assignments

_BY_ID = sa.update(Snapshot).where(col(Snapshot.id) == bindparam("snapshot_id"))
# By the columns that change, because each statement is one change for subscribers.
_UPDATES: dict[tuple[str, ...], Statement] = {
    columns: Statement(_BY_ID.values(**assignments(Snapshot, *columns)))
    for columns in (("name",), ("description",), ("name", "description"))
}


class Unchanged(Enum):
    """What an argument that is absent means. A null description clears it."""

    UNCHANGED = 0


@dataclass(frozen=True, kw_only=True)
class UpdateSnapshot(SnapshotCommand):
    """Changes the name or description of a snapshot, at its provider."""

    mutation = "updateSnapshot"
    action = AuditAction.UPDATE_SNAPSHOT

    name: str | Unchanged | None = Unchanged.UNCHANGED
    description: str | Unchanged | None = Unchanged.UNCHANGED

    def checked(self) -> Self:
        command, name = super().checked(), self.name
        if name is self.description is Unchanged.UNCHANGED:
            raise InvalidInput("Neither a name nor a description is given, so there is nothing to change.")
        if name is None:
            raise InvalidInput("The name cannot be null: every snapshot has one.", path=("name",))
        if not isinstance(name, Unchanged):
            name = checked_name(name)
        if not isinstance(self.description, Unchanged):
            check_description(self.description)
        return replace(command, name=name)

    def changes(self) -> dict[str, str]:
        """What is changed, as arguments of the driver's command. An empty description clears it."""
        arguments = {"name": self.name, "description": self.description}
        return {key: value or "" for key, value in arguments.items() if not isinstance(value, Unchanged)}

    async def decide_one(self, tx: Transaction, context: CommandContext) -> Outcome:
        changes = self.changes()
        snapshot, machine, admission = await lock_snapshot(tx, context, self.snapshot, SnapshotAction.UPDATE)
        fixed = context.rules.matrices[machine.provider, machine.kind].fixed
        for argument in changes:
            if argument in fixed:
                raise Unsupported(fixed[argument], path=(argument,))
        if limit := admission.admit(machine):
            raise limit
        operation = NewOperation(machine, snapshot.id, snapshot.name, changes)
        caller, key = context.caller, context.idempotency_key
        (operation_id,) = await enqueue(tx, caller, OperationKind.UPDATE_SNAPSHOT, [operation], key=key)
        return Outcome(operation_id, snapshot.id, machine.id)


class UpdateSnapshotOperation(OperationType):
    """Changes the snapshot at its provider, and then its row. Can be repeated without recovery."""

    actions = (SnapshotAction.UPDATE,)

    async def run(self, attempt: Attempt) -> Effect:
        row, snapshot_id = attempt.row, attempt.snapshot_id
        if row.snapshot_ref is None:
            raise ProviderMissing("The snapshot no longer exists.")
        changes: dict[str, str] = orjson.loads(row.payload)
        await attempt.send(UpdateCommand(row.machine_ref, row.snapshot_ref, **changes))

        async def effect(tx: Transaction) -> None:
            values = {column: value or None for column, value in changes.items()}
            await tx.run(_UPDATES[tuple(changes)], snapshot_id=snapshot_id, **values)

        return effect
