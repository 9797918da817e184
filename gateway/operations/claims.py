"""Taking operations to work on, and writing about them while they are ours.

One statement claims the heads of the queues that this process can serve: what waits, and what another worker has
left. Every later write carries the claim's fence, so that a worker that was frozen past its lease writes nothing.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlmodel import col

from gateway.drivers.base import CreateWish, DeleteWish, RevertWish, Wish
from gateway.models import Machine, Operation, OperationKind, OperationState, Snapshot, now
from gateway.operations.clock import DatabaseNow, FromNow
from gateway.operations.statements import LOCK_MACHINE, unfinished
from gateway.store.database import Database, Transaction, Work
from gateway.store.statements import OneOf, Statement

_O = Operation.__table__  # type: ignore[attr-defined]
_candidate = _O.alias("candidate")

_heads = sa.select(sa.func.min(_O.c.id)).where(unfinished()).group_by(_O.c.machine_id)

# What needs no driver: the snapshot was never made on the provider, or is known to be gone from it.
_without_driver = sa.and_(_candidate.c.kind == OperationKind.DELETE_SNAPSHOT, col(Snapshot.provider_ref).is_(None))

_chosen = (
    sa.select(_candidate.c.id)
    .join(Machine, col(Machine.id) == _candidate.c.machine_id)
    .outerjoin(Snapshot, col(Snapshot.id) == _candidate.c.snapshot_id)
    .where(
        _candidate.c.id.in_(_heads),
        unfinished("candidate"),  # said again because PostgreSQL looks at it again after locking the row
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
    .cte("chosen")
)

_CLAIM = Statement(
    sa.update(_O)
    .where(_O.c.id.in_(sa.select(_chosen.c.id)))
    .values(
        state=OperationState.RUNNING,
        owner=bindparam("new_owner"),
        fence=_O.c.fence + 1,
        attempt=_O.c.attempt + 1,
        lease_until=FromNow("lease"),
        retry_at=None,
        started_at=sa.func.coalesce(_O.c.started_at, bindparam("at")),
    )
    .returning(_O.c.id)
)

_CLAIMED = Statement(
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


_BEAT = _fenced(lease_until=FromNow("lease"), progress_percent=bindparam("new_percent"), phase=bindparam("new_phase"))
_SHOW = _fenced(progress_percent=bindparam("new_percent"), phase=bindparam("new_phase"))
_ISSUE = _fenced(issued=True, task_ref=None, progress_percent=None, phase=None)
_CHECKPOINT = _fenced(task_ref=bindparam("new_task_ref"))
_PUT_OFF = _fenced(
    issued=bindparam("new_issued"),
    retry_at=FromNow("delay"),
    phase=bindparam("new_phase"),
    progress_percent=None,
    owner=None,
    lease_until=None,
)
_END = _fenced(
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

_RELEASE = Statement(
    sa.update(_O)
    .where(_O.c.owner == bindparam("my_owner"), _O.c.state == OperationState.RUNNING)
    .values(owner=None, lease_until=None)
)

_CANCEL_WISHES = Statement(
    sa.select(_O.c.id).where(
        sa.text("operation.state = 'RUNNING'"),  # the index's words
        _O.c.owner == bindparam("my_owner"),
        _O.c.cancel_requested_at.is_not(None),
    )
)

_PROVIDER_MESSAGE = 4_000  # characters kept of what a provider says


class LeaseLost(Exception):
    """The operation is somebody else's by now, or has ended."""


class Interrupted(Exception):
    """The database did not take a write. The lease runs out, and whoever claims then looks at what is true."""


