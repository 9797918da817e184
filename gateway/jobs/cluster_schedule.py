"""When the cluster jobs run, and in which process: the rows of `job_lease` decide."""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Sequence
from math import inf

from gateway.errors import GatewayError, Unavailable, Unconfirmed
from gateway.jobs.leases import LEASES, JobClaim, LeaseState, claim, register, release, renew
from gateway.jobs.periodic_job import PeriodicJob, describe_problem, retry_delay
from gateway.store.database import Database
from gateway.store.retry import Backoff

log = logging.getLogger(__name__)

_LOOKS_PER_LEASE = 3  # of them two may fail before a lease is lost
_OVERDUE_LEASES = 3  # leases after which a job that is due and was not claimed is reported


class ClusterSchedule:
    """The schedule of `jobs`, for the process `owner`. `lease` is the duration of a lease in seconds."""

    def __init__(
        self, database: Database, jobs: Sequence[PeriodicJob], owner: str, lease: float, clock: Callable[[], float]
    ) -> None:
        self._database = database
        self._jobs = {job.name: job for job in jobs}
        self._owner = owner
        self._lease = lease
        self._clock = clock
        self._registered: set[str] = set()
        self._unknown: set[str] = set()  # names in the database that were logged
        self._renewed_at: dict[JobClaim, float] = {}  # when the claim, or its last renewal, was sent
        self._backoff = Backoff()
        self.next_look_at = clock() if jobs else inf
        self.worked_at = time.monotonic() if jobs else inf

    async def look(self, running: Collection[str]) -> tuple[list[tuple[PeriodicJob, JobClaim]], list[JobClaim]]:
        """Renews the leases of this process and claims the jobs that are due, except those that it is running.

        Returns the jobs to start, each with its claim, and the claims that were lost. `next_look_at` is when to look
        again. Errors of the database are logged; they cost a lease only if they last that long.
        """
        interval = self._lease / _LOOKS_PER_LEASE
        self.next_look_at = self._clock() + interval
        begun: list[tuple[PeriodicJob, JobClaim]] = []
        lost = self._take_expired()
        try:
            lost += await self._renew()
            begun, pause = await self._claim(running)
            self._backoff.reset()
            self.worked_at = time.monotonic()
        except (Unavailable, Unconfirmed, TimeoutError) as error:
            pause = self._backoff.next()
            self.worked_at = time.monotonic()  # the loop works; the database is unavailable
            log.info("Cluster jobs could not be claimed: the database is unavailable error=%r", error)
        except Exception:
            pause = self._backoff.next()
            log.exception("Cluster jobs could not be claimed; retrying in %.1f s", min(pause, interval))
        lost += self._take_expired()
        self.next_look_at = min(self.next_look_at, self._clock() + pause)
        return begun, lost

    def _take_expired(self) -> list[JobClaim]:
        """Removes and returns the claims that were not renewed for a whole lease."""
        expired = [held for held, at in self._renewed_at.items() if self._clock() - at >= self._lease]
        for held in expired:
            del self._renewed_at[held]
        return expired

    async def _renew(self) -> list[JobClaim]:
        """Removes and returns the claims that another process has taken over. Raises TimeoutError when one expires."""
        if not self._renewed_at:
            return []
        sent_at = self._clock()
        held = {held.job: held for held in self._renewed_at}
        async with asyncio.timeout(min(self._renewed_at.values()) + self._lease - sent_at):
            fences = await renew(self._database, self._owner, held, lease=self._lease)
        lost = []
        for job, claimed in held.items():
            if claimed not in self._renewed_at:
                continue  # its run has ended meanwhile
            if fences.get(job) == claimed.fence:
                self._renewed_at[claimed] = sent_at
            else:
                del self._renewed_at[claimed]
                lost.append(claimed)
        return lost

    async def _claim(self, running: Collection[str]) -> tuple[list[tuple[PeriodicJob, JobClaim]], float]:
        """Returns the jobs that were claimed, and the seconds until the next one can be."""
        sent_at = self._clock()
        async with asyncio.timeout(self._lease):
            waiting = [row for row in await self._known_rows() if row.name not in running]
            due = [row.name for row in waiting if row.seconds_until_due <= 0]
            claims = await claim(self._database, self._owner, due, lease=self._lease) if due else []
        self._renewed_at |= dict.fromkeys(claims, sent_at)
        pause = min((row.seconds_until_due for row in waiting if row.name not in due), default=inf)
        return [(self._jobs[claimed.job], claimed) for claimed in claims], pause

    async def _known_rows(self) -> list[LeaseState]:
        """The rows of the jobs that this process knows. Registers those that are new, or whose row was deleted."""
        rows = await self._read()
        if missing := self._jobs.keys() - {row.name for row in rows if row.name in self._registered}:
            await register(self._database, [self._jobs[name] for name in missing])
            self._registered |= missing
            rows = await self._read()
        for name in sorted({row.name for row in rows} - self._jobs.keys() - self._unknown):
            log.info("Ignored a job in the database that this process does not know job=%s", name)
            self._unknown.add(name)
        return [row for row in rows if row.name in self._jobs]

    async def _read(self) -> list[LeaseState]:
        return await self._database.read(lambda tx: tx.all(LEASES), single=True)

    async def end(self, job: PeriodicJob, claimed: JobClaim, error: Exception | None) -> None:
        """Records the end of a run, and its error if it failed. Raises JobLeaseLost.

        While the database is unavailable it is retried; the lease is renewed meanwhile, or is found lost.
        """
        delay, problem = job.every, None
        if error is not None:
            delay = retry_delay(job, claimed.failures + 1)
            problem = error.message if isinstance(error, GatewayError) else "Internal error. See the gateway's log."
        backoff = Backoff()
        while True:
            try:
                await claimed.end(self._database, delay=delay, problem=problem)
            except (Unavailable, Unconfirmed):
                await asyncio.sleep(backoff.next())
            else:
                return

    def forget(self, claimed: JobClaim) -> None:
        """Stops renewing a claim whose run has ended, and looks again at once."""
        self._renewed_at.pop(claimed, None)
        self.look_now()

    def look_now(self) -> None:
        """Makes the next look due."""
        if self._jobs:
            self.next_look_at = self._clock()

    async def release(self, running: Collection[str]) -> None:
        """Ends all leases of this process except those of jobs that are still running, which are left to expire."""
        if self._jobs:
            await release(self._database, self._owner, except_for=running)

    async def problems(self) -> dict[str, str]:
        """The jobs that fail, are stuck or overdue in any process, by name. Raises Unavailable."""
        found = {}
        for row in await self._read():
            if (job := self._jobs.get(row.name)) is None:
                continue
            seconds = (row.now - row.started_at).total_seconds() if row.is_held and row.started_at else 0.0
            if problem := describe_problem(job, row.failures, seconds):
                found[row.name] = problem
            elif row.seconds_until_due < -_OVERDUE_LEASES * self._lease:
                found[row.name] = f"is overdue by {-row.seconds_until_due:.0f} s"
        return found
