"""One attempt to execute a claimed operation, and what every kind of operation defines.

The path after a crash is the same as the first attempt: if an earlier attempt may have called the driver, the driver's
`recover` is called before the command is repeated.
"""

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from gateway.drivers.base import (
    Canceled,
    Driver,
    DriverCommand,
    RecoverableCommand,
    Recovery,
    ReportedSnapshot,
    RevertCommand,
    Work,
)
from gateway.errors import OutcomeUnknown, ProviderError, ProviderMissing, ProviderUnavailable
from gateway.models import SnapshotAction
from gateway.operations.claims import Claim, LeaseLost
from gateway.operations.effects import restore_state
from gateway.operations.leases import ClaimedOperation
from gateway.store.database import Transaction

log = logging.getLogger(__name__)

Effect = Callable[[Transaction], Awaitable[None]]

_PROGRESS_INTERVAL = 0.25  # seconds between two writes of progress


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt to execute the operation of `claim`. `refresh` refreshes a machine by its id."""

    claim: Claim
    drivers: Mapping[str, Driver]
    refresh: Callable[[int], Awaitable[None]]

    @property
    def row(self) -> ClaimedOperation:
        return self.claim.row

    @property
    def driver(self) -> Driver:
        """The driver of the machine's provider."""
        return self.drivers[self.row.provider]

    @property
    def has_tree(self) -> bool:
        """Whether the provider's snapshots have parents, and the machine a current one."""
        return self.driver.matrix(self.row.machine_kind).tree

    @property
    def snapshot_id(self) -> int:
        """The snapshot of an operation that is not a refresh."""
        assert self.row.snapshot_id is not None
        return self.row.snapshot_id

    async def send(self, command: DriverCommand) -> ReportedSnapshot | None:
        """Has the provider execute the command, once. Returns the snapshot that it created, if any."""
        claim, driver = self.claim, self.driver

        async def checkpoint(task_ref: str) -> None:
            await claim.checkpoint(task_ref)
            work.task_ref = task_ref  # recovery may follow in this attempt

        work = Work(claim.row.token, claim.row.task_ref, checkpoint, _Progress(claim), lambda: claim.cancel_requested)
        if not isinstance(command, RecoverableCommand):
            await self._send_idempotent(work, command)
            return None
        if claim.dispatched:
            found = await driver.recover(work, command)
            if found is not Recovery.NOT_STARTED:
                return _created(found)
            if claim.cancel_requested:
                raise Canceled
            work.task_ref = None
        await claim.mark_dispatched()
        try:
            return await driver.run(work, command)
        except ProviderUnavailable:
            claim.dispatched = False  # the command had no effect
            raise
        except OutcomeUnknown:
            found = await driver.recover(work, command)
            if found is not Recovery.NOT_STARTED:
                return _created(found)
            if isinstance(command, RevertCommand):  # a revert is never repeated after an unknown outcome
                raise
            claim.dispatched = False
            raise ProviderUnavailable("The provider did not start the command.") from None

    async def _send_idempotent(self, work: Work, command: DriverCommand) -> None:
        """Sends a command that has the same effect when it is repeated, so that it needs no recovery."""
        was_dispatched = self.claim.dispatched
        await self.claim.mark_dispatched()
        try:
            await self.driver.run(work, command)
        except ProviderUnavailable:
            self.claim.dispatched = was_dispatched  # this attempt had no effect
            raise
        except OutcomeUnknown as error:
            raise ProviderUnavailable(error.message, provider_message=error.provider_message) from error
        except ProviderMissing:
            raise  # also if an earlier attempt had an effect, which is gone
        except ProviderError as error:
            if not was_dispatched:
                raise
            message = f"An earlier attempt may have taken effect. The last one failed: {error.message}"
            raise OutcomeUnknown(message, provider_message=error.provider_message) from error


class OperationType(ABC):
    """How operations of one kind are executed. `gateway.operations.operation_kinds` lists them."""

    # A caller with a right for any one of these actions may request such an operation, and may cancel it even if
    # another caller requested it.
    actions: ClassVar[tuple[SnapshotAction, ...]]
    # Whether more of the machine may have changed than `run` records, so that it has to be refreshed afterwards.
    changes_machine: ClassVar[bool] = False

    @abstractmethod
    async def run(self, attempt: Attempt) -> Effect:
        """Executes the operation at the provider. Returns what its success changes in the inventory.

        The effect runs in the transaction that records the end of the operation, with the machine's row locked. An
        error of the provider, or Canceled, ends or reschedules the operation.
        """

    async def on_failure(self, tx: Transaction, row: ClaimedOperation) -> None:
        """Changes the inventory when the operation has failed. By default, gives the snapshot its state back."""
        await restore_state(tx, row.snapshot_id, row.payload)

    async def on_cancel(self, tx: Transaction, snapshot_id: int | None, payload: str) -> None:
        """Undoes what acceptance changed in the inventory. By default, gives the snapshot its state back."""
        await restore_state(tx, snapshot_id, payload)


class _Progress:
    """Commits progress at most every 0.25 s. The next commit or heartbeat includes what was reported in between."""

    def __init__(self, claim: Claim) -> None:
        self._claim = claim
        self._committed: tuple[int | None, str | None] = (None, None)
        self._last = -_PROGRESS_INTERVAL

    async def __call__(self, percent: int | None, phase: str | None) -> None:
        claim = self._claim
        claim.set_progress(percent, phase)  # a provider may report anything, also after its clock was changed
        progress = (claim.percent, claim.phase)
        if progress == self._committed or time.monotonic() - self._last < _PROGRESS_INTERVAL:
            return
        self._committed, self._last = progress, time.monotonic()
        try:
            await claim.report_progress()
        except LeaseLost:
            raise
        except Exception:
            log.warning("Progress could not be recorded operation=operation-%d", claim.row.id, exc_info=True)


def _created(found: ReportedSnapshot | Recovery) -> ReportedSnapshot | None:
    return found if isinstance(found, ReportedSnapshot) else None
