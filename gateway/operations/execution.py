"""Runs one claimed operation to its end: calls the driver and records the outcome.

The path after a crash is the same: if an earlier attempt may have called the driver, the driver's `recover` is called
before the command is repeated.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import assert_never

from gateway.columns import now
from gateway.config import Settings
from gateway.drivers.base import (
    Canceled,
    CreateCommand,
    DeleteCommand,
    Driver,
    DriverCommand,
    Recovery,
    ReportedSnapshot,
    RevertCommand,
    Work,
)
from gateway.errors import (
    GatewayError,
    OutcomeUnknown,
    ProviderError,
    ProviderMissing,
    ProviderRefused,
    ProviderUnavailable,
    Unavailable,
    Unconfirmed,
)
from gateway.models import OperationKind, OperationState
from gateway.operations import effects
from gateway.operations.claims import Claim, Interrupted, LeaseLost
from gateway.store.database import Transaction

log = logging.getLogger(__name__)

Effect = Callable[[Transaction], Awaitable[None]]

_MAX_RETRY_DELAY = 60.0  # seconds
_PROGRESS_INTERVAL = 0.25  # seconds between two writes of progress


@dataclass(frozen=True, slots=True)
class Execution:
    """Runs claimed operations in this process.

    `refresh` refreshes a machine by its id. `first_retry_delay` is in seconds; it doubles with every
    attempt, up to 60 s.
    """

    drivers: Mapping[str, Driver]
    settings: Settings
    refresh: Callable[[int], Awaitable[None]]
    first_retry_delay: float = 1.0

    async def run(self, claim: Claim) -> None:
        """Runs until the operation has ended or is rescheduled. Raises LeaseLost and Interrupted."""
        watchdog = asyncio.timeout(max(self._time_left(claim), self.settings.operation_lease))
        try:
            async with watchdog:
                effect = await self._attempt(claim)
        except Exception as error:
            if claim.lost:  # the error may be a consequence of that
                raise LeaseLost from error
            if isinstance(error, Unavailable | Unconfirmed):
                claim.lost = True  # raised by the gateway's database, so the outcome on the provider is not known
                raise Interrupted from error
            await self._end_unsuccessfully(claim, error, timed_out=watchdog.expired())
        else:
            await claim.end(OperationState.SUCCEEDED, effect)

    async def _attempt(self, claim: Claim) -> Effect:
        """Runs the command and returns the effect of its success on snapshots."""
        row = claim.row
        if claim.cancel_requested and not claim.dispatched:
            raise Canceled
        match row.kind:
            case OperationKind.CREATE_SNAPSHOT:
                return await self._create(claim)
            case OperationKind.REVERT_VM_SNAPSHOT:
                return await self._revert(claim)
            case OperationKind.DELETE_SNAPSHOT:
                return await self._delete(claim)
            case OperationKind.REFRESH_MACHINE:
                # Changes nothing on the provider, so it can be repeated without recovery.
                await self.refresh(row.machine_id)
                return _no_effect
            case _:
                assert_never(row.kind)

    async def _create(self, claim: Claim) -> Effect:
        row, snapshot_id = claim.row, _snapshot_id(claim)
        driver = self.drivers[row.provider]
        reported = await self._call(driver, claim, claim.create_command(row.payload))
        if not isinstance(reported, ReportedSnapshot):
            raise OutcomeUnknown("The provider reported the create as done, but not which snapshot it created.")
        tree = driver.matrix(row.machine_kind).tree
        return lambda tx: effects.apply_create(tx, row.machine_id, snapshot_id, reported, tree)

    async def _revert(self, claim: Claim) -> Effect:
        row, snapshot_id = claim.row, _snapshot_id(claim)
        if row.snapshot_ref is None:
            raise ProviderMissing("The snapshot no longer exists.")
        driver = self.drivers[row.provider]
        await self._call(driver, claim, RevertCommand(row.machine_ref, row.snapshot_ref))
        tree = driver.matrix(row.machine_kind).tree
        return lambda tx: effects.apply_revert(tx, row.machine_id, snapshot_id, tree)

    async def _delete(self, claim: Claim) -> Effect:
        """Calls no driver if the snapshot is not on the provider."""
        row, snapshot_id = claim.row, _snapshot_id(claim)
        if row.snapshot_ref is not None:
            command: DeleteCommand | None = DeleteCommand(row.machine_ref, row.snapshot_ref)
        else:
            command = await self._resolve_create(claim)
        if command is not None:
            try:
                await self._call(self.drivers[row.provider], claim, command)
            except ProviderMissing:
                log.info("Snapshot did not exist on the provider operation=operation-%d", row.id)
        return lambda tx: effects.apply_delete(tx, snapshot_id)

    async def _resolve_create(self, claim: Claim) -> DeleteCommand | None:
        """Command that deletes the snapshot of a create with an unknown outcome; None if the provider has none."""
        row = claim.row
        if (unresolved := await claim.unresolved_create()) is None:
            return None
        token, task_ref, command = unresolved
        try:
            found = await self.drivers[row.provider].recover(Work(token, task_ref), command)
        except (ProviderMissing, ProviderRefused):
            return None
        return DeleteCommand(row.machine_ref, found.ref) if isinstance(found, ReportedSnapshot) else None

    async def _call(self, driver: Driver, claim: Claim, command: DriverCommand) -> ReportedSnapshot | Recovery:
        async def checkpoint(task_ref: str) -> None:
            await claim.checkpoint(task_ref)
            work.task_ref = task_ref  # recovery may follow in this attempt

        work = Work(claim.row.token, claim.row.task_ref, checkpoint, _Progress(claim), lambda: claim.cancel_requested)
        if claim.dispatched:
            found = await driver.recover(work, command)
            if found is not Recovery.NOT_STARTED:
                return found
            if claim.cancel_requested:
                raise Canceled
            work.task_ref = None
        await claim.mark_dispatched()
        try:
            return await _dispatch(driver, work, command)
        except ProviderUnavailable:
            claim.dispatched = False  # the command had no effect
            raise
        except OutcomeUnknown:
            found = await driver.recover(work, command)
            if found is not Recovery.NOT_STARTED:
                return found
            if isinstance(command, RevertCommand):  # a revert is never repeated after an unknown outcome
                raise
            claim.dispatched = False
            raise ProviderUnavailable("The provider did not start the command.") from None

    # ---- failure, cancellation and retry

    async def _end_unsuccessfully(self, claim: Claim, error: Exception, *, timed_out: bool) -> None:
        row = claim.row
        match error:
            case Canceled():
                await claim.end(
                    OperationState.CANCELED, lambda tx: effects.undo(tx, row.kind, row.snapshot_id, row.payload)
                )
            case ProviderUnavailable():
                await self._reschedule(claim, error)
            case GatewayError():
                await self._fail(claim, error)
            case TimeoutError() if timed_out:
                deadline = f"{self.settings.operation_deadline:g} seconds"
                await self._fail(claim, OutcomeUnknown(f"The provider did not report the outcome within {deadline}."))
            case _:
                log.error("Operation failed with an unexpected error operation=operation-%d", row.id, exc_info=error)
                await self._fail(
                    claim,
                    GatewayError(
                        "Internal error. The operation may have taken effect; check the machine before retrying."
                    ),
                )

    async def _fail(self, claim: Claim, error: GatewayError) -> None:
        row = claim.row
        provider_message = error.provider_message if isinstance(error, ProviderError) else None
        await claim.end(
            OperationState.FAILED,
            lambda tx: effects.apply_failure(tx, row.kind, row.snapshot_id, row.payload),
            code=error.code,
            message=error.message,
            provider_message=provider_message,
        )

    async def _reschedule(self, claim: Claim, error: ProviderUnavailable) -> None:
        delay: float = min(_MAX_RETRY_DELAY, self.first_retry_delay * 2 ** min(claim.row.attempt - 1, 16))
        delay *= random.uniform(0.5, 1.0)  # noqa: S311 - spreads the retries of many operations over time
        if delay < self._time_left(claim):
            await claim.reschedule(delay, f"Waiting: {error.message}")
        elif claim.dispatched:  # the provider could not be asked for the outcome either
            await self._fail(claim, OutcomeUnknown(error.message, provider_message=error.provider_message))
        else:
            await self._fail(claim, error)

    def _time_left(self, claim: Claim) -> float:
        started_at = claim.row.started_at
        assert started_at is not None  # set by the claim
        return self.settings.operation_deadline - (now() - started_at).total_seconds()


class _Progress:
    """Commits progress at most every 0.25 s. The next commit or heartbeat includes what was reported in between."""

    def __init__(self, claim: Claim) -> None:
        self._claim = claim
        self._committed: tuple[int | None, str | None] = (None, None)
        self._last = -_PROGRESS_INTERVAL

    async def __call__(self, percent: int | None, phase: str | None) -> None:
        claim = self._claim
        claim.percent, claim.phase = percent, phase
        if (percent, phase) == self._committed or time.monotonic() - self._last < _PROGRESS_INTERVAL:
            return
        self._committed, self._last = (percent, phase), time.monotonic()
        try:
            await claim.report_progress()
        except LeaseLost:
            raise
        except Exception:
            log.warning("Progress could not be recorded operation=operation-%d", claim.row.id, exc_info=True)


def _snapshot_id(claim: Claim) -> int:
    """The snapshot of an operation that is not a refresh."""
    assert claim.row.snapshot_id is not None
    return claim.row.snapshot_id


async def _dispatch(driver: Driver, work: Work, command: DriverCommand) -> ReportedSnapshot | Recovery:
    """Calls the driver; returns the created snapshot, or DONE for a revert or delete."""
    match command:
        case CreateCommand():
            return await driver.create(work, command)
        case RevertCommand():
            await driver.revert(work, command)
            return Recovery.DONE
        case DeleteCommand():
            await driver.delete(work, command)
            return Recovery.DONE
        case _:
            assert_never(command)


async def _no_effect(_: Transaction) -> None:
    return None
