"""The worker of a process: claims operations, renews their leases, and releases them when it stops.

A restart has no code path of its own: the operations of a process that died are claimed like any other when their
leases have expired.

The claim loop is no periodic job (`gateway.jobs`), because an accepted operation must not wait: `wake` starts the
claim, and `poll` only finds what other processes have accepted or left.
"""

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from uuid import uuid4

from gateway.config import Settings
from gateway.drivers.base import Driver
from gateway.errors import Unavailable, Unconfirmed
from gateway.models import OperationState
from gateway.operations.claims import Claim, Interrupted, LeaseLost, cancel_requests, claim, release
from gateway.operations.execution import Execution
from gateway.operations.operation_kinds import OPERATION_TYPES
from gateway.store.database import Database
from gateway.store.retry import Backoff

log = logging.getLogger(__name__)

OPERATION: ContextVar[str] = ContextVar("OPERATION", default="-")  # the operation that the task runs, for log records

_SHUTDOWN_TIMEOUT = 2.0  # seconds for canceled operations to end, and then for the database to release the claims
_CLAIM_INTERVAL = 0.05  # minimum seconds between claims while most slots are taken, so that one claim fills several
_CANCEL_CHECK_INTERVAL = 0.05  # minimum seconds between reads of cancel requests: every new operation wakes the worker


