"""The mutations `createSnapshot` and `createSnapshots`, and the operations of kind CREATE_SNAPSHOT."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Self

import orjson
import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlmodel import col

from gateway.access.capabilities import machine_refusal
from gateway.columns import now
from gateway.drivers.base import CreateCommand, ReportedSnapshot
from gateway.errors import OutcomeUnknown, Refusal
from gateway.models import AuditAction, OperationKind, Snapshot, SnapshotAction, SnapshotState
from gateway.operations.admission import NewOperation, QueueAdmission, enqueue
from gateway.operations.attempt import Attempt, Effect, OperationType
from gateway.operations.audit_log import AuditSubject
from gateway.operations.commands.base import (
    Command,
    CommandContext,
    MachineCommand,
    MachineTarget,
    Outcome,
    check_count,
    check_description,
    checked_name,
    id_of,
    machine_subject,
)
from gateway.operations.effects import CLEAR_CURRENT, remove_snapshot
from gateway.operations.leases import ClaimedOperation
from gateway.operations.statements import DELETE_SNAPSHOT, SET_STATE, LockedMachine
from gateway.operations.targets import find_machine, lock_machines
from gateway.store.database import Transaction
from gateway.store.statements import InsertMany, OneOf, Query, Statement


class _InsertedSnapshot(NamedTuple):
    id: int
    machine_id: int


class _KnownSnapshot(NamedTuple):
    id: int
    provider_ref: str | None


_INSERT = Query(
    InsertMany(
        Snapshot,
        shared=("tenant", "name", "description", "state", "memory", "created_at", "created_by"),
        per_item=("machine_id",),
        returning=("id", "machine_id"),
    ),
    _InsertedSnapshot,
)

_BY_REF = Query(
    sa.select(col(Snapshot.id), col(Snapshot.provider_ref)).where(
        col(Snapshot.machine_id) == bindparam("machine_id"),
        OneOf(col(Snapshot.provider_ref), "refs"),
        col(Snapshot.id) != bindparam("snapshot_id"),
    ),
    _KnownSnapshot,
)

_CREATED = Statement(
    sa.update(Snapshot)
    .where(col(Snapshot.id) == bindparam("snapshot_id"))
    .values(
        state=SnapshotState.READY,
        memory=bindparam("memory"),
        is_current=bindparam("is_current"),
        size_bytes=bindparam("size_bytes"),
        provider_ref=bindparam("provider_ref"),
        provider_ref_folded=bindparam("provider_ref_folded"),
        created_at=bindparam("created_at"),
        observed_at=bindparam("observed_at"),
        parent_id=bindparam("parent"),
    )
)


@dataclass(frozen=True, kw_only=True)
class CreateSnapshots(Command):
    """Creates snapshots with the same arguments of several machines. A machine that is named twice gets one."""

    mutation = "createSnapshots"
    action = AuditAction.CREATE_SNAPSHOT

    machines: Sequence[MachineTarget] = field(metadata=id_of("machine", "machineIds"))
    name: str
    description: str | None = None
    memory: bool = False

    @property
    def subjects(self) -> list[AuditSubject]:
        return [machine_subject(machine) for machine in self.machines]

    def checked(self) -> Self:
        check_count(self.machines, "machineIds")
        name = checked_name(self.name)
        check_description(self.description)
        return replace(self, name=name)

    async def decide(self, tx: Transaction, context: CommandContext) -> list[Outcome]:
        outcomes = await self.decide_each(tx, context)
        for index, outcome in enumerate(outcomes):
            if outcome.refusal is not None:
                outcome.refusal.at("machineIds", index)
        return outcomes

    async def decide_each(self, tx: Transaction, context: CommandContext) -> list[Outcome]:
        """One outcome per machine, in order. The refusals have no path."""
        # Either action, not both: some providers can snapshot a running machine only with its memory.
        action = SnapshotAction.CREATE_WITH_MEMORY if self.memory else SnapshotAction.CREATE
        machines = await lock_machines(tx, context.caller, self.machines)
        admission = await QueueAdmission.load(tx, context.limit, list(machines), len(machines))
        accepted: dict[int, LockedMachine] = {}
        refused: dict[int, Refusal] = {}
        outcomes: list[Outcome | int] = []  # or the id of the machine, whose outcome follows
        for target in self.machines:
            try:
                machine = find_machine(target, machines)
            except Refusal as refusal:
                outcomes.append(Outcome(refusal=refusal))
                continue
            outcomes.append(machine.id)
            if machine.id in accepted or machine.id in refused:
                continue
            facts = admission.facts(machine)
            if refusal_ := machine_refusal(action, facts, context.rules, context.caller) or admission.admit(machine):
                refused[machine.id] = refusal_
            else:
                accepted[machine.id] = machine
        done = await self._record(tx, context, list(accepted.values())) if accepted else {}
        done |= {number: Outcome(machine_id=number, refusal=refusal) for number, refusal in refused.items()}
        return [done[outcome] if isinstance(outcome, int) else outcome for outcome in outcomes]

    async def _record(
        self, tx: Transaction, context: CommandContext, machines: Sequence[LockedMachine]
    ) -> dict[int, Outcome]:
        """Inserts snapshots and operations. Returns the outcomes by machine."""
        caller, key = context.caller, context.idempotency_key
        # Neither parent nor current: both are set when the provider has created the snapshot.
        rows = await tx.all(
            _INSERT,
            items=[{"machine_id": machine.id} for machine in machines],
            tenant=caller.tenant,
            name=self.name,
            description=self.description,
            state=SnapshotState.CREATING,
            memory=self.memory,
            created_at=now(),
            created_by=caller.name,
        )
        snapshots = {row.machine_id: row.id for row in rows}
        payload = {"name": self.name, "description": self.description, "memory": self.memory}
        operations = [NewOperation(machine, snapshots[machine.id], self.name, payload) for machine in machines]
        numbers = await enqueue(tx, caller, OperationKind.CREATE_SNAPSHOT, operations, key=key)
        return {
            machine.id: Outcome(number, snapshots[machine.id], machine.id)
            for machine, number in zip(machines, numbers, strict=True)
        }


@dataclass(frozen=True, kw_only=True)
class CreateSnapshot(MachineCommand):
    """Creates a snapshot of one machine."""

    mutation = "createSnapshot"
    action = AuditAction.CREATE_SNAPSHOT

    name: str
    description: str | None = None
    memory: bool = False

    def checked(self) -> Self:
        command = super().checked()
        name = checked_name(self.name)
        check_description(self.description)
        return replace(command, name=name)

    async def decide_one(self, tx: Transaction, context: CommandContext) -> Outcome:
        several = CreateSnapshots(
            machines=[self.machine], name=self.name, description=self.description, memory=self.memory
        )
        (outcome,) = await several.decide_each(tx, context)
        if outcome.refusal is not None:
            raise outcome.refusal
        return outcome


class CreateSnapshotOperation(OperationType):
    """Creates the snapshot at the provider. On success it is READY, as the provider reported it.

    When it fails, the snapshot stays in state ERROR, so that it can be deleted.
    """

    actions = (SnapshotAction.CREATE,)

    async def run(self, attempt: Attempt) -> Effect:
        row, snapshot_id = attempt.row, attempt.snapshot_id
        reported = await attempt.send(create_command(row.machine_ref, row.payload))
        if reported is None:
            raise OutcomeUnknown("The provider reported the create as done, but not which snapshot it created.")
        tree = attempt.has_tree
        return lambda tx: _apply(tx, row.machine_id, snapshot_id, reported, tree)

    async def on_failure(self, tx: Transaction, row: ClaimedOperation) -> None:
        await tx.run(SET_STATE, snapshot_id=row.snapshot_id, new_state=SnapshotState.ERROR)

    async def on_cancel(self, tx: Transaction, snapshot_id: int | None, payload: str) -> None:
        await tx.run(DELETE_SNAPSHOT, snapshot_id=snapshot_id)


def create_command(machine_ref: str, payload: str) -> CreateCommand:
    """The driver's command, from the payload of an operation of kind CREATE_SNAPSHOT."""
    return CreateCommand(machine_ref=machine_ref, **orjson.loads(payload))


async def _apply(tx: Transaction, machine_id: int, snapshot_id: int, reported: ReportedSnapshot, tree: bool) -> None:
    """Makes the snapshot READY.

    `tree`: the provider's snapshots have parents, and the machine has a current one, which is now this one.
    """
    refs = [reported.ref] + ([reported.parent_ref] if reported.parent_ref is not None else [])
    rows = await tx.all(_BY_REF, machine_id=machine_id, refs=refs, snapshot_id=snapshot_id)
    known = {row.provider_ref: row.id for row in rows}
    if reported.ref in known:  # a refresh has inserted the snapshot already, so it has two rows
        await remove_snapshot(tx, known[reported.ref], snapshot_id)
    if tree:
        await tx.run(CLEAR_CURRENT, machine_id=machine_id)
    await tx.run(
        _CREATED,
        snapshot_id=snapshot_id,
        memory=reported.memory,
        is_current=tree,
        size_bytes=reported.size_bytes,
        provider_ref=reported.ref,
        created_at=reported.created_at,
        observed_at=now(),
        parent=known.get(reported.parent_ref) if tree and reported.parent_ref is not None else None,
    )
