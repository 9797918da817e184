"""SQL of the fence protocol: which operations a worker can claim, and what the owner of a claim can write.

The table `operation` is a queue per machine. Any number of workers claim from it, in processes on any number of hosts.

Invariants
    1. At most one operation of a machine is RUNNING. The operations of a machine run in the order of their ids.
    2. Only the worker that claimed an operation last writes its outcome. One outcome is committed, in one transaction
       with its effect on snapshots.
    3. A command that may have reached the provider is repeated only after the driver's `recover` has returned
       NOT_STARTED. A revert that ended in OutcomeUnknown is not repeated even then: the operation fails.

Writers of the columns (CLAIM, HEARTBEAT ... are the statements below; cancel is `cancelOperation`)
    state                   enqueue: QUEUED. CLAIM: RUNNING. END: SUCCEEDED, FAILED or CANCELED.
                            cancel: CANCELED, if it was QUEUED
    owner                   CLAIM: the worker's name. RESCHEDULE, END, RELEASE: null
    lease_until             CLAIM, HEARTBEAT: now + lease. RESCHEDULE, END, RELEASE: null
    fence, attempt          CLAIM: + 1
    started_at              CLAIM: now, if null
    dispatched              MARK_DISPATCHED: true, before the driver is called.
                            RESCHEDULE: false, if the command certainly had no effect
    task_ref                CHECKPOINT: the provider's task. MARK_DISPATCHED: null
    retry_at                RESCHEDULE: now + delay; the state stays RUNNING. CLAIM, cancel: null
    progress_percent, phase HEARTBEAT, REPORT_PROGRESS: as the driver reported them. MARK_DISPATCHED: null.
                            RESCHEDULE: null and why the operation waits.
                            END: 100, if the operation succeeded and a percentage was reported; phase null
    cancel_requested_at     cancel. Every fenced write returns it, and the worker reads it with CANCEL_REQUESTS
    finished_at, error_*    END (cancel of a QUEUED operation: `finished_at`)
"Now" is the database's clock, so the clocks of the hosts need not agree.

Claim
    CLAIM takes the first unfinished operation of each machine, unless it waits for `retry_at`, has a lease that has not
    expired, or is of a kind that this process does not know, because a newer version accepted it. Such an operation
    keeps its place: the later ones of its machine wait, and those of other machines are claimed. Of all that can be
    claimed, those of the caller with the fewest running operations come first, and of these the oldest: an operation is
    ordered by the running and the older waiting ones of its caller (tenant and `requested_by`). So a caller that has
    queued 10,000 delays the first one of another caller by at most the end of one operation. PostgreSQL skips rows
    that another claim has locked; SQLite has one writer. The unique index `one_running_per_machine` rejects a second
    RUNNING operation of a machine.

Fence
    Every later write compares id, `fence`, `owner` and `state`. If no row matches, the claim is lost: `Claim` raises
    LeaseLost and the transaction is rolled back, with the changes of snapshots that it contains. RELEASE need not
    change `fence`, because a released operation has no owner.

Heartbeat
    The worker renews the lease every third of its duration. When no renewal has been committed for a whole lease, by
    the process's monotonic clock, the worker cancels its task. This only saves work; correctness rests on the fence,
    since a stopped process (SIGSTOP, a paused virtual machine) cannot watch its clock.

Late owner
    A worker whose lease has expired and whose operation has been claimed again cannot renew the lease, report
    progress, record a task, reschedule or end the operation, or change snapshots. It cannot begin a create, revert or
    delete either, unless its MARK_DISPATCHED was committed before: the call follows that commit. The fence does not
    reach the provider, where a command that was sent continues. The next owner therefore does not repeat the command.
    It finds `dispatched` set and calls `recover`, which finds the work by `token` or `task_ref` and waits while the
    provider is still busy.

Recovery
    A restart has no code path of its own. An operation of a worker that died is claimed when its lease has expired; one
    of a worker that stopped in order, at once (RELEASE). When a fenced write fails because the database did not confirm
    it, the worker abandons the operation (`Interrupted`), and the next claim proceeds from what was committed.

Example: two workers, a lease of 10 s
    time  worker A                                  worker B                          row afterwards
     0.0  CLAIM                                                                       owner A, fence 1, lease until 10.0
     0.1  MARK_DISPATCHED, then driver.create()                                       dispatched
     0.2  CHECKPOINT "task-9"                                                         task_ref task-9
     3.3  HEARTBEAT                                                                   lease until 13.3
     4.0  stopped by SIGSTOP
    13.5                                            CLAIM: the lease has expired      owner B, fence 2, lease until 23.5
    13.6                                            driver.recover("task-9") waits
    15.0  continues; END with fence 1: no row,
          LeaseLost, no snapshot is changed
    16.0                                            recover returns the snapshot; END state SUCCEEDED, no owner
"""

