"""Claims operations, and writes their progress and end while this process holds the claim.

One statement claims the first operation of each machine's queue that this process can serve: queued operations, and
those whose worker has let its lease expire. Every later write carries the claim's fence, so that a worker that was
stopped past its lease changes nothing. `gateway.operations.leases` describes the protocol.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence

from gateway.columns import now, storable
from gateway.errors import OutcomeUnknown
from gateway.models import MachineKind, OperationKind, OperationState
from gateway.operations import leases
from gateway.operations.ended_operation import EndedOperation
from gateway.operations.leases import ClaimedOperation, FencedWrite, UnresolvedCreate
from gateway.operations.statements import LOCK_MACHINE
from gateway.store.database import Database, Transaction, Work
from gateway.store.statements import Query

_MAX_PROVIDER_MESSAGE = 4_000  # characters; the rest of a provider's message is cut off
_MAX_MESSAGE, _MAX_PHASE = 1_000, 1_000  # characters; they may quote the provider
_MAX_TASK_REF = 65_536  # characters; a driver may keep a list of the provider's refs in it


class LeaseLost(Exception):
    """Another worker has claimed the operation, or it has ended or been released."""


class Interrupted(Exception):
    """The database did not confirm a write. The lease expires, and the next claim proceeds from what was committed."""


class Claim:
    """One claimed operation. `lost` is set when this process must not write to it any more.

    `percent` and `phase` are the last progress that the driver reported; `final_state` is set when `end` has committed.
    """

    def __init__(self, database: Database, owner: str, row: ClaimedOperation) -> None:
        self._database = database
        self._owner = owner
        self.row = row
        self.dispatched = row.dispatched
        self.cancel_requested = row.cancel_requested_at is not None
        self.percent: int | None = None
        self.phase: str | None = None
        self.lost = False
        self.final_state: OperationState | None = None

    async def unresolved_create(self) -> UnresolvedCreate | None:
        """The create of this operation's snapshot, if it ended as OUTCOME_UNKNOWN."""
        snapshot_id = self.row.snapshot_id
        return await self._database.read(
            lambda tx: tx.first(leases.UNRESOLVED_CREATE, snapshot_id=snapshot_id), single=True
        )

    # ---- fenced writes. They raise LeaseLost, and Interrupted when the database did not confirm them.

    async def mark_dispatched(self) -> None:
        """Commits that the driver is about to be called. From here on the next attempt recovers before it repeats."""
        await self._write(lambda tx: self._save(tx, leases.MARK_DISPATCHED))
        self.dispatched = True
        self.percent = self.phase = None

    async def checkpoint(self, task_ref: str) -> None:
        """Commits the reference of the provider's task, before the driver waits for it.

        Raises OutcomeUnknown for one that cannot be stored: the task exists.
        """
        if len(task_ref) > _MAX_TASK_REF or storable(task_ref, _MAX_TASK_REF) != task_ref:
            raise OutcomeUnknown("The provider's identifier of the task is not valid.")
        await self._write(lambda tx: self._save(tx, leases.CHECKPOINT, new_task_ref=task_ref))

    async def reschedule(self, delay: float, phase: str) -> None:
        """Gives the claim up for a retry in `delay` seconds. The operation stays at the head of its machine's queue."""
        values = {"new_dispatched": self.dispatched, "delay": delay, "new_phase": storable(phase, _MAX_PHASE)}
        await self._write(lambda tx: self._save(tx, leases.RESCHEDULE, **values))

    async def end(
        self,
        state: OperationState,
        effect: Callable[[Transaction], Awaitable[None]],
        *,
        code: str | None = None,
        message: str | None = None,
        provider_message: str | None = None,
    ) -> None:
        """Commits the end of the operation and its effect on snapshots in one transaction, and logs it."""
        row = self.row
        message = message and storable(message, _MAX_MESSAGE)
        provider_message = storable(provider_message, _MAX_PROVIDER_MESSAGE) if provider_message else None

        async def work(tx: Transaction) -> None:
            await tx.first(LOCK_MACHINE, machine_id=row.machine_id)
            await self._save(
                tx,
                leases.END,
                new_state=state,
                at=now(),
                succeeded=state is OperationState.SUCCEEDED,
                code=code,
                message=message,
                provider_message=provider_message,
            )
            await effect(tx)

        await self._write(work)
        self.final_state = state
        EndedOperation(
            id=row.id,
            kind=row.kind,
            state=state,
            machine_kind=row.machine_kind,
            machine_id=row.machine_id,
            snapshot_id=row.snapshot_id,
            requested_by=row.requested_by,
            started_at=row.started_at,
            code=code,
            message=message,
            provider_message=provider_message,
        ).log()

    def set_progress(self, percent: int | None, phase: str | None) -> None:
        """Sets what the next `report_progress` or `heartbeat` commits, from what a provider reports."""
        self.percent = None if percent is None else min(max(percent, 0), 100)
        self.phase = phase and storable(phase, _MAX_PHASE)

    # ---- fenced writes that may fail, because the next one repeats them. They raise LeaseLost, never Interrupted.

    async def heartbeat(self, lease: float) -> None:
        """Renews the lease for `lease` seconds from now. Raises the database's errors unchanged."""
        values = {"lease": lease, "new_percent": self.percent, "new_phase": self.phase}
        await self._database.write(lambda tx: self._save(tx, leases.HEARTBEAT, **values))

    async def report_progress(self) -> None:
        """Commits `percent` and `phase`. Raises the database's errors unchanged."""
        values = {"new_percent": self.percent, "new_phase": self.phase}
        await self._database.write(lambda tx: self._save(tx, leases.REPORT_PROGRESS, **values))

    async def _write(self, work: Work[None]) -> None:
        try:
            await self._database.write(work)
        except LeaseLost:
            raise
        except Exception as error:
            self.lost = True
            raise Interrupted from error

    async def _save(self, tx: Transaction, write: Query[FencedWrite], **values: object) -> None:
        row = await tx.first(write, operation_id=self.row.id, my_fence=self.row.fence, my_owner=self._owner, **values)
        if row is None:
            self.lost = True
            raise LeaseLost
        self.cancel_requested = self.cancel_requested or row.cancel_requested_at is not None


async def claim(
    database: Database,
    owner: str,
    *,
    slots: int,
    providers: Sequence[str],
    kinds: Iterable[OperationKind],
    lease: float,
) -> list[Claim]:
    """Claims up to `slots` operations of these kinds, of these providers or in need of no driver.

    Callers take turns: those with the fewest running operations come first, and of each caller the oldest.
    """

    async def work(tx: Transaction) -> list[ClaimedOperation]:
        rows = await tx.all(
            leases.CLAIM,
            new_owner=owner,
            slots=slots,
            providers=providers,
            kinds=list(kinds),
            machine_kinds=list(MachineKind),
            lease=lease,
            at=now(),
        )
        return await tx.all(leases.CLAIMED_OPERATIONS, ids=[row.id for row in rows]) if rows else []

    return [Claim(database, owner, row) for row in await database.write(work)]


async def release(database: Database, owner: str) -> None:
    """Releases all claims of `owner`, so that other workers need not wait until the leases expire."""
    await database.write(lambda tx: tx.run(leases.RELEASE, my_owner=owner))


async def cancel_requests(database: Database, owner: str) -> set[int]:
    """Ids of the running operations of `owner` whose cancellation was requested."""
    rows = await database.read(lambda tx: tx.all(leases.CANCEL_REQUESTS, my_owner=owner), single=True)
    return {row.id for row in rows}
