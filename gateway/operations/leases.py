"""The SQL of leases: which operations can be claimed, and what only the holder of a claim may write."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlmodel import col

from gateway.errors import ErrorCode
from gateway.models import Machine, Operation, OperationKind, OperationState, Snapshot
from gateway.operations.clock import DatabaseNow, FromNow, ThisOrNow
from gateway.operations.statements import unfinished
from gateway.store.statements import OneOf, Statement

_O = Operation.__table__  # type: ignore[attr-defined]
_candidate = _O.alias("candidate")

_head = _O.alias("head")
_heads = sa.select(sa.func.min(_head.c.id)).where(unfinished("head")).group_by(_head.c.machine_id)

# The create of a snapshot that the provider may have made without saying so.
_doubt = _O.alias("doubt")
_doubtful = sa.and_(
    _doubt.c.kind == OperationKind.CREATE_SNAPSHOT,
    _doubt.c.error_code == ErrorCode.OUTCOME_UNKNOWN,
)
DOUBT = Statement(
    sa.select(_doubt.c.token, _doubt.c.task_ref, _doubt.c.wish).where(
        _doubt.c.snapshot_id == bindparam("snapshot_id"), _doubtful
    )
)

# What needs no driver: the snapshot was never made on the provider, or is known to be gone from it.
_without_driver = sa.and_(
    _candidate.c.kind == OperationKind.DELETE_SNAPSHOT,
    col(Snapshot.provider_ref).is_(None),
    ~sa.exists().where(_doubt.c.snapshot_id == _candidate.c.snapshot_id, _doubtful),
)

_chosen = (
    sa.select(_candidate.c.id)
    .join(Machine, col(Machine.id) == _candidate.c.machine_id)
    .outerjoin(Snapshot, col(Snapshot.id) == _candidate.c.snapshot_id)
    .where(
        OneOf(_candidate.c.id, _heads),
        # Unfinished: said again because PostgreSQL looks at it again after locking the row, in words of no index.
        _candidate.c.finished_at.is_(None),
        sa.or_(
            _candidate.c.state == OperationState.QUEUED,
            _candidate.c.lease_until.is_(None),
            _candidate.c.lease_until < DatabaseNow(),
        ),
        sa.or_(_candidate.c.retry_at.is_(None), _candidate.c.retry_at <= DatabaseNow()),
        sa.or_(OneOf(col(Machine.provider), "providers"), _without_driver),
    )
    .order_by(_candidate.c.id)
    .limit(bindparam("slots", type_=sa.Integer()))
    .with_for_update(skip_locked=True, of=_candidate)
)

CLAIM = Statement(
    sa.update(_O)
    .where(OneOf(_O.c.id, _chosen))
    .values(
        state=OperationState.RUNNING,
        owner=bindparam("new_owner"),
        fence=_O.c.fence + 1,
        attempt=_O.c.attempt + 1,
        lease_until=FromNow("lease"),
        retry_at=None,
        started_at=sa.func.coalesce(_O.c.started_at, ThisOrNow("at")),
    )
    .returning(_O.c.id)
)

CLAIMED = Statement(
    sa.select(
        *(_O.c[name] for name in ("id", "kind", "machine_id", "machine_kind", "snapshot_id", "token", "wish")),
        *(_O.c[name] for name in ("task_ref", "issued", "attempt", "fence", "started_at", "cancel_requested_at")),
        col(Machine.provider),
        col(Machine.provider_ref).label("machine_ref"),
        col(Snapshot.provider_ref).label("snapshot_ref"),
    )
    .select_from(_O)
    .join(Machine, col(Machine.id) == _O.c.machine_id)
    .outerjoin(Snapshot, col(Snapshot.id) == _O.c.snapshot_id)
    .where(OneOf(_O.c.id, "ids"))
    .order_by(_O.c.id)
)


def _fenced(**values: Any) -> Statement:
    return Statement(
        sa.update(_O)
        .where(
            _O.c.id == bindparam("operation_id"),
            _O.c.fence == bindparam("my_fence"),
            _O.c.owner == bindparam("my_owner"),
            _O.c.state == OperationState.RUNNING,
        )
        .values(**values)
        .returning(_O.c.cancel_requested_at)
    )


BEAT = _fenced(lease_until=FromNow("lease"), progress_percent=bindparam("new_percent"), phase=bindparam("new_phase"))
SHOW = _fenced(progress_percent=bindparam("new_percent"), phase=bindparam("new_phase"))
ISSUE = _fenced(issued=True, task_ref=None, progress_percent=None, phase=None)
CHECKPOINT = _fenced(task_ref=bindparam("new_task_ref"))
PUT_OFF = _fenced(
    issued=bindparam("new_issued"),
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
        (sa.and_(bindparam("well", type_=sa.Boolean()), _O.c.progress_percent.is_not(None)), 100),
        else_=_O.c.progress_percent,
    ),
    phase=None,
    error_code=bindparam("code"),
    error_message=bindparam("message"),
    error_provider_message=bindparam("provider_message"),
    owner=None,
    lease_until=None,
)

RELEASE = Statement(
    sa.update(_O)
    .where(_O.c.owner == bindparam("my_owner"), sa.text("operation.state = 'RUNNING'"))  # the index's words
    .values(owner=None, lease_until=None)
)

CANCEL_WISHES = Statement(
    sa.select(_O.c.id).where(
        sa.text("operation.state = 'RUNNING'"),  # the index's words
        _O.c.owner == bindparam("my_owner"),
        _O.c.cancel_requested_at.is_not(None),
    )
)
