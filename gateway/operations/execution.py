"""One claimed operation, from the claim to its end: calls the driver, and turns what it says into rows.

After a crash this is the same path: a claim whose driver had been called asks the driver first what became of that.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

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

_LONGEST_WAIT = 60.0  # seconds between tries
_BETWEEN_SHOWS = 0.25  # seconds between progress that is shown


@dataclass(frozen=True, slots=True)
class Execution:
    """How this process runs operations. `refresh` reads a machine again; `first_wait` is in seconds and doubles."""

    drivers: Mapping[str, Driver]
    settings: Settings
    refresh: Callable[[int], Awaitable[None]]
    first_wait: float = 1.0

    async def run(self, claim: Claim) -> None:
        """Works until the operation has ended or has to wait. Raises LeaseLost and Interrupted."""
        watchdog = asyncio.timeout(max(self._time_left(claim), self.settings.operation_lease))
        try:
            async with watchdog:
                effect = await self._attempt(claim)
        except Exception as error:
            if claim.lost:  # whatever the driver made of that
                raise LeaseLost from error
            if isinstance(error, Unavailable | Unconfirmed):
                claim.lost = True  # it is the gateway's own database: nothing is known of the provider
                raise Interrupted from error
            await self._end_badly(claim, error, timed_out=watchdog.expired())
        else:
            await claim.end(OperationState.SUCCEEDED, effect)

    async def _attempt(self, claim: Claim) -> Effect:
        """What the success of the operation does to snapshots."""
        row = claim.row
        if claim.cancel_wanted and not claim.issued:
            raise Canceled
        if row.kind is OperationKind.REFRESH_MACHINE:
            await self.refresh(row.machine_id)  # changes nothing on the provider, so it may simply be done again
            return _nothing
        wish = claim.wish or await self._resolved(claim)
        match wish:
            case CreateCommand():
                driver = self.drivers[row.provider]
                seen = await self._call(driver, claim, wish)
                if not isinstance(seen, ReportedSnapshot):
                    raise OutcomeUnknown("the provider says that it is done, but not what it made")
                tree = driver.matrix(row.machine_kind).tree
                return lambda tx: effects.created(tx, row, seen, tree)
            case RevertCommand():
                driver = self.drivers[row.provider]
                await self._call(driver, claim, wish)
                tree = driver.matrix(row.machine_kind).tree
                return lambda tx: effects.reverted(tx, row, tree)
            case DeleteCommand():
                try:
                    await self._call(self.drivers[row.provider], claim, wish)
                except ProviderMissing:
                    log.info("operation-%d: the snapshot was gone already", row.id)
        if wish is None and row.kind is OperationKind.REVERT_VM_SNAPSHOT:
            raise ProviderMissing("the snapshot is no longer there")
        return lambda tx: effects.deleted(tx, row)

    async def _resolved(self, claim: Claim) -> DriverCommand | None:
        """What is to be deleted on the provider after all, of a create whose outcome nobody knows."""
        row = claim.row
        if (doubt := await claim.doubt()) is None:
            return None
        token, task_ref, wish = doubt
        try:
            seen = await self.drivers[row.provider].recover(Work(token, task_ref), wish)
        except (ProviderMissing, ProviderRefused):
            return None
        return DeleteCommand(row.machine_ref, seen.ref) if isinstance(seen, ReportedSnapshot) else None

    async def _call(self, driver: Driver, claim: Claim, wish: DriverCommand) -> ReportedSnapshot | Recovery:
        async def checkpoint(task_ref: str) -> None:
            await claim.checkpoint(task_ref)
            work.task_ref = task_ref  # recovery may follow in this very attempt

        work = Work(claim.row.token, claim.row.task_ref, checkpoint, _Progress(claim), lambda: claim.cancel_wanted)
        if claim.issued:
            found = await driver.recover(work, wish)
            if found is not Recovery.NOT_BEGUN:
                return found
            if claim.cancel_wanted:
                raise Canceled
            work.task_ref = None
        await claim.issue()
        try:
            return await _dispatch(driver, work, wish)
        except ProviderUnavailable:
            claim.issued = False  # nothing was begun
            raise
        except OutcomeUnknown:
            found = await driver.recover(work, wish)
            if found is not Recovery.NOT_BEGUN:
                return found
            if isinstance(wish, RevertCommand):  # never twice while there is a doubt
                raise
            claim.issued = False
            raise ProviderUnavailable("the provider has not taken the work up") from None

    # ---- ends other than success

    async def _end_badly(self, claim: Claim, error: Exception, *, timed_out: bool) -> None:
        match error:
            case Canceled():
                await claim.end(OperationState.CANCELED, lambda tx: effects.undo(tx, claim.row))
            case ProviderUnavailable():
                await self._reschedule(claim, error)
            case GatewayError():
                await self._fail(claim, error)
            case TimeoutError() if timed_out:
                hours = f"{self.settings.operation_deadline:g} seconds"
                await self._fail(claim, OutcomeUnknown(f"the provider has not said in {hours} how it ended"))
            case _:
                log.error("operation-%d failed unexpectedly", claim.row.id, exc_info=error)
                await self._fail(
                    claim, GatewayError("the gateway made a mistake; look at the machine before you ask again")
                )

    async def _fail(self, claim: Claim, error: GatewayError) -> None:
        words = error.provider_message if isinstance(error, ProviderError) else None
        await claim.end(
            OperationState.FAILED,
            lambda tx: effects.failed(tx, claim.row),
            code=error.code,
            message=error.message,
            provider_message=words,
        )

    async def _reschedule(self, claim: Claim, error: ProviderUnavailable) -> None:
        delay = min(_LONGEST_WAIT, self.first_wait * 2 ** min(claim.row.attempt - 1, 16))
        delay *= random.uniform(0.5, 1.0)  # noqa: S311 - so that not all come back at once
        if delay < self._time_left(claim):
            await claim.reschedule(delay, f"Waiting: {error.message}")
        elif claim.issued:  # it could not even be asked what became of it
            await self._fail(claim, OutcomeUnknown(error.message, provider_message=error.provider_message))
        else:
            await self._fail(claim, error)

    def _time_left(self, claim: Claim) -> float:
        elapsed: float = (now() - claim.row.started_at).total_seconds()
        return self.settings.operation_deadline - elapsed


class _Progress:
    """Shows changes of progress, not too often. What is left out comes with the next one or the next heartbeat."""

    def __init__(self, claim: Claim) -> None:
        self._claim = claim
        self._shown: tuple[int | None, str | None] = (None, None)
        self._last = -_BETWEEN_SHOWS

    async def __call__(self, percent: int | None, phase: str | None) -> None:
        claim = self._claim
        claim.percent, claim.phase = percent, phase
        if (percent, phase) == self._shown or time.monotonic() - self._last < _BETWEEN_SHOWS:
            return
        self._shown, self._last = (percent, phase), time.monotonic()
        try:
            await claim.show()
        except LeaseLost:
            raise
        except Exception:
            log.warning("operation-%d: progress could not be shown", claim.row.id, exc_info=True)


async def _dispatch(driver: Driver, work: Work, wish: DriverCommand) -> ReportedSnapshot | Recovery:
    match wish:
        case CreateCommand():
            return await driver.create(work, wish)
        case RevertCommand():
            await driver.revert(work, wish)
        case DeleteCommand():
            await driver.delete(work, wish)
    return Recovery.DONE


async def _nothing(_: Transaction) -> None:
    return None
