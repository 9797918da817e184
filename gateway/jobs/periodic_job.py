"""The description of a job, which `gateway.app` registers and `JobRunner` runs."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum

from gateway.store.retry import backoff_delay

_FIRST_RETRY, _LONGEST_RETRY = 1.0, 5.0  # seconds, if the period of the job is in between


class Scope(Enum):
    """Where a job runs."""

    PROCESS = "PROCESS"  # in every process, for that process
    CLUSTER = "CLUSTER"  # in one process at a time, for all that share the database: the holder of the job's lease


def _always() -> bool:
    return True


@dataclass(frozen=True, slots=True)
class PeriodicJob:
    """Background work that is repeated. There is no default for `scope`: the wrong one repeats work, or omits it.

    `name` identifies the job in the database, in logs, in metrics and in `/readyz`. Cluster jobs of one name do the
    same work in every process. `every` is the pause in seconds from the end of a run to the next one.

    `run` is called once per run and may last any time, as a stream does. It is canceled when the process stops and, in
    scope CLUSTER, when the lease is lost, so a cancellation at any `await` must leave correct data. An exception is a
    failure: it is logged, and the run is repeated after `retry_delay`. What a job records itself for its readers, such
    as the problem of a provider, is no failure.

    `stuck_after` is the duration in seconds from which a run is reported as stuck; `inf` for a stream.

    `has_work` is asked before a run in scope PROCESS. While it returns False nothing is started, so a job may be
    repeated often at no cost. It must be cheap and must not block.
    """

    name: str
    every: float
    run: Callable[[], Awaitable[None]]
    scope: Scope
    stuck_after: float = 600.0
    has_work: Callable[[], bool] = _always


def retry_delay(job: PeriodicJob, failures: int) -> float:
    """Seconds from the end of a run that failed to the next one, after `failures` failures in a row, at least 1.

    They are doubled from 1 s up to the period of the job. A job with a shorter period begins with that one, and one
    with a period under 5 s ends with 5 s.
    """
    return backoff_delay(failures, min(_FIRST_RETRY, job.every), max(_LONGEST_RETRY, job.every))


def describe_problem(job: PeriodicJob, failures: int, seconds: float) -> str | None:
    """Why a job needs attention, after `failures` failures in a row and `seconds` of the present run; None if not.

    It contains no message of an error, because `/readyz` shows it to everyone.
    """
    if seconds > job.stuck_after:
        return f"has been stuck for {seconds:.0f} s"
    if failures > 0:
        return "has failed in its last run" if failures == 1 else f"has failed in its last {failures} runs"
    return None
