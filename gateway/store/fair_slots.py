"""Slots for work of which only so much may be under way, and how callers share them.

A slot stands for one connection to the database or one thread that reads it, or for one new document.

A caller takes a slot only while more slots are free than it holds. So one caller holds at most half of them (2 of 4),
two callers at most three quarters, and the next one finds a free slot. Further work of a caller waits in a `FairQueue`,
as does all work when no slot is free. Nothing is configured or measured, so the bound holds from the first slow read
on.

Work without a claim is the gateway's own: health checks, the verification of credentials, the change feed, jobs. It is
bounded by what it is, so it has no share: it takes any free slot, before all others. `reserved` slots are for this work
only, so that it need not wait for callers at all.

Refusals. A request that cannot have a slot is refused: immediately when the queue is full, when the caller fills its
part of it (no caller occupies more of the queue than it leaves free), or when its estimated wait is too long; and when
it has waited too long. The error is Throttled (429) if slots are free and only the caller's share is used up, and
otherwise Unavailable (503).
Streams are never refused and wait without limit: they are bounded by their number.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import NamedTuple, Protocol

from gateway.errors import GatewayError, Throttled, Unavailable
from gateway.fair_queue import CLAIM, Claim, FairQueue
from gateway.store.database import Load

_GATEWAY = Claim("")  # the claim under which the gateway's own work waits


class WaitLimits(Protocol):
    """Limits on waiting for a slot; see `DatabaseLimits`."""

    @property
    def acquire_timeout(self) -> float: ...
    @property
    def max_waiting(self) -> int: ...
    @property
    def longest_wait(self) -> float: ...


class Resource(NamedTuple):
    """What the slots stand for, in messages."""

    busy: str  # a sentence
    queue: str
    share: str


_DATABASE = Resource("All database connections are busy.", "The database queue", "your share of the database")


class FairSlots:
    """`size` slots for the work of callers and `reserved` ones for the gateway's own.

    `shared`: a caller holds no more slots than it leaves free. Otherwise callers only take turns when they wait.
    """

    def __init__(
        self,
        size: int,
        limits: WaitLimits,
        *,
        reserved: int = 0,
        shared: bool = False,
        resource: Resource = _DATABASE,
    ) -> None:
        self._limits = limits
        self._resource = resource
        self._shared = shared
        self._reserved = reserved
        self._total = self._free = size + reserved
        self._held: Counter[str] = Counter()  # slots that each caller holds
        self._own = 0  # slots that the gateway's own work holds
        self._queue = FairQueue()
        self._own_queue = FairQueue()  # of the gateway's own work

    @property
    def load(self) -> Load:
        return Load(self._total - self._free, len(self._queue) + len(self._own_queue))

    async def acquire(self) -> Claim | None:
        """Takes a slot for the claim of the running task, and returns that claim, with which it must be released.

        Raises Throttled and Unavailable.
        """
        claim = CLAIM.get()
        if claim is None:
            if self._free:
                self._take(None)
            else:
                await self._wait(None)
        elif self._may_take(claim.caller):
            self._take(claim.caller)
        else:
            await self._wait(claim)
        return claim

    @asynccontextmanager
    async def hold(self) -> AsyncIterator[None]:
        """Holds a slot for the claim of the running task. Raises Throttled and Unavailable."""
        claim = await self.acquire()
        try:
            yield
        finally:
            self.release(claim)

    def release(self, claim: Claim | None) -> None:
        """Returns a slot, and grants it to the next waiting task."""
        self._free += 1
        if claim is None:
            self._own -= 1
        else:
            self._held[claim.caller] -= 1
            if not self._held[claim.caller]:
                del self._held[claim.caller]
        if len(self._own_queue) or len(self._queue):
            self._grant()

    def _may_take(self, caller: str) -> bool:
        return self._free_for_callers > (self._held[caller] if self._shared else 0)

    @property
    def _free_for_callers(self) -> int:
        return self._free - max(self._reserved - self._own, 0)

    def _take(self, caller: str | None) -> None:
        self._free -= 1
        if caller is None:
            self._own += 1
        else:
            self._held[caller] += 1

    def _grant(self) -> None:
        while self._free and self._own_queue.pop() is not None:
            self._take(None)
        while (caller := self._queue.pop(self._may_take)) is not None:
            self._take(caller)

    async def _wait(self, claim: Claim | None) -> None:
        """Waits until `_grant` has taken a slot for the claim."""
        queue, own = (self._own_queue, _GATEWAY) if claim is None else (self._queue, claim)
        if not own.stream:
            self._check_queue(claim, queue)
        try:
            async with asyncio.timeout(None if own.stream else self._limits.acquire_timeout):
                await queue.wait(own, partial(self.release, claim))
        except TimeoutError:
            raise self._refusal(claim, self._resource.busy) from None

    def _check_queue(self, claim: Claim | None, queue: FairQueue) -> None:
        """Raises Throttled or Unavailable if a new request must not wait."""
        full = f"{self._resource.queue} is full: {queue.requests} requests are waiting already."
        if queue.requests >= self._limits.max_waiting:
            raise self._refusal(claim, full)
        if claim is None:
            return
        if queue.of(claim.caller) >= self._limits.max_waiting - queue.requests:
            raise self._refusal(claim, full)
        if queue.estimated_wait(claim.caller) > self._limits.longest_wait:
            raise self._refusal(claim, self._resource.busy)

    def _refusal(self, claim: Claim | None, message: str) -> GatewayError:
        if claim is None or not self._shared or self._free_for_callers <= 0:
            return Unavailable(message)
        running, waiting = self._held[claim.caller], self._queue.of(claim.caller)
        return Throttled(
            f"Your requests use {self._resource.share}: {running} are running and {waiting} are waiting. Retry when"
            " some have finished.",
            retry_after=1,
        )
