"""Leases of cluster jobs: the protocol by which one process at a time runs a job, for all that share the database.

The table `job_lease` has a row per cluster job. Every process registers the jobs that it knows and claims those that
are due. A row whose name it does not know, of a newer version or of a provider that was removed, it leaves alone.

Invariants
    1. Of two claims of a job, the later one has the higher fence. Only the last claim can renew, end or release.
    2. While a lease has not expired, no other process claims the job.
    3. A transaction that contains `JobClaim.confirm` commits only if no other process has claimed the job since.

Writers of the columns (REGISTER, CLAIM ... are the statements below)
    next_run_at     REGISTER: now, or brought forward to now + period if a longer period was configured before.
                    END: now + period, or + backoff after a failure; unchanged if it was set after the run began
                    `refreshProvider`: now, and 1 ms later than the run that is under way
    owner           CLAIM: the process's name. END, RELEASE: null
    lease_until     CLAIM, RENEW: now + lease. END, RELEASE: null
    fence           CLAIM: + 1
    started_at      CLAIM: now
    succeeded_at    END of a run that succeeded: now
    failures        END: 0 after a success, otherwise + 1
    problem         END: null after a success, otherwise the error
"Now" is the database's clock, so the clocks of the hosts need not agree.

Claim
    A job is due when `next_run_at` has passed and no lease is in force. One UPDATE claims all due jobs of a process.
    Two processes that look at the same time send two of them: PostgreSQL skips rows that the other one has locked, and
    SQLite has one writer.

Renewal
    The runner renews all leases that it holds with one statement, every third of a lease. When no renewal has been
    committed for a whole lease, by the process's monotonic clock, it cancels the run. This only saves work; correctness
    rests on the fence, since a stopped process (SIGSTOP, a paused virtual machine) cannot watch its clock.

Late owner
    A process whose lease has expired and whose job was claimed again can neither renew nor end: no row has its name
    and fence. Its run is canceled at the next renewal. Work that must not be done twice, such as taking a scheduled
    snapshot, calls `confirm` in its transaction. `confirm` locks the row FOR KEY SHARE: a claim (FOR UPDATE) skips the
    row until that transaction has ended, while a renewal, which changes no key, does not wait. What a run does outside
    of such a transaction must be harmless when it is repeated, as a refresh and the deletion of expired rows are.

Recovery
    The job of a process that died is claimed when its lease has expired, and is due at once, because a claim does not
    change `next_run_at`. A process that stops in order releases what it holds, so that another one need not wait.

Example: two processes, a period of 60 s, a lease of 10 s
    time  process A                             process B                       row afterwards
     0.0  CLAIM                                                                 owner A, fence 1, lease until 10.0
     3.3  RENEW                                                                 lease until 13.3
     4.0  stopped by SIGSTOP
    13.4                                        CLAIM: the lease has expired    owner B, fence 2, lease until 23.4
    15.0  continues; `confirm` with fence 1
          raises JobLeaseLost, RENEW returns no
          row, the run is canceled
    16.0                                        END                             no owner, next run at 76.0
    76.0  CLAIM, if A looks first                                               owner A, fence 3, lease until 86.0
"""

from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlalchemy.dialects.postgresql import insert as upsert  # SQLite understands the same ON CONFLICT
from sqlmodel import col

from gateway.jobs.periodic_job import PeriodicJob
from gateway.models import JobLease
from gateway.store.clock import DatabaseNow, FromNow
from gateway.store.database import Database, Transaction
from gateway.store.statements import OneOf, Query, Statement


class JobLeaseLost(Exception):
    """The lease of the job has expired and another process may run it."""


class LeaseState(NamedTuple):
    """The row of a cluster job, and the database's time at which it was read."""

    name: str
    next_run_at: datetime
    owner: str | None
    fence: int
    lease_until: datetime | None
    started_at: datetime | None
    succeeded_at: datetime | None
    failures: int
    now: datetime

    @property
    def is_held(self) -> bool:
        """Whether a process holds the lease and therefore runs the job."""
        return self.lease_until is not None and self.lease_until >= self.now

    @property
    def age(self) -> float | None:
        """Seconds since the last success; before the first one, since the start of the run. None before the first run.

        It grows while a job fails or is stuck.
        """
        since = self.started_at if self.succeeded_at is None else self.succeeded_at
        return None if since is None else max(0.0, (self.now - since).total_seconds())

    @property
    def seconds_until_due(self) -> float:
        """Seconds until the job can be claimed, if no lease is renewed; negative if it could be claimed before."""
        due_at = self.next_run_at if self.lease_until is None else max(self.next_run_at, self.lease_until)
        return (due_at - self.now).total_seconds()


class _ClaimedJob(NamedTuple):
    name: str
    fence: int
    failures: int


class _HeldLease(NamedTuple):
    name: str
    fence: int


_NAME = col(JobLease.name)

LEASES = Query(
    sa.select(
        _NAME,
        col(JobLease.next_run_at),
        col(JobLease.owner),
        col(JobLease.fence),
        col(JobLease.lease_until),
        col(JobLease.started_at),
        col(JobLease.succeeded_at),
        col(JobLease.failures),
        DatabaseNow().label("now"),
    ).order_by(_NAME),
    LeaseState,
)

REGISTER = Statement(
    upsert(JobLease)
    .values(name=bindparam("name"), next_run_at=DatabaseNow(), fence=0, failures=0)
    .on_conflict_do_update(
        index_elements=["name"],
        set_={
            "next_run_at": sa.case(
                (col(JobLease.next_run_at) > FromNow("period"), FromNow("period")), else_=col(JobLease.next_run_at)
            )
        },
    )
)