from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlalchemy.orm import aliased
from sqlmodel import col

from gateway.errors import ErrorCode
from gateway.models import Machine, MachineKind, Operation, OperationKind, OperationState, Snapshot
from gateway.operations.statements import unfinished
from gateway.store.clock import DatabaseNow, FromNow, LaterOfNow
from gateway.store.statements import OneOf, Query, RowId, Statement


class ClaimedOperation(NamedTuple):
    """An operation that was just claimed, with the provider's references of its machine and its snapshot."""

    id: int
    kind: OperationKind
    machine_id: int
    machine_kind: MachineKind
    snapshot_id: int | None
    token: str
    payload: str
    task_ref: str | None
    dispatched: bool
    attempt: int
    fence: int
    started_at: datetime | None
    cancel_requested_at: datetime | None
    requested_by: str | None
    provider: str
    machine_ref: str
    snapshot_ref: str | None


class FencedWrite(NamedTuple):
    """An operation that a fenced write has changed."""

    cancel_requested_at: datetime | None


class UnresolvedCreate(NamedTuple):
    """A create whose outcome is unknown: the provider may have created the snapshot without confirming it."""

    token: str
    task_ref: str | None
    payload: str


_candidate = aliased(Operation, name="candidate")

_head = aliased(Operation, name="head")
_heads = sa.select(sa.func.min(col(_head.id))).where(unfinished("head")).group_by(col(_head.machine_id))

# A create that ended as OUTCOME_UNKNOWN: the provider may have created the snapshot without confirming it.
_create = aliased(Operation, name="unresolved")
_is_unresolved = sa.and_(
    col(_create.kind) == OperationKind.CREATE_SNAPSHOT,
    col(_create.error_code) == ErrorCode.OUTCOME_UNKNOWN,
)
UNRESOLVED_CREATE = Query(
    sa.select(col(_create.token), col(_create.task_ref), col(_create.payload)).where(
        col(_create.snapshot_id) == bindparam("snapshot_id"), _is_unresolved
    ),
    UnresolvedCreate,
)

# A delete that needs no driver: the snapshot was never created on the provider, or is known to be deleted there.
_without_driver = sa.and_(
    col(_candidate.kind) == OperationKind.DELETE_SNAPSHOT,
    col(Snapshot.provider_ref).is_(None),
    ~sa.exists().where(col(_create.snapshot_id) == col(_candidate.snapshot_id), _is_unresolved),
)


def _has_no_worker(operation: type[Operation]) -> sa.ColumnElement[bool]:
    """The operation is queued, or has no lease that is valid now."""
    return sa.or_(
        col(operation.state) == OperationState.QUEUED,
        col(operation.lease_until).is_(None),
        col(operation.lease_until) < DatabaseNow(),
    )


def _is_due(operation: type[Operation]) -> sa.ColumnElement[bool]:
    """The operation does not wait for a retry."""
    return sa.or_(col(operation.retry_at).is_(None), col(operation.retry_at) <= DatabaseNow())


# The first operation of each machine, with its place among those of its caller: behind the ones that run now.
_in_turn = (
    sa.select(
        col(_candidate.id),
        sa.func.row_number()
        .over(
            partition_by=(col(_candidate.tenant), col(_candidate.requested_by)),
            order_by=(sa.case((_has_no_worker(_candidate), 1), else_=0), col(_candidate.id)),
        )
        .label("turn"),
    )
    .join(Machine, col(Machine.id) == col(_candidate.machine_id))
    .outerjoin(Snapshot, col(Snapshot.id) == col(_candidate.snapshot_id))
    .where(
        OneOf(col(_candidate.id), _heads),
        OneOf(col(_candidate.kind), "kinds"),
        OneOf(col(_candidate.machine_kind), "machine_kinds"),
        _is_due(_candidate),
        sa.or_(OneOf(col(Machine.provider), "providers"), _without_driver),
    )
    .subquery("in_turn")
)

