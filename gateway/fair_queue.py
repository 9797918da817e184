"""A queue in which callers take turns, and the claim that says for whom work is done.

A FIFO queue lets the caller with the most work decide how long all others wait. Here each caller has a queue of its
own, and the callers are served in turn (round robin). A caller with one waiting request waits for at most one request
of each other caller, however many those have queued.

Time
    Callers with equal numbers of turns do not share time equally: one may take 1 ms in each, another 50 ms. So `charge`
    counts the time that a caller has used, and the caller that has used least in about the last second is served
    first, in turn among equals. Without charges all callers are equal.

Two lanes
    Work of subscriptions waits in a lane of its own. The lane of requests is served first, except at every fifth time,
    so that subscriptions continue while requests never cease.

The estimated wait
    While anything waits, `_interval` is the average time between two pops: of all pops since the queue was last empty,
    at most of about the last 64. A request with N others ahead of it waits about N * `_interval` seconds (Little's
    law). With `own` waiting requests of the same caller and A callers in the queue, at most min(length, (own + 1) * A)
    are ahead. So the estimate is high for the caller that has queued the most, and low for one that has queued nothing.

    The average is that of all callers. A caller whose tasks take less time than the average one is served more often,
    because callers share time. So its `own + 1` tasks count as fewer, in the proportion of its average charge.

    While nothing is popped the average does not change, for example because the database hangs. So the time since the
    last pop is a second lower bound.

    With fewer than 32 ahead the estimate is 0, because the average of a few pops says little.

Example: A, A and A wait, then B. They are popped in the order A, B, A, A.

Invariants: the order within one caller and lane is that of arrival; a waiting task that was canceled is never popped; a
queue that has become empty has forgotten all measurements, so an idle gateway refuses nothing.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from math import exp
from typing import NamedTuple, TypeVar

T = TypeVar("T")

Waiting = asyncio.Future[None]

_CERTAIN = 32  # waiting tasks ahead below which the estimated wait is 0
_MAX_SAMPLES = 64  # after which the newest interval has the weight 1/64
_FORGOTTEN_SECONDS = 1.0  # in which time that was charged is forgotten to a third
_AVERAGED = 8  # charges, after which the newest has the weight 1/8
_MAX_CHARGED = 1_000  # callers
_NEGLIGIBLE = 0.001  # seconds
_STREAM_TURN = 5  # at every fifth pop, streams precede requests


class Claim(NamedTuple):
    """For whom work is done. `caller` is the quota key of a caller.

    `stream`: the work is that of a subscription, or of a mutation that was decided. It is never refused, and waits
    behind requests.
    """

    caller: str
    stream: bool = False


# The claim of the running task; None for the gateway's own work, such as health checks, authentication and jobs.
CLAIM: ContextVar[Claim | None] = ContextVar("CLAIM", default=None)


class _Usage(NamedTuple):
    """The time charged to a caller: about that of the last second, when that was its value, and the average charge."""

    seconds: float
    at: float
    average: float


class _Lane:
    """The waiting tasks of each caller, and the callers in the order of their turns."""

    def __init__(self) -> None:
        self.length = 0
        self.waiting: dict[str, deque[Waiting]] = {}
        self._turns: deque[str] = deque()

    def add(self, caller: str, waiting: Waiting) -> None:
        own = self.waiting.get(caller)
        if own is None:
            own = self.waiting[caller] = deque()
            self._turns.append(caller)
        own.append(waiting)
        self.length += 1

    def remove(self, caller: str, waiting: Waiting) -> None:
        """Removes a task that no longer waits. Does nothing if it was popped."""
        own = self.waiting.get(caller, ())
        if waiting in own:
            self.waiting[caller].remove(waiting)
            self.length -= 1
            if not self.waiting[caller]:
                del self.waiting[caller]
                self._turns.remove(caller)

    def pop(self, eligible: Callable[[str], bool], used: Callable[[str], float]) -> str | None:
        """Resolves the oldest task of the eligible caller that has used least, and of these the first, whose next turn
        is the last. Returns the caller.
        """
        while callers := [caller for caller in self._turns if eligible(caller)]:
            caller = min(callers, key=used)
            self._turns.remove(caller)
            if self._pop_of(caller):
                return caller
        return None

    def _pop_of(self, caller: str) -> bool:
        """Resolves the oldest task of the caller. Returns False if all were canceled."""
        own = self.waiting[caller]
        found = False
        while own and not found:
            waiting = own.popleft()
            self.length -= 1
            if not waiting.done():  # it is done if its task was canceled
                waiting.set_result(None)
                found = True
        if not own:
            del self.waiting[caller]
        elif found:
            self._turns.append(caller)
        return found


def _any(_caller: str) -> bool:
    return True


def _do_nothing() -> None:
    pass


class FairQueue:
    """Tasks that wait for their turn. `clock` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._requests, self._streams = _Lane(), _Lane()
        self._pops = 0
        self._samples = 0  # intervals in the average
        self._interval = 0.0  # average seconds between two pops
        self._last_pop = 0.0  # when the last task was popped, or the first one was added to the empty queue
        self._used: dict[str, _Usage] = {}
        self._average = 0.0  # seconds of a charge

    def __len__(self) -> int:
        return self._requests.length + self._streams.length

    @property
    def requests(self) -> int:
        """The number of waiting tasks that are no streams."""
        return self._requests.length

    def of(self, caller: str) -> int:
        """The number of waiting tasks of the caller that are no streams."""
        return len(self._requests.waiting.get(caller, ()))

    def estimated_wait(self, caller: str) -> float:
        """The seconds that a new request of the caller would wait."""
        own = (self.of(caller) + 1) * len(self._requests.waiting)
        if min(self._requests.length, own) < _CERTAIN:
            return 0.0
        usage = self._used.get(caller)
        proportion = 1.0 if usage is None or usage.average >= self._average else usage.average / self._average
        ahead = min(self._requests.length, own * proportion)
        return max(ahead * self._interval, self._clock() - self._last_pop)

    def charge(self, caller: str, seconds: float) -> None:
        """Counts the time of one task as used by its caller. It is forgotten exponentially."""
        if len(self._used) >= _MAX_CHARGED and caller not in self._used:
            self._used = {name: value for name, value in self._used.items() if self.used(name) > _NEGLIGIBLE}
            if len(self._used) >= _MAX_CHARGED:
                self._used.clear()
        before = self._used.get(caller)
        average = seconds if before is None else before.average + (seconds - before.average) / _AVERAGED
        self._average += (seconds - self._average) / _AVERAGED
        self._used[caller] = _Usage(self.used(caller) + seconds, self._clock(), average)

    def used(self, caller: str) -> float:
        """The seconds charged to the caller in about the last second."""
        usage = self._used.get(caller)
        return usage.seconds * exp((usage.at - self._clock()) / _FORGOTTEN_SECONDS) if usage else 0.0

    async def wait(self, claim: Claim, decline: Callable[[], object] = _do_nothing) -> None:
        """Waits until the running task is popped.

        One that is canceled meanwhile leaves the queue. If it was popped at the same moment, it does not continue, and
        `decline` is called to pass on what it would have had.
        """
        waiting = self.add(claim)
        try:
            await waiting
        except BaseException:
            if waiting.done() and not waiting.cancelled():
                decline()
            else:
                self.remove(claim, waiting)
            raise

    def add(self, claim: Claim) -> Waiting:
        """Adds a task. It is popped when the result is resolved; one that ends before that must be removed."""
        if not len(self):
            self._samples, self._interval, self._last_pop = 0, 0.0, self._clock()
        waiting: Waiting = asyncio.get_running_loop().create_future()
        self._lane(claim).add(claim.caller, waiting)
        return waiting

    def remove(self, claim: Claim, waiting: Waiting) -> None:
        """Removes a task that was canceled. Does nothing if it was popped."""
        self._lane(claim).remove(claim.caller, waiting)

    def pop(self, eligible: Callable[[str], bool] = _any) -> str | None:
        """Lets the next task of an eligible caller continue. Returns the caller, or None if there is no such task."""
        self._pops += 1
        lanes = (self._requests, self._streams) if self._pops % _STREAM_TURN else (self._streams, self._requests)
        for lane in lanes:
            if lane.length and (caller := lane.pop(eligible, self.used)) is not None:
                self._measure()
                return caller
        return None

    def _lane(self, claim: Claim) -> _Lane:
        return self._streams if claim.stream else self._requests

    def _measure(self) -> None:
        now = self._clock()
        self._samples = min(self._samples + 1, _MAX_SAMPLES)
        self._interval += (now - self._last_pop - self._interval) / self._samples
        self._last_pop = now


class FairThread:
    """Does work that would hold the event loop in a thread: one piece at a time, the callers in turn.

    More threads would only delay each other and the event loop, because they share the interpreter's lock.
    """

    def __init__(self) -> None:
        self._queue = FairQueue()
        self._busy = False

    async def run(self, work: Callable[[], T]) -> T:
        """Waits for the turn of the running task's claim and returns the result of `work`.

        Work that has begun runs to its end if the task is canceled.
        """
        if self._busy:
            await self._queue.wait(CLAIM.get() or Claim(""), self._next)
        self._busy = True
        running = asyncio.get_running_loop().run_in_executor(None, work)
        running.add_done_callback(self._end)
        return await asyncio.shield(running)

    def _end(self, running: asyncio.Future[T]) -> None:
        if not running.cancelled():
            running.exception()  # of work whose task was canceled, which asyncio would log
        self._next()

    def _next(self) -> None:
        """Grants the next turn. The thread stays busy until the task that has it continues."""
        self._busy = self._queue.pop() is not None