class Worker:
    """Claims and runs operations from `start` to `stop`.

    `refresh` refreshes a machine by its id. `limits` is the maximum number of running operations in this process per
    provider with a limit of its own; all other providers share the setting `operation_slots`. `on_machine_changed` is
    called with a provider and a machine's ref when more may have changed there than the operation has recorded.
    `context` is entered around each operation. `poll` and `first_retry_delay` are in seconds.
    """

    def __init__(
        self,
        database: Database,
        drivers: Mapping[str, Driver],
        settings: Settings,
        refresh: Callable[[int], Awaitable[None]],
        *,
        limits: Mapping[str, int] | None = None,
        on_machine_changed: Callable[[str, str], None] = lambda _provider, _ref: None,
        context: Callable[[Claim], AbstractContextManager[None]] = lambda _claim: contextlib.nullcontext(),
        name: str | None = None,
        poll: float = 0.5,
        first_retry_delay: float = 1.0,
    ) -> None:
        self.name = name or f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
        self._database = database
        self._drivers = drivers
        self._limits = limits or {}
        self._on_machine_changed = on_machine_changed
        self._context = context
        self._settings = settings
        self._execution = Execution(drivers, settings, refresh, first_retry_delay)
        self._poll = poll
        self._woken = asyncio.Event()
        self._stopping = False
        self.worked_at = time.monotonic()
        self._next_claim = self._next_cancel_check = 0.0  # of time.monotonic()
        self._jobs: dict[asyncio.Task[None], Claim] = {}

    async def start(self) -> None:
        """Starts claiming. A stopped worker cannot be started again."""
        self._claimer = asyncio.create_task(self._claim_loop(), name="claim")

    @property
    def ended(self) -> bool:
        """Whether the claim loop has ended."""
        return self._claimer.done()

    @property
    def running(self) -> int:
        """Number of operations that it runs."""
        return len(self._jobs)

    def wake(self) -> None:
        """Makes the worker look for new operations and cancel requests now."""
        self._woken.set()

    async def stop(self) -> None:
        """Stops claiming, waits up to the setting `drain_timeout` for running operations, and releases the rest.

        Other workers can claim the released operations at once.
        """
        self._stopping = True
        self.wake()
        running = [self._claimer, *self._jobs]
        await asyncio.wait(running, timeout=self._settings.drain_timeout)
        running = [self._claimer, *self._jobs]
        for task in running:
            task.cancel()
        await asyncio.wait(running, timeout=_SHUTDOWN_TIMEOUT)
        try:
            async with asyncio.timeout(_SHUTDOWN_TIMEOUT):
                await release(self._database, self.name)
        except Exception as error:  # noqa: BLE001 - no error may keep the process from ending
            log.warning("Leases could not be released and will expire error=%r", error)

    async def _claim_loop(self) -> None:
        backoff = Backoff(self._poll)
        while not self._stopping:
            self._woken.clear()
            pause = self._poll
            try:
                pause = min(await self._claim(), await self._check_cancel_requests())
                self.worked_at = time.monotonic()
                backoff.reset()
            except Unavailable as error:
                self.worked_at = time.monotonic()  # the loop works; the database is unavailable
                pause = backoff.next()
                log.info("Operations could not be claimed: the database is unavailable error=%s", error.message)
            except Exception:
                pause = backoff.next()
                log.exception("Operations could not be claimed; retrying in %.1f s", pause)
            # Not wait_for: before Python 3.12 it can swallow the cancellation of `stop`.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._woken.wait()

    async def _claim(self) -> float:
        """Claims, unless most slots are taken and the last claim was just made. Returns seconds until the next look."""
        is_busy = 2 * len(self._jobs) > self._settings.operation_slots + sum(self._limits.values())
        if is_busy and (early := self._next_claim - time.monotonic()) > 0:
            return min(early, self._poll)
        self._next_claim = time.monotonic() + _CLAIM_INTERVAL
        for providers, slots in self._free_slots():
            if slots <= 0 or self._stopping:
                continue
            claims = await claim(
                self._database,
                self.name,
                slots=slots,
                providers=providers,
                kinds=OPERATION_TYPES,
                lease=self._settings.operation_lease,
            )
            for claimed in claims if not self._stopping else []:  # `stop` releases the others
                job = asyncio.create_task(self._run(claimed), name=f"operation-{claimed.row.id}")
                self._jobs[job] = claimed
                job.add_done_callback(self._done)
        return self._poll

    def _free_slots(self) -> list[tuple[list[str], int]]:
        """Groups of providers, each with its number of free slots. One statement claims for one group.

        A provider with a limit is a group of its own, so when it hangs it occupies no slot of another provider.
        """
        running = Counter(claimed.row.provider for claimed in self._jobs.values())
        limited = [([name], limit - running.pop(name, 0)) for name, limit in self._limits.items()]
        others = [name for name in self._drivers if name not in self._limits]
        return [(others, self._settings.operation_slots - running.total()), *limited]

    async def _check_cancel_requests(self) -> float:
        """Reads the cancel requests, unless it has just done so. Returns seconds until the next look."""
        if all(claimed.cancel_requested for claimed in self._jobs.values()):
            return self._poll
        if (early := self._next_cancel_check - time.monotonic()) > 0:
            return min(early, self._poll)
        requested = await cancel_requests(self._database, self.name)
        self._next_cancel_check = time.monotonic() + _CANCEL_CHECK_INTERVAL
        for claimed in self._jobs.values():
            claimed.cancel_requested = claimed.cancel_requested or claimed.row.id in requested
        return self._poll

    async def _run(self, claimed: Claim) -> None:
        job = asyncio.current_task()
        assert job is not None
        OPERATION.set(f"operation-{claimed.row.id}")
        heartbeat = asyncio.create_task(self._heartbeat_loop(claimed, job))
        try:
            with self._context(claimed):
                await self._execution.run(claimed)
        except LeaseLost:
            log.warning("Lost the lease to another worker operation=operation-%d", claimed.row.id)
        except Interrupted as error:
            cause = error.__cause__
            is_expected = isinstance(cause, Unavailable | Unconfirmed)
            log.warning(
                "Operation could not be recorded and will be claimed again operation=operation-%d error=%s",
                claimed.row.id,
                cause,
                exc_info=None if is_expected else cause,
            )
        finally:
            heartbeat.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await heartbeat

    def _done(self, job: asyncio.Task[None]) -> None:
        claimed = self._jobs.pop(job)
        if OPERATION_TYPES[claimed.row.kind].changes_machine or claimed.final_state is not OperationState.SUCCEEDED:
            self._on_machine_changed(claimed.row.provider, claimed.row.machine_ref)
        if not job.cancelled() and (error := job.exception()) is not None:
            log.error(
                "Operation was abandoned by an unexpected error operation=operation-%d", claimed.row.id, exc_info=error
            )
        self.wake()

    async def _heartbeat_loop(self, claimed: Claim, job: asyncio.Task[None]) -> None:
        """Renews the lease. Cancels `job` when the lease is lost, or was not renewed for its whole duration."""
        lease = self._settings.operation_lease
        renewed_at = time.monotonic()
        while time.monotonic() - renewed_at < lease:
            await asyncio.sleep(lease / 3)
            sent_at = time.monotonic()
            try:
                async with asyncio.timeout(renewed_at + lease - sent_at):  # then another worker may claim it
                    await claimed.heartbeat(lease)
                renewed_at = sent_at
            except LeaseLost:
                break
            except Exception as error:  # noqa: BLE001 - there may be time for another attempt
                log.warning("Lease could not be renewed operation=operation-%d error=%r", claimed.row.id, error)
        claimed.lost = True
        job.cancel()