_free = aliased(Operation, name="free")
_claimable = (
    sa.select(col(_free.id))
    .join(_in_turn, _in_turn.c.id == col(_free.id))
    .where(
        # When another transaction has changed the row before this one locks it, PostgreSQL evaluates this WHERE again,
        # but not the subquery: `finished_at` repeats the condition of `_heads`.
        col(_free.finished_at).is_(None),
        _has_no_worker(_free),
        _is_due(_free),
    )
    .order_by(_in_turn.c.turn, col(_free.id))
    .limit(bindparam("slots", type_=sa.Integer()))
    .with_for_update(skip_locked=True, of=_free)
)

CLAIM = Query(
    sa.update(Operation)
    .where(OneOf(col(Operation.id), _claimable))
    .values(
        state=OperationState.RUNNING,
        owner=bindparam("new_owner"),
        fence=col(Operation.fence) + 1,
        attempt=col(Operation.attempt) + 1,
        lease_until=FromNow("lease"),
        retry_at=None,
        started_at=sa.func.coalesce(col(Operation.started_at), LaterOfNow("at")),
    )
    .returning(col(Operation.id)),
    RowId,
)

CLAIMED_OPERATIONS = Query(
    sa.select(
        col(Operation.id),
        col(Operation.kind),
        col(Machine.id).label("machine_id"),
        col(Operation.machine_kind),
        col(Operation.snapshot_id),
        col(Operation.token),
        col(Operation.payload),
        col(Operation.task_ref),
        col(Operation.dispatched),
        col(Operation.attempt),
        col(Operation.fence),
        col(Operation.started_at),
        col(Operation.cancel_requested_at),
        col(Operation.requested_by),
        col(Machine.provider),
        col(Machine.provider_ref).label("machine_ref"),
        col(Snapshot.provider_ref).label("snapshot_ref"),
    )
    .select_from(Operation)
    .join(Machine, col(Machine.id) == col(Operation.machine_id))
    .outerjoin(Snapshot, col(Snapshot.id) == col(Operation.snapshot_id))
    .where(OneOf(col(Operation.id), "ids"))
    .order_by(col(Operation.id)),
    ClaimedOperation,
)


def _fenced(**values: Any) -> Query[FencedWrite]:
    """Update that changes no row unless the parameters name the operation's last claim and it is still running."""
    return Query(
        sa.update(Operation)
        .where(
            col(Operation.id) == bindparam("operation_id"),
            col(Operation.fence) == bindparam("my_fence"),
            col(Operation.owner) == bindparam("my_owner"),
            col(Operation.state) == OperationState.RUNNING,
        )
        .values(**values)
        .returning(col(Operation.cancel_requested_at)),
        FencedWrite,
    )


HEARTBEAT = _fenced(
    lease_until=FromNow("lease"), progress_percent=bindparam("new_percent"), phase=bindparam("new_phase")
)
REPORT_PROGRESS = _fenced(progress_percent=bindparam("new_percent"), phase=bindparam("new_phase"))
MARK_DISPATCHED = _fenced(dispatched=True, task_ref=None, progress_percent=None, phase=None)
CHECKPOINT = _fenced(task_ref=bindparam("new_task_ref"))
RESCHEDULE = _fenced(
    dispatched=bindparam("new_dispatched"),
    retry_at=FromNow("delay"),
    phase=bindparam("new_phase"),
    progress_percent=None,
    owner=None,
    lease_until=None,
)
END = _fenced(
    state=bindparam("new_state"),
    finished_at=bindparam("at"),
    progress_percent=sa.case(
        (sa.and_(bindparam("succeeded", type_=sa.Boolean()), col(Operation.progress_percent).is_not(None)), 100),
        else_=col(Operation.progress_percent),
    ),
    phase=None,
    error_code=bindparam("code"),
    error_message=bindparam("message"),
    error_provider_message=bindparam("provider_message"),
    owner=None,
    lease_until=None,
)

# The text of the predicate of the index `one_running_per_machine`, so that both databases use it.
_RUNNING = sa.text("operation.state = 'RUNNING'")

RELEASE = Statement(
    sa.update(Operation)
    .where(col(Operation.owner) == bindparam("my_owner"), _RUNNING)
    .values(owner=None, lease_until=None)
)

CANCEL_REQUESTS = Query(
    sa.select(col(Operation.id)).where(
        _RUNNING,
        col(Operation.owner) == bindparam("my_owner"),
        col(Operation.cancel_requested_at).is_not(None),
    ),
    RowId,
)
