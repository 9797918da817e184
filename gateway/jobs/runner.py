"""The loop of a process that runs its jobs.

There is one task for the loop, and one for each run. The loop sleeps until a job is due, the leases must be renewed, or
a run has ended; an idle job starts no task. One statement reads all cluster jobs, a second one claims those that are
due, and a third one renews all leases of the process, so the number of statements does not depend on that of the jobs.

What must not wait for a period is no job, but waits for an event in a task of its own: the claim of operations
(`gateway.operations.worker`), the reader of the change feed, and the refresh of machines that may have changed
(`gateway.inventory.change_watcher`).
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from gateway.errors import GatewayError, Unavailable, Unconfirmed
from gateway.jobs.cluster_schedule import ClusterSchedule
from gateway.jobs.leases import CURRENT_CLAIM, JobClaim, JobLeaseLost
from gateway.jobs.periodic_job import PeriodicJob, Scope
from gateway.jobs.process_schedule import ProcessJobState, ProcessSchedule
from gateway.store.database import Database
from gateway.store.retry import Backoff

log = logging.getLogger(__name__)

_SHUTDOWN_TIMEOUT = 2.0  # seconds for canceled runs to end, and then for the database to release their leases

# Called after each run with the name of the job, the outcome ("succeeded", "failed" or "lost": the lease was lost) and
# the duration of the run in seconds.
OnRun = Callable[[str, str, float], None]


@dataclass(eq=False, slots=True)
class _Run:
    """One run of a job. `claim` is None in scope PROCESS. `outcome` is None until the run has ended or was lost."""

    job: PeriodicJob
    claim: JobClaim | None
    started_at: float
    outcome: str | None = None


class JobRunner:
    """Runs `jobs` from `start` to `stop`. A stopped runner cannot be started again.

    `owner` identifies the process as the holder of leases; no two processes have the same, not even one after the
    other. `lease` is the duration of a lease in seconds. `clock` returns monotonic seconds. `on_run` is called after
    each run. Raises ValueError if two jobs have the same name.
    """

    def __init__(
        self,
        database: Database,
        jobs: Sequence[PeriodicJob],
        *,
        owner: str,
        lease: float,
        clock: Callable[[], float] = time.monotonic,
        on_run: OnRun = lambda _job, _outcome, _seconds: None,
    ) -> None:
        if len({job.name for job in jobs}) < len(jobs):
            raise ValueError("Two jobs have the same name.")
        self._clock = clock
        self._on_run = on_run
        self._local = ProcessSchedule([job for job in jobs if job.scope is Scope.PROCESS], clock)
        cluster = [job for job in jobs if job.scope is Scope.CLUSTER]
        self._cluster = ClusterSchedule(database, cluster, owner, lease, clock)
        self._runs: dict[asyncio.Task[None], _Run] = {}
        self._woken = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None
        self._passed_at = time.monotonic()

    @property
    def ended(self) -> bool:
        """Whether the loop is not running."""
        return self._loop is None or self._loop.done()

    @property
    def worked_at(self) -> float:
        """When the loop last started what was due, by `time.monotonic()`."""
        return min(self._passed_at, self._cluster.worked_at)

    @property
    def running(self) -> set[str]:
        """The names of the jobs that this process runs."""
        return {run.job.name for run in self._runs.values()}

    @property
    def process_jobs(self) -> Mapping[str, ProcessJobState]:
        """The states of the jobs of scope PROCESS, by name."""
        return self._local.states

    async def problems(self) -> dict[str, str]:
        """The jobs that fail or are stuck, by name: those of scope PROCESS in this process, cluster jobs in any.

        Raises Unavailable.
        """
        return self._local.problems(self.running) | await self._cluster.problems()

    def wake(self) -> None:
        """Makes the runner look for cluster jobs that are due now."""
        self._cluster.look_now()
        self._woken.set()

    async def start(self) -> None:
        """Starts the loop."""
        self._loop = asyncio.create_task(self._run_loop(), name="jobs")

    async def stop(self) -> None:
        """Cancels all runs, and releases their leases, so that other processes can run the cluster jobs at once."""
        tasks = [*self._runs, *([] if self._loop is None else [self._loop])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_SHUTDOWN_TIMEOUT)
        try:
            async with asyncio.timeout(_SHUTDOWN_TIMEOUT):
                await self._cluster.release(self.running)
        except Exception as error:  # noqa: BLE001 - no error may keep the process from ending
            log.warning("Leases of jobs could not be released and will expire error=%r", error)

    # ---- the loop

    async def _run_loop(self) -> None:
        backoff = Backoff()
        while True:
            self._woken.clear()
            try:
                pause = await self.tick()
                self._passed_at = time.monotonic()
                backoff.reset()
            except Exception:
                pause = backoff.next()
                log.exception("Jobs could not be started; retrying in %.1f s", pause)
            # Not wait_for: before Python 3.12 it can swallow the cancellation of `stop`.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._woken.wait()

    async def tick(self) -> float:
        """One pass of the loop: starts the jobs that are due and renews leases. Returns seconds until the next one."""
        for job in self._local.take_due(self.running):
            self._start(job, None)
        if self._cluster.next_look_at <= self._clock():
            await self.look()
        due_at = min(self._local.next_due_at(self.running), self._cluster.next_look_at)
        return max(0.0, due_at - self._clock())

    async def look(self) -> None:
        """Renews the leases that are held, cancels the runs that are lost, and starts the cluster jobs that are due."""
        begun, lost = await self._cluster.look(self.running)
        for job, claim in begun:
            self._start(job, claim)
        for task, run in self._runs.items():
            if run.claim in lost and run.outcome is None:  # otherwise the fence decides whether its end is recorded
                run.outcome = "lost"
                task.cancel()

    # ---- runs

    def _start(self, job: PeriodicJob, claim: JobClaim | None) -> None:
        run = _Run(job, claim, self._clock())
        task = asyncio.create_task(self._execute(run), name=f"job-{job.name}")
        self._runs[task] = run
        task.add_done_callback(self._done)

    async def _execute(self, run: _Run) -> None:
        error: Exception | None = None
        try:
            if run.claim is not None:
                CURRENT_CLAIM.set(run.claim)
            try:
                await run.job.run()
            except JobLeaseLost:
                raise
            except Exception as caught:  # noqa: BLE001 - the job is repeated, whatever has failed
                error = caught
                _log_failure(run.job, error)
            run.outcome = "succeeded" if error is None else "failed"
            if run.claim is None:
                self._local.end(run.job, error)
            else:
                await self._cluster.end(run.job, run.claim, error)
        except JobLeaseLost:
            run.outcome = "lost"

    def _done(self, task: asyncio.Task[None]) -> None:
        run = self._runs.pop(task)
        if run.claim is not None:
            self._cluster.forget(run.claim)
        if run.outcome == "lost":
            log.warning("A run was canceled because its lease was lost job=%s", run.job.name)
        if run.outcome is not None:
            self._on_run(run.job.name, run.outcome, self._clock() - run.started_at)
        self._woken.set()


def _log_failure(job: PeriodicJob, error: Exception) -> None:
    """The reason of a database that is unavailable is logged by the store; any other error needs a person."""
    if isinstance(error, Unavailable | Unconfirmed):
        log.info("Job was postponed job=%s error=%s", job.name, error.message)
    elif isinstance(error, GatewayError):
        log.warning("Job failed job=%s error=%s", job.name, error.message)
    else:
        log.error("Job failed job=%s", job.name, exc_info=error)
