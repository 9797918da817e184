"""The process's worker: claims what is due, keeps the claims alive, and lets go when it is told to stop.

A restart has no path of its own: what a dead process has left is claimed like anything else when its lease is over.
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
from gateway.models import OperationKind, OperationState
from gateway.operations.claims import Claim, Interrupted, LeaseLost, cancel_requests, claim, release
from gateway.operations.execution import Execution
from gateway.operations.housekeeping import sweep
from gateway.store.database import Database
from gateway.store.retry import Backoff

log = logging.getLogger(__name__)

OPERATION: ContextVar[str] = ContextVar("OPERATION", default="-")  # what a task works on, for the log

_SWEEP = 60.0  # seconds between rounds of housekeeping
_LET_GO = 2.0  # seconds that canceled work, and then the database, may take when the process ends
_GATHER = 0.05  # seconds in which what ends is replaced together, while most slots are taken
_LOOKS = 0.05  # seconds between looks for wishes to cancel: the worker is woken for every new operation


class Worker:
    """Runs operations while it is started. `refresh` reads one machine again; `poll` and `first_wait` are seconds.

    `limits`: how many operations of a provider may be under way here, for those that have a limit; all others share
    the settings' `operation_slots`. `look` is told a provider and a machine's ref when more may have changed there than
    the operation has recorded. `around` is entered for the work on each operation.
    """

    def __init__(
        self,
        database: Database,
        drivers: Mapping[str, Driver],
        settings: Settings,
        refresh: Callable[[int], Awaitable[None]],
        *,
        limits: Mapping[str, int] | None = None,
        look: Callable[[str, str], None] = lambda _provider, _ref: None,
        around: Callable[[Claim], AbstractContextManager[None]] = lambda _claim: contextlib.nullcontext(),
        name: str | None = None,
        poll: float = 0.5,
        first_wait: float = 1.0,
    ) -> None:
        self.name = name or f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
        self._database = database
        self._drivers = drivers
        self._limits = limits or {}
        self._look = look
        self._around = around
        self._settings = settings
        self._execution = Execution(drivers, settings, refresh, first_wait)
        self._poll = poll
        self._woken = asyncio.Event()
        self._stopping = False
        self.worked_at = time.monotonic()
        self._next_claim = self._next_look = 0.0  # of time.monotonic()
        self._jobs: dict[asyncio.Task[None], Claim] = {}

    async def start(self) -> None:
        """Starts to claim. A stopped worker is not started again."""
        self._claimer = asyncio.create_task(self._claim_forever(), name="claim")
        self._sweeper = asyncio.create_task(self._sweep_forever(), name="sweep")

    @property
    def ended(self) -> bool:
        """Whether it will claim nothing more, or clear nothing away."""
        return self._claimer.done() or self._sweeper.done()

    @property
    def running(self) -> int:
        """How many operations it works on."""
        return len(self._jobs)

    def wake(self) -> None:
        """There may be something to do: a new operation, or a wish to cancel one."""
        self._woken.set()

    async def stop(self) -> None:
        """Claims nothing more, waits a while for what runs, and leaves the rest for others to take over at once."""
        self._stopping = True
        self._sweeper.cancel()
        self.wake()
        running = [self._claimer, *self._jobs]
        await asyncio.wait(running, timeout=self._settings.drain_timeout)
        running = [self._sweeper, self._claimer, *self._jobs]
        for task in running:
            task.cancel()
        await asyncio.wait(running, timeout=_LET_GO)
        try:
            async with asyncio.timeout(_LET_GO):
                await release(self._database, self.name)
        except Exception as error:  # noqa: BLE001 - nothing may keep the process from ending
            log.warning("leases could not be released; they run out by themselves: %r", error)

    async def _claim_forever(self) -> None:
        backoff = Backoff(self._poll)
        while not self._stopping:
            self._woken.clear()
            pause = self._poll
            try:
                pause = min(await self._claim(), await self._see_wishes())
                self.worked_at = time.monotonic()
                backoff.reset()
            except Unavailable as error:
                self.worked_at = time.monotonic()  # it is the database that does not
                pause = backoff.next()
                log.info("operations cannot be claimed now: %s", error.message)
            except Exception:
                pause = backoff.next()
                log.exception("operations could not be claimed; trying again")
            # Not wait_for: before Python 3.12 it can swallow the cancellation of `stop`.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._woken.wait()

    async def _claim(self) -> float:
        """Claims, unless most slots are taken and it has just done so; the seconds until it has to look again."""
        most_are_taken = 2 * len(self._jobs) > self._settings.operation_slots + sum(self._limits.values())
        if most_are_taken and (early := self._next_claim - time.monotonic()) > 0:
            return min(early, self._poll)
        self._next_claim = time.monotonic() + _GATHER
        for providers, slots in self._shares():
            if slots <= 0 or self._stopping:
                continue
            claims = await claim(
                self._database, self.name, slots=slots, providers=providers, lease=self._settings.operation_lease
            )
            for claimed in claims if not self._stopping else []:  # `stop` releases the others
                job = asyncio.create_task(self._work(claimed), name=f"operation-{claimed.row.id}")
                self._jobs[job] = claimed
                job.add_done_callback(self._done)
        return self._poll

    def _shares(self) -> list[tuple[list[str], int]]:
        """Providers, and how many of their operations may begin here now. Each share is claimed by one statement.

        One with a limit has a share of its own: when it hangs it holds nothing that another could use.
        """
        running = Counter(claimed.row.provider for claimed in self._jobs.values())
        own = [([name], most - running.pop(name, 0)) for name, most in self._limits.items()]
        others = [name for name in self._drivers if name not in self._limits]
        return [(others, self._settings.operation_slots - running.total()), *own]

    async def _see_wishes(self) -> float:
        """Looks for wishes to cancel, unless it has just done so; the seconds until it has to look again."""
        if all(claimed.cancel_wanted for claimed in self._jobs.values()):
            return self._poll
        if (early := self._next_look - time.monotonic()) > 0:
            return min(early, self._poll)
        wishes = await cancel_requests(self._database, self.name)
        self._next_look = time.monotonic() + _LOOKS
        for claimed in self._jobs.values():
            claimed.cancel_wanted = claimed.cancel_wanted or claimed.row.id in wishes
        return self._poll

    async def _work(self, claimed: Claim) -> None:
        job = asyncio.current_task()
        assert job is not None
        OPERATION.set(f"operation-{claimed.row.id}")
        heart = asyncio.create_task(self._beat(claimed, job))
        try:
            with self._around(claimed):
                await self._execution.run(claimed)
        except LeaseLost:
            log.warning("operation-%d has been taken over by another worker", claimed.row.id)
        except Interrupted as error:
            cause = error.__cause__
            known = isinstance(cause, Unavailable | Unconfirmed)
            log.warning(
                "operation-%d could not be recorded; it is taken up again: %s",
                claimed.row.id,
                cause,
                exc_info=None if known else cause,
            )
        finally:
            heart.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await heart

    def _done(self, job: asyncio.Task[None]) -> None:
        claimed = self._jobs.pop(job)
        if claimed.row.kind is OperationKind.REVERT_VM_SNAPSHOT or claimed.ended_as is not OperationState.SUCCEEDED:
            self._look(claimed.row.provider, claimed.row.machine_ref)
        if not job.cancelled() and (error := job.exception()) is not None:
            log.error("operation-%d was dropped", claimed.row.id, exc_info=error)
        self.wake()

    async def _beat(self, claimed: Claim, job: asyncio.Task[None]) -> None:
        lease = self._settings.operation_lease
        alive = time.monotonic()
        while time.monotonic() - alive < lease:
            await asyncio.sleep(lease / 3)
            asked = time.monotonic()
            try:
                async with asyncio.timeout(alive + lease - asked):  # by then another may have it
                    await claimed.beat(lease)
                alive = asked
            except LeaseLost:
                break
            except Exception as error:  # noqa: BLE001 - whatever it is, there may be time for another try
                log.warning("operation-%d: its lease could not be renewed: %r", claimed.row.id, error)
        claimed.lost = True
        job.cancel()

    async def _sweep_forever(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP)
            try:
                await sweep(self._database, self._settings)
            except Unavailable as error:
                log.info("housekeeping cannot be done now: %s", error.message)
            except Exception:
                log.exception("housekeeping failed; trying again in a minute")
