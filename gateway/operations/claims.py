"""Taking operations to work on, and writing about them while they are ours.

One statement claims the heads of the queues that this process can serve: what waits, and what another worker has
left. Every later write carries the claim's fence, so that a worker that was frozen past its lease writes nothing.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import orjson

from gateway.columns import now
from gateway.drivers.base import CreateCommand, DeleteCommand, DriverCommand, RevertCommand
from gateway.models import OperationKind, OperationState
from gateway.operations import leases
from gateway.operations.statements import LOCK_MACHINE
from gateway.store.database import Database, Transaction, Work
from gateway.store.statements import Statement

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
        self.ended_as: OperationState | None = None

    @property
    def wish(self) -> DriverCommand | None:
        """What the driver is asked for; None for what needs no driver."""
        row = self.row
        match row.kind:
            case OperationKind.CREATE_SNAPSHOT:
                return self._create(row.wish)
            case OperationKind.REVERT_VM_SNAPSHOT if row.snapshot_ref is not None:
                return RevertCommand(row.machine_ref, row.snapshot_ref)
            case OperationKind.DELETE_SNAPSHOT if row.snapshot_ref is not None:
                return DeleteCommand(row.machine_ref, row.snapshot_ref)
        return None

    async def doubt(self) -> tuple[str, str | None, CreateCommand] | None:
        """Token, task and wish of the create whose snapshot is to be deleted, when nobody knows what came of it."""
        if self.row.kind is not OperationKind.DELETE_SNAPSHOT:
            return None
        snapshot_id = self.row.snapshot_id
        create = await self._database.read(lambda tx: tx.first(leases.DOUBT, snapshot_id=snapshot_id), single=True)
        return (create.token, create.task_ref, self._create(create.wish)) if create is not None else None

    def _create(self, wish: str) -> CreateCommand:
        return CreateCommand(machine_ref=self.row.machine_ref, **orjson.loads(wish))

    # ---- fenced writes. All raise LeaseLost and Interrupted.

    async def issue(self) -> None:
        """Commits that the driver is about to be called."""
        await self._write(lambda tx: self._save(tx, leases.ISSUE))
        self.issued = True
        self.percent = self.phase = None

    async def checkpoint(self, task_ref: str) -> None:
        """Commits the provider's own task."""
        await self._write(lambda tx: self._save(tx, leases.CHECKPOINT, new_task_ref=task_ref))

    async def reschedule(self, delay: float, phase: str) -> None:
        """Lets the operation wait at the head of its queue for `delay` seconds."""
        await self._write(
            lambda tx: self._save(tx, leases.PUT_OFF, new_issued=self.issued, delay=delay, new_phase=phase)
        )

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
                leases.END,
                new_state=state,
                at=now(),
                well=state is OperationState.SUCCEEDED,
                code=code,
                message=message,
                provider_message=provider_message[:_PROVIDER_MESSAGE] if provider_message else None,
            )
            await effect(tx)

        await self._write(work)
        self.ended_as = state

    # ---- writes that may fail: the next one says the same and more. These raise LeaseLost alone.

    async def beat(self, lease: float) -> None:
        """Keeps the claim for `lease` seconds more. Raises what the database raises."""
        values = {"lease": lease, "new_percent": self.percent, "new_phase": self.phase}
        await self._database.write(lambda tx: self._save(tx, leases.BEAT, **values))

    async def show(self) -> None:
        """Shows how far the work is. Raises what the database raises."""
        values = {"new_percent": self.percent, "new_phase": self.phase}
        await self._database.write(lambda tx: self._save(tx, leases.SHOW, **values))

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
        rows = await tx.all(leases.CLAIM, new_owner=owner, slots=slots, providers=providers, lease=lease, at=now())
        return await tx.all(leases.CLAIMED, ids=[row.id for row in rows]) if rows else []

    return [Claim(database, owner, row) for row in await database.write(work)]


async def release(database: Database, owner: str) -> None:
    """Lets go of everything that `owner` still holds, so that another process need not wait for the leases."""
    await database.write(lambda tx: tx.run(leases.RELEASE, my_owner=owner))


async def cancel_requests(database: Database, owner: str) -> set[int]:
    """The operations of `owner` that somebody wishes to stop."""
    rows = await database.read(lambda tx: tx.all(leases.CANCEL_WISHES, my_owner=owner), single=True)
    return {row.id for row in rows}