_due = (
    sa.select(_NAME)
    .where(
        OneOf(_NAME, "names"),
        col(JobLease.next_run_at) <= DatabaseNow(),
        sa.or_(col(JobLease.lease_until).is_(None), col(JobLease.lease_until) < DatabaseNow()),
    )
    .with_for_update(skip_locked=True)
)
CLAIM = Query(
    sa.update(JobLease)
    .where(OneOf(_NAME, _due))
    .values(
        owner=bindparam("new_owner"),
        fence=col(JobLease.fence) + 1,
        lease_until=FromNow("lease"),
        started_at=DatabaseNow(),
    )
    .returning(_NAME, col(JobLease.fence), col(JobLease.failures)),
    _ClaimedJob,
)

# An owner has at most one claim of a job at a time, so the name of the job identifies the claim.
RENEW = Query(
    sa.update(JobLease)
    .where(OneOf(_NAME, "names"), col(JobLease.owner) == bindparam("my_owner"))
    .values(lease_until=FromNow("lease"))
    .returning(_NAME, col(JobLease.fence)),
    _HeldLease,
)

_THIS_CLAIM = (
    col(JobLease.name) == bindparam("job"),
    col(JobLease.owner) == bindparam("my_owner"),
    col(JobLease.fence) == bindparam("my_fence"),
)

CONFIRM = Query(
    sa.select(_NAME, col(JobLease.fence)).where(*_THIS_CLAIM).with_for_update(read=True, key_share=True), _HeldLease
)

END = Statement(
    sa.update(JobLease)
    .where(*_THIS_CLAIM)
    .values(
        owner=None,
        lease_until=None,
        next_run_at=sa.case(
            (col(JobLease.next_run_at) > col(JobLease.started_at), col(JobLease.next_run_at)), else_=FromNow("delay")
        ),
        succeeded_at=sa.case(
            (bindparam("succeeded", type_=sa.Boolean()), DatabaseNow()), else_=col(JobLease.succeeded_at)
        ),
        failures=sa.case((bindparam("succeeded", type_=sa.Boolean()), 0), else_=col(JobLease.failures) + 1),
        problem=bindparam("new_problem"),
    )
)

RELEASE = Statement(
    sa.update(JobLease)
    .where(col(JobLease.owner) == bindparam("my_owner"), sa.not_(OneOf(_NAME, "except_for")))
    .values(owner=None, lease_until=None)
)


@dataclass(frozen=True, slots=True)
class JobClaim:
    """One claim of a cluster job. `failures` is the number of failed runs since the last one that succeeded."""

    job: str
    owner: str
    fence: int
    failures: int

    async def confirm(self, tx: Transaction) -> None:
        """Ensures that no other process claims the job before `tx` has ended. Raises JobLeaseLost if one has already.

        To be called in the transactions of a job that must not be committed by two processes.
        """
        if await tx.first(CONFIRM, **self._claim()) is None:
            raise JobLeaseLost(f"The lease of the job {self.job!r} was lost.")

    async def end(self, database: Database, *, delay: float, problem: str | None) -> None:
        """Ends the claim; the next run is in `delay` seconds. Raises JobLeaseLost.

        `problem` is why the run failed, or None if it succeeded.
        """
        values = {"delay": delay, "succeeded": problem is None, "new_problem": problem}
        if not await database.write(lambda tx: tx.run(END, **self._claim(), **values)):
            raise JobLeaseLost(f"The lease of the job {self.job!r} was lost.")

    def _claim(self) -> dict[str, str | int]:
        return {"job": self.job, "my_owner": self.owner, "my_fence": self.fence}


# The claim of the cluster job that runs in this task. A job reads it before it begins a transaction that confirms it,
# because SQLite runs transactions in another thread.
CURRENT_CLAIM: ContextVar[JobClaim] = ContextVar("CURRENT_CLAIM")


async def register(database: Database, jobs: Sequence[PeriodicJob]) -> None:
    """Creates the rows of `jobs` that have none; they are due at once."""

    async def work(tx: Transaction) -> None:
        for job in sorted(jobs, key=lambda job: job.name):  # one order, so that processes that start do not deadlock
            await tx.run(REGISTER, name=job.name, period=job.every)

    await database.write(work)


async def claim(database: Database, owner: str, names: Iterable[str], *, lease: float) -> list[JobClaim]:
    """Claims the jobs of these names that are due, for `lease` seconds."""
    values = {"names": list(names), "new_owner": owner, "lease": lease}
    rows = await database.write(lambda tx: tx.all(CLAIM, **values))
    return [JobClaim(row.name, owner, row.fence, row.failures) for row in rows]


async def renew(database: Database, owner: str, names: Iterable[str], *, lease: float) -> dict[str, int]:
    """Renews the leases of jobs that `owner` holds, for `lease` seconds from now. Returns the fences of these jobs.

    A job that is missing in the result is lost.
    """
    values = {"names": list(names), "my_owner": owner, "lease": lease}
    return {row.name: row.fence for row in await database.write(lambda tx: tx.all(RENEW, **values))}


async def release(database: Database, owner: str, *, except_for: Iterable[str]) -> None:
    """Ends the leases of `owner`, except those of the jobs of these names. The jobs can be claimed at once."""
    await database.write(lambda tx: tx.run(RELEASE, my_owner=owner, except_for=list(except_for)))
