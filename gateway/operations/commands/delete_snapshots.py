"""Decides on `deleteSnapshots` and records the accepted items."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlmodel import col, select

from gateway.access.caller import Caller
from gateway.access.capabilities import snapshot_refusal
from gateway.errors import Aborted, LimitExceeded, Refusal
from gateway.models import OperationKind, Snapshot, SnapshotAction, SnapshotState
from gateway.operations.admission import NewOperation, QueueAdmission, enqueue
from gateway.operations.commands.base import MAX_DELETED, CommandContext, Outcome, Target
from gateway.operations.statements import SET_STATES, LockedMachine, TargetSnapshot
from gateway.operations.targets import find_snapshot, lock_snapshots, name_conflicts, snapshot_facts
from gateway.store.database import Transaction
from gateway.store.statements import OneOf, Query, RowId, Unindexed

_tree = (
    sa.select(col(Snapshot.id).label("id"))
    .where(Unindexed(col(Snapshot.tenant)) == bindparam("tenant"), OneOf(col(Snapshot.id), "ids"))
    .cte("tree", recursive=True)
)
_tree = _tree.union(sa.select(col(Snapshot.id)).where(col(Snapshot.parent_id) == _tree.c.id))
_SUBTREES = Query(select(_tree.c.id).limit(MAX_DELETED + 1), RowId)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteOptions:
    """Options of a delete."""

    with_descendants: bool
    all_or_nothing: bool
    dry_run: bool


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


async def delete_snapshots(
    tx: Transaction, context: CommandContext, targets: Sequence[Target], options: DeleteOptions
) -> list[Outcome]:
    """One outcome per target, in order, then those of the added descendants, in order of deletion.

    Raises LimitExceeded when the targets and their descendants are more than `MAX_DELETED`.
    """
    given = list(dict.fromkeys(target for target in targets if not isinstance(target, Refusal)))
    plan = await _plan(tx, context.caller, given, options)
    admission = await QueueAdmission.load(tx, context.limits, list(plan.machines), len(plan.snapshots))
    order = plan.order() if options.with_descendants else [number for number in given if number in plan.snapshots]
    refusals = await _refusals(tx, context, plan)
    for number in order:
        machine = plan.machines[plan.snapshots[number].machine_id]
        refusal = refusals.get(number) or admission.admit(machine)
        plan.outcomes[number] = Outcome(None, number, machine.id, number not in plan.given, refusal)
    outcomes = _in_order_of_request(plan, targets, order)
    if options.all_or_nothing and any(outcome.refusal for outcome in outcomes):
        return [outcome if outcome.refusal else _aborted(plan, targets, outcome) for outcome in outcomes]
    if options.dry_run:
        return outcomes
    await _record(tx, context.caller, plan, [number for number in order if plan.outcomes[number].refusal is None])
    return _in_order_of_request(plan, targets, order)


async def _plan(tx: Transaction, caller: Caller, given: list[int], options: DeleteOptions) -> _Plan:
    snapshots, machines = await lock_snapshots(tx, caller, given)
    if options.with_descendants and snapshots:
        rows = await tx.all(_SUBTREES, tenant=caller.tenant, ids=list(snapshots))
        if len(rows) > MAX_DELETED:
            raise LimitExceeded(
                f"The snapshots and their descendants are more than {MAX_DELETED}, the limit of one request.",
                path=("ids",),
            )
        # A snapshot and its descendants have one machine, so this locks no further machines.
        snapshots, machines = await lock_snapshots(tx, caller, [row.id for row in rows])
    return _Plan(set(given), snapshots, machines)


async def _refusals(tx: Transaction, context: CommandContext, plan: _Plan) -> dict[int, Refusal]:
    """Refusals by snapshot number. Snapshots that can be deleted are left out."""
    refusals = {}
    for number, snapshot in plan.snapshots.items():
        facts = snapshot_facts(snapshot, plan.machines[snapshot.machine_id])
        refusal = snapshot_refusal(SnapshotAction.DELETE, facts, context.matrices, context.caller)
        if refusal is not None:
            refusals[number] = refusal
    return await name_conflicts(tx, refusals)


async def _record(tx: Transaction, caller: Caller, plan: _Plan, numbers: Sequence[int]) -> None:
    """Inserts the operations of these snapshots and stores their ids in the outcomes."""
    if not numbers:
        return
    await tx.run(SET_STATES, ids=numbers, new_state=SnapshotState.DELETING)
    snapshots = [plan.snapshots[number] for number in numbers]
    operations = [
        NewOperation(plan.machines[snapshot.machine_id], snapshot.id, snapshot.name, {"previous": snapshot.state})
        for snapshot in snapshots
    ]
    for number, operation in zip(
        numbers, await enqueue(tx, caller, OperationKind.DELETE_SNAPSHOT, operations), strict=True
    ):
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