class Claim:
    """One operation while this process holds it. `lost` is set when it must not be written about any more."""

    def __init__(self, database: Database, owner: str, row: Any) -> None:
        self._database = database
        self._owner = owner
        self.row = row
        self.issued: bool = row.issued
        self.cancel_wanted: bool = row.cancel_requested_at is not None
        self.percent: int | None = None
        self.phase: str | None = None
        self.lost = False

    @property
    def wish(self) -> Wish | None:
        """What the driver is asked for; None for what needs no driver."""
        row = self.row
        match row.kind:
            case OperationKind.CREATE_SNAPSHOT:
                return CreateWish(machine_ref=row.machine_ref, **orjson.loads(row.wish))
            case OperationKind.REVERT_VM_SNAPSHOT if row.snapshot_ref is not None:
                return RevertWish(row.machine_ref, row.snapshot_ref)
            case OperationKind.DELETE_SNAPSHOT if row.snapshot_ref is not None:
                return DeleteWish(row.machine_ref, row.snapshot_ref)
        return None

    # ---- fenced writes. All raise LeaseLost and Interrupted.

    async def issue(self) -> None:
        """Commits that the driver is about to be called."""
        await self._write(lambda tx: self._save(tx, _ISSUE))
        self.issued = True
        self.percent = self.phase = None

    async def checkpoint(self, task_ref: str) -> None:
        """Commits the provider's own task."""
        await self._write(lambda tx: self._save(tx, _CHECKPOINT, new_task_ref=task_ref))

    async def put_off(self, delay: float, phase: str) -> None:
        """Lets the operation wait at the head of its queue for `delay` seconds."""
        await self._write(lambda tx: self._save(tx, _PUT_OFF, new_issued=self.issued, delay=delay, new_phase=phase))

    async def end(
        self,
        state: OperationState,
        effect: Callable[[Transaction], Awaitable[None]],
        *,
        code: str | None = None,
        message: str | None = None,
        provider_message: str | None = None,
    ) -> None:
        """Commits the end of the operation and what it does to snapshots, together."""

        async def work(tx: Transaction) -> None:
            await tx.first(LOCK_MACHINE, machine_id=self.row.machine_id)
            await self._save(
                tx,
                _END,
                new_state=state,
                at=now(),
                well=state is OperationState.SUCCEEDED,
                code=code,
                message=message,
                provider_message=provider_message[:_PROVIDER_MESSAGE] if provider_message else None,
            )
            await effect(tx)

        await self._write(work)

    # ---- writes that may fail: the next one says the same and more. These raise LeaseLost alone.

    async def beat(self, lease: float) -> None:
        """Keeps the claim for `lease` seconds more. Raises what the database raises."""
        values = {"lease": lease, "new_percent": self.percent, "new_phase": self.phase}
        await self._database.write(lambda tx: self._save(tx, _BEAT, **values))

    async def show(self) -> None:
        """Shows how far the work is. Raises what the database raises."""
        values = {"new_percent": self.percent, "new_phase": self.phase}
        await self._database.write(lambda tx: self._save(tx, _SHOW, **values))

    async def _write(self, work: Work[None]) -> None:
        try:
            await self._database.write(work)
        except LeaseLost:
            raise
        except Exception as error:
            self.lost = True
            raise Interrupted from error

    async def _save(self, tx: Transaction, statement: Statement, **values: Any) -> None:
        row = await tx.first(
            statement, operation_id=self.row.id, my_fence=self.row.fence, my_owner=self._owner, **values
        )
        if row is None:
            self.lost = True
            raise LeaseLost
        self.cancel_wanted = self.cancel_wanted or row.cancel_requested_at is not None


async def claim(database: Database, owner: str, *, slots: int, providers: Sequence[str], lease: float) -> list[Claim]:
    """Claims at most `slots` operations, oldest first, of these providers or in need of none."""

    async def work(tx: Transaction) -> list[Any]:
        rows = await tx.all(_CLAIM, new_owner=owner, slots=slots, providers=providers, lease=lease, at=now())
        return await tx.all(_CLAIMED, ids=[row.id for row in rows]) if rows else []

    return [Claim(database, owner, row) for row in await database.write(work)]


async def release(database: Database, owner: str) -> None:
    """Lets go of everything that `owner` still holds, so that another process need not wait for the leases."""
    await database.write(lambda tx: tx.run(_RELEASE, my_owner=owner))


async def cancel_wishes(database: Database, owner: str) -> set[int]:
    """The operations of `owner` that somebody wishes to stop."""
    rows = await database.read(lambda tx: tx.all(_CANCEL_WISHES, my_owner=owner), single=True)
    return {row.id for row in rows}
