"""When the jobs of scope PROCESS run: each process decides by its own clock, with jitter."""

import logging
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from math import inf

from gateway.jobs.periodic_job import PeriodicJob, describe_problem, retry_delay

_JITTER = random.Random()  # noqa: S311 - a generator of its own: tests control the state of the shared one

log = logging.getLogger(__name__)


@dataclass(slots=True)
class ProcessJobState:
    """State of a job in this process. Times are in seconds, of the clock of the schedule."""

    due_at: float
    started_at: float | None = None  # of the last run, which may not have ended
    succeeded_at: float | None = None  # end of the last run that succeeded
    failures: int = 0  # runs that failed since the last one that succeeded

    def age(self, now: float) -> float | None:
        """Seconds since the last success; before the first one, since the start of the run. None before the first run.

        It grows while a job fails or is stuck.
        """
        since = self.started_at if self.succeeded_at is None else self.succeeded_at
        return None if since is None else now - since


class ProcessSchedule:
    """The schedule of `jobs`. The first run of each is a whole period after the start, when the process serves."""

    def __init__(self, jobs: Sequence[PeriodicJob], clock: Callable[[], float]) -> None:
        self._clock = clock
        self._jobs = {job.name: job for job in jobs}
        self.states: Mapping[str, ProcessJobState] = {
            job.name: ProcessJobState(clock() + _jittered(job.every)) for job in jobs
        }

    def take_due(self, running: Collection[str]) -> list[PeriodicJob]:
        """The jobs to start now: those that are due, do not run and have work."""
        now = self._clock()
        found = []
        for name, job in self._jobs.items():
            state = self.states[name]
            if state.due_at > now or name in running:
                continue
            state.due_at = now + _jittered(job.every)
            try:
                has_work = job.has_work()
            except Exception as error:
                log.exception("Job failed job=%s", name)
                self.end(job, error)
                continue
            if has_work:
                state.started_at = now
                found.append(job)
        return found

    def next_due_at(self, running: Collection[str]) -> float:
        """When the next job that does not run is due; `inf` if there is none."""
        return min((state.due_at for name, state in self.states.items() if name not in running), default=inf)

    def end(self, job: PeriodicJob, error: Exception | None) -> None:
        """Records the end of a run, and its error if it failed."""
        state = self.states[job.name]
        if error is None:
            state.failures, state.succeeded_at = 0, self._clock()
            state.due_at = self._clock() + _jittered(job.every)
        else:
            state.failures += 1
            state.due_at = self._clock() + retry_delay(job, state.failures)

    def problems(self, running: Collection[str]) -> dict[str, str]:
        """The jobs that fail or are stuck in this process, by name."""
        now, found = self._clock(), {}
        for name, state in self.states.items():
            seconds = now - state.started_at if name in running and state.started_at is not None else 0.0
            if problem := describe_problem(self._jobs[name], state.failures, seconds):
                found[name] = problem
        return found


def _jittered(period: float) -> float:
    """A period of about that many seconds, so that processes that started together do not act at the same time."""
    return period * _JITTER.uniform(0.9, 1.1)
