"""The mutation `deleteSnapshots`, and the operations of kind DELETE_SNAPSHOT."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Self

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlmodel import col, select

from gateway.access.caller import Caller
from gateway.access.capabilities import snapshot_refusal
from gateway.drivers.base import DeleteCommand, ReportedSnapshot, Work
from gateway.errors import Aborted, LimitExceeded, ProviderMissing, ProviderRefused, Refusal
from gateway.models import AuditAction, OperationKind, Snapshot, SnapshotAction, SnapshotState
from gateway.operations.admission import NewOperation, QueueAdmission, enqueue
from gateway.operations.attempt import Attempt, Effect, OperationType
from gateway.operations.audit_log import AuditSubject
from gateway.operations.commands.base import (
    MAX_DELETED,
    Command,
    CommandContext,
    Outcome,
    Target,
    check_count,
    id_of,
    snapshot_subject,
)
from gateway.operations.commands.create_snapshot import create_command
from gateway.operations.effects import remove_snapshot
from gateway.operations.statements import SET_STATES, LockedMachine, TargetSnapshot
from gateway.operations.targets import find_snapshot, lock_snapshots, snapshot_facts
from gateway.store.database import Transaction
from gateway.store.statements import OneOf, Query, RowId, Statement, Unindexed

log = logging.getLogger(__name__)


class _Position(NamedTuple):
    parent_id: int | None
    is_current: bool


_tree = (
    sa.select(col(Snapshot.id).label("id"))
    .where(Unindexed(col(Snapshot.tenant)) == bindparam("tenant"), OneOf(col(Snapshot.id), "ids"))
    .cte("tree", recursive=True)
)
_tree = _tree.union(sa.select(col(Snapshot.id)).where(col(Snapshot.parent_id) == _tree.c.id))
_SUBTREES = Query(select(_tree.c.id).limit(MAX_DELETED + 1), RowId)


_POSITION = Query(
    sa.select(col(Snapshot.parent_id), col(Snapshot.is_current)).where(col(Snapshot.id) == bindparam("snapshot_id")),
    _Position,
)

_SET_CURRENT = Statement(
    sa.update(Snapshot).where(col(Snapshot.id) == bindparam("snapshot_id")).values(is_current=True)
)


@dataclass(slots=True)
class _Plan:
    """All snapshots of the request, descendants included, and the outcome of each."""

    given: set[int]
    snapshots: Mapping[int, TargetSnapshot]
    machines: Mapping[int, LockedMachine]
    outcomes: dict[int, Outcome] = field(default_factory=dict)

    def order(self) -> list[int]:
        """All snapshots, descendants before their ancestors."""
        return sorted(self.snapshots, key=lambda number: (-len(self.ancestry(number)), number))

    def ancestry(self, number: int) -> list[int]:
        """The snapshot and its ancestors, nearest first, up to the first that is not part of the request."""
        ancestry = [number]
        while (parent := self.snapshots[ancestry[-1]].parent_id) is not None and parent in self.snapshots:
            ancestry.append(parent)
        return ancestry


@dataclass(frozen=True, kw_only=True)
class DeleteSnapshots(Command):
    """Deletes snapshots, each with an operation of its own. The outcomes of added descendants follow, in order."""

    mutation = "deleteSnapshots"
    action = AuditAction.DELETE_SNAPSHOT

    snapshots: Sequence[Target] = field(metadata=id_of("snapshot", "ids"))
    with_descendants: bool = False
    all_or_nothing: bool = False
    dry_run: bool = False

    @property
    def is_dry_run(self) -> bool:
        return self.dry_run

    @property
    def subjects(self) -> list[AuditSubject]:
        return [snapshot_subject(snapshot) for snapshot in self.snapshots]

    def checked(self) -> Self:
        check_count(self.snapshots, "ids")
        return self

    async def decide(self, tx: Transaction, context: CommandContext) -> list[Outcome]:
        """Raises LimitExceeded when the snapshots and their descendants are more than `MAX_DELETED`."""
        targets = self.snapshots
        given = list(dict.fromkeys(target for target in targets if not isinstance(target, Refusal)))
        plan = await _plan(tx, context.caller, given, self.with_descendants)
        admission = await QueueAdmission.load(tx, context.limit, list(plan.machines), len(plan.snapshots))
        order = plan.order() if self.with_descendants else [number for number in given if number in plan.snapshots]
        for number in order:
            snapshot = plan.snapshots[number]
            machine = plan.machines[snapshot.machine_id]
            facts = snapshot_facts(snapshot, admission.facts(machine))
            refusal = snapshot_refusal(SnapshotAction.DELETE, facts, context.rules, context.caller)
            refusal = refusal or admission.admit(machine)
            plan.outcomes[number] = Outcome(None, number, machine.id, number not in plan.given, refusal)
        outcomes = _in_order_of_request(plan, targets, order)
        if self.all_or_nothing and any(outcome.refusal for outcome in outcomes):
            return [outcome if outcome.refusal else _aborted(plan, targets, outcome) for outcome in outcomes]
        if self.dry_run:
            return outcomes
        await _record(tx, context, plan, [number for number in order if plan.outcomes[number].refusal is None])
        return _in_order_of_request(plan, targets, order)


class DeleteSnapshotOperation(OperationType):
    """Deletes the snapshot at the provider. Calls no driver if the snapshot is not there.

    On success the row is deleted. Its parent gets its children, and becomes current if the snapshot was.
    """

    actions = (SnapshotAction.DELETE,)

    async def run(self, attempt: Attempt) -> Effect:
        row, snapshot_id = attempt.row, attempt.snapshot_id
        if row.snapshot_ref is not None:
            command: DeleteCommand | None = DeleteCommand(row.machine_ref, row.snapshot_ref)
        else:
            command = await _resolve_create(attempt)
        if command is not None:
            try:
                await attempt.send(command)
            except ProviderMissing:
                log.info("Snapshot did not exist on the provider operation=operation-%d", row.id)
        return lambda tx: _apply(tx, snapshot_id)


async def _resolve_create(attempt: Attempt) -> DeleteCommand | None:
    """Command that deletes the snapshot of a create with an unknown outcome; None if the provider has none."""
    create = await attempt.claim.unresolved_create()
    if create is None:
        return None
    machine_ref = attempt.row.machine_ref
    try:
        found = await attempt.driver.recover(
            Work(create.token, create.task_ref), create_command(machine_ref, create.payload)
        )
    except (ProviderMissing, ProviderRefused):
        return None
    return DeleteCommand(machine_ref, found.ref) if isinstance(found, ReportedSnapshot) else None


async def _apply(tx: Transaction, snapshot_id: int) -> None:
    """Deletes the row. Does nothing if it no longer exists."""
    position = await tx.first(_POSITION, snapshot_id=snapshot_id)
    if position is None:
        return  # a refresh has deleted the row already
    await remove_snapshot(tx, snapshot_id, position.parent_id)
    if position.is_current and position.parent_id is not None:
        await tx.run(_SET_CURRENT, snapshot_id=position.parent_id)


async def _plan(tx: Transaction, caller: Caller, given: list[int], with_descendants: bool) -> _Plan:
    snapshots, machines = await lock_snapshots(tx, caller, given)
    if with_descendants and snapshots:
        rows = await tx.all(_SUBTREES, tenant=caller.tenant, ids=list(snapshots))
        if len(rows) > MAX_DELETED:
            raise LimitExceeded(
                f"The snapshots and their descendants are more than {MAX_DELETED}, the limit of one request.",
                path=("ids",),
            )
        # A snapshot and its descendants have one machine, so this locks no further machines.
        snapshots, machines = await lock_snapshots(tx, caller, [row.id for row in rows])
    return _Plan(set(given), snapshots, machines)


async def _record(tx: Transaction, context: CommandContext, plan: _Plan, numbers: Sequence[int]) -> None:
    """Inserts the operations of these snapshots and stores their ids in the outcomes."""
    if not numbers:
        return
    await tx.run(SET_STATES, ids=numbers, new_state=SnapshotState.DELETING)
    snapshots = [plan.snapshots[number] for number in numbers]
    operations = [
        NewOperation(plan.machines[snapshot.machine_id], snapshot.id, snapshot.name, {"previous": snapshot.state})
        for snapshot in snapshots
    ]
    caller, key = context.caller, context.idempotency_key
    ids = await enqueue(tx, caller, OperationKind.DELETE_SNAPSHOT, operations, key=key)
    for number, operation in zip(numbers, ids, strict=True):
        plan.outcomes[number] = replace(plan.outcomes[number], operation_id=operation)


def _in_order_of_request(plan: _Plan, targets: Sequence[Target], order: Sequence[int]) -> list[Outcome]:
    outcomes = []
    for index, target in enumerate(targets):
        try:
            number = find_snapshot(target, plan.snapshots).id
        except Refusal as refusal:
            outcomes.append(Outcome(refusal=refusal.at("ids", index)))
            continue
        outcomes.append(plan.outcomes[number])
    outcomes += [plan.outcomes[number] for number in order if number not in plan.given]
    for number, outcome in plan.outcomes.items():
        if outcome.refusal is not None:
            outcome.refusal.at("ids", _index(plan, targets, number))
    return outcomes


def _index(plan: _Plan, targets: Sequence[Target], number: int) -> int:
    """Index of the target that is the snapshot or added it as a descendant."""
    return targets.index(next(step for step in plan.ancestry(number) if step in plan.given))


def _aborted(plan: _Plan, targets: Sequence[Target], outcome: Outcome) -> Outcome:
    assert outcome.snapshot_id is not None
    refusal = Aborted("No snapshot was deleted, because another snapshot of the request was refused.")
    return replace(outcome, refusal=refusal.at("ids", _index(plan, targets, outcome.snapshot_id)))
