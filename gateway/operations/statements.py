"""SQL statements that several commands share. A statement of one command is in the command's module."""

from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlmodel import col, select

from gateway.models import UNFINISHED_SQL, Machine, MachineKind, Operation, PowerState, Snapshot, SnapshotState
from gateway.store.statements import OneOf, Query, RowId, Statement, Unindexed


class LockedMachine(NamedTuple):
    """A machine whose row the transaction has locked."""

    id: int
    kind: MachineKind
    name: str
    provider: str
    power_state: PowerState
    gone_at: datetime | None
    snapshot_blocker: str | None


class TargetSnapshot(NamedTuple):
    """A snapshot of a locked machine."""

    id: int
    machine_id: int
    name: str
    state: SnapshotState | None  # None: a state that this version does not know
    provider_ref: str | None
    parent_id: int | None
    first_unfinished: int | None  # number of its first unfinished operation


def unfinished(table: str = "operation") -> sa.TextClause:
    """The text of the predicate of the index `ix_operation_unfinished`, so that both databases use it."""
    return sa.text(f"{table}.{UNFINISHED_SQL}")


# Rows that the caller may not see are filtered by the statements themselves. So the number of statements, and with it
# the response time, is the same as for rows that do not exist.


def _lock_machines(which: sa.ColumnElement[bool]) -> Query[LockedMachine]:
    """Locks in ascending order of id, so that requests cannot deadlock. SQLite has one writer and no row locks."""
    return Query(
        sa.select(
            col(Machine.id),
            col(Machine.kind),
            col(Machine.name),
            col(Machine.provider),
            col(Machine.power_state),
            col(Machine.gone_at),
            col(Machine.snapshot_blocker),
        )
        .where(Unindexed(col(Machine.tenant)) == bindparam("tenant"), OneOf(col(Machine.kind), "kinds"), which)
        .order_by(col(Machine.id))
        .with_for_update(),
        LockedMachine,
    )


LOCK_MACHINES = _lock_machines(OneOf(col(Machine.id), "ids"))

LOCK_MACHINES_OF_SNAPSHOTS = _lock_machines(
    col(Machine.id).in_(sa.select(col(Snapshot.machine_id)).where(OneOf(col(Snapshot.id), "ids")))
)

LOCK_MACHINE = Query(select(Machine.id).where(col(Machine.id) == bindparam("machine_id")).with_for_update(), RowId)

SNAPSHOTS = Query(
    sa.select(
        col(Snapshot.id),
        col(Snapshot.machine_id),
        col(Snapshot.name),
        col(Snapshot.state),
        col(Snapshot.provider_ref),
        col(Snapshot.parent_id),
        sa.select(sa.func.min(col(Operation.id)))
        .where(col(Operation.snapshot_id) == col(Snapshot.id), unfinished())
        .scalar_subquery()
        .label("first_unfinished"),
    ).where(
        Unindexed(col(Snapshot.tenant)) == bindparam("tenant"),
        OneOf(col(Snapshot.id), "ids"),
        OneOf(
            sa.select(col(Machine.kind)).where(col(Machine.id) == col(Snapshot.machine_id)).scalar_subquery(), "kinds"
        ),
    ),
    TargetSnapshot,
)

SET_STATE = Statement(
    sa.update(Snapshot).where(col(Snapshot.id) == bindparam("snapshot_id")).values(state=bindparam("new_state"))
)

SET_STATES = Statement(sa.update(Snapshot).where(OneOf(col(Snapshot.id), "ids")).values(state=bindparam("new_state")))

DELETE_SNAPSHOT = Statement(sa.delete(Snapshot).where(col(Snapshot.id) == bindparam("snapshot_id")))


def machine_name(kind: MachineKind, number: int) -> str:
    """The machine's id as clients see it, such as `vm-11`, for messages."""
    return f"{kind.value.lower()}-{number}"
