"""Runs one claimed operation to its end: executes it (`Attempt`) and records the outcome."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from gateway.columns import now
from gateway.config import Settings
from gateway.drivers.base import Canceled, Driver
from gateway.errors import (
    GatewayError,
    OutcomeUnknown,
    ProviderError,
    ProviderUnavailable,
    Unavailable,
    Unconfirmed,
)
from gateway.models import OperationState
from gateway.operations.attempt import Attempt, Effect
from gateway.operations.claims import Claim, Interrupted, LeaseLost
from gateway.operations.operation_kinds import OPERATION_TYPES

log = logging.getLogger(__name__)

_MAX_RETRY_DELAY = 60.0  # seconds


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
        """Runs the command and returns the effect of its success on the inventory."""
        if claim.cancel_requested and not claim.dispatched:
            raise Canceled
        return await OPERATION_TYPES[claim.row.kind].run(Attempt(claim, self.drivers, self.refresh))

    # ---- failure, cancellation and retry

    async def _end_unsuccessfully(self, claim: Claim, error: Exception, *, timed_out: bool) -> None:
        row = claim.row
        match error:
            case Canceled():
                type_ = OPERATION_TYPES[row.kind]
                await claim.end(OperationState.CANCELED, lambda tx: type_.on_cancel(tx, row.snapshot_id, row.payload))
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
            lambda tx: OPERATION_TYPES[row.kind].on_failure(tx, row),
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
        """Seconds until the deadline of the operation. At most the whole duration, also if the clock was set back."""
        started_at = claim.row.started_at
        assert started_at is not None  # set by the claim
        return self.settings.operation_deadline - max(0.0, (now() - started_at).total_seconds())
