"""The loop of a process: what it starts and when, and what it does when a lease or the database is lost."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from gateway.errors import ProviderUnavailable, Unavailable
from gateway.jobs.leases import CURRENT_CLAIM
from gateway.jobs.periodic_job import PeriodicJob, Scope
from gateway.jobs.runner import JobRunner
from gateway.store.database import Database
from tests.jobs.world import LEASE, Process, Work, cluster_job, execute, expire, leases, make_due
from tests.waiting import until_async

Run = Callable[..., Any]


# ---- scope PROCESS


def test_every_process_runs_a_job_of_scope_process(run: Run) -> None:
    async def story(database: Database) -> None:
        work = Work()
        job = PeriodicJob("local", 100.0, work, Scope.PROCESS)
        processes = [Process(database, owner, job) for owner in "ab"]
        for process in processes:
            assert 90.0 <= await process.runner.tick() <= 110.0  # with jitter, and not at the start
            assert not process.runner.running
            process.clock.advance(110.0)
            await process.runner.tick()
            assert process.runner.running == {"local"}
            await process.until_idle()
            assert process.outcomes == [("local", "succeeded")]
            assert 90.0 <= await process.runner.tick() <= 110.0
        assert work.ended == 2
        assert await leases(database) == {}

    run(story)


def test_a_job_does_not_overlap_with_itself(run: Run) -> None:
    async def story(database: Database) -> None:
        work = Work(held=True)
        process = Process(database, "a", PeriodicJob("local", 1.0, work, Scope.PROCESS))
        for _ in range(5):
            process.clock.advance(10.0)
            await process.runner.tick()
            await asyncio.sleep(0)
        assert (work.begun, work.ended) == (1, 0)
        await process.runner.stop()
        assert work.canceled == 1
        assert process.outcomes == []

    run(story)


def test_a_job_without_work_starts_no_task(run: Run) -> None:
    async def story(database: Database) -> None:
        work, pending = Work(), False
        job = PeriodicJob("local", 0.1, work, Scope.PROCESS, has_work=lambda: pending)
        process = Process(database, "a", job)
        before = asyncio.all_tasks()
        statements = database.statement_count
        for _ in range(50):
            process.clock.advance(1.0)
            assert 0.09 <= await process.runner.tick() <= 0.11
        assert asyncio.all_tasks() == before
        assert database.statement_count == statements
        pending = True
        process.clock.advance(1.0)
        await process.runner.tick()
        await until_async(lambda: work.ended == 1)

    run(story)


@pytest.mark.parametrize("scope", Scope)
def test_a_job_that_fails_is_repeated_with_a_backoff(run: Run, scope: Scope) -> None:
    """The pauses grow up to the period. After a success everything is as before."""

    async def story(database: Database) -> None:
        work = Work()
        process = Process(database, "a", PeriodicJob("x", 4.0, work, scope))
        work.error = ValueError("a bug")
        for failures, longest in enumerate((1.0, 2.0, 4.0, 5.0, 5.0), start=1):
            if scope is Scope.CLUSTER:
                await make_due(database)
            await process.run_due()
            assert work.begun == failures
            last = "last run" if failures == 1 else f"last {failures} runs"
            assert await process.runner.problems() == {"x": f"has failed in its {last}"}
            pause = await process.runner.tick()
            assert longest * 0.45 <= pause <= longest
        work.error = None
        if scope is Scope.CLUSTER:
            await make_due(database)
        await process.run_due()
        assert await process.runner.problems() == {}
        assert process.outcomes == [("x", "failed")] * 5 + [("x", "succeeded")]

    run(story)


def test_the_log_states_why_a_job_failed(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def story(database: Database) -> None:
        work = Work()
        process = Process(database, "a", PeriodicJob("local", 1.0, work, Scope.PROCESS))
        for error in (Unavailable("The database cannot be reached."), ProviderUnavailable("No answer."), ValueError()):
            work.error = error
            await process.run_due()

    run(story)
    assert [
        (record.levelname, record.getMessage(), record.exc_info is not None)
        for record in caplog.records
        if record.name == "gateway.jobs.runner"
    ] == [
        ("INFO", "Job was postponed job=local error=The database cannot be reached.", False),
        ("WARNING", "Job failed job=local error=No answer.", False),
        ("ERROR", "Job failed job=local", True),
    ]


def test_two_jobs_of_one_name_are_an_error(run: Run) -> None:
    async def story(database: Database) -> None:
        jobs = [PeriodicJob("x", 1.0, Work(), scope) for scope in Scope]
        with pytest.raises(ValueError, match="same name"):
            JobRunner(database, jobs, owner="a", lease=LEASE)

    run(story)


# ---- scope CLUSTER


def test_of_two_processes_that_start_together_one_runs_each_job(run: Run) -> None:
    async def story(database: Database) -> None:
        work = [Work() for _ in range(3)]
        jobs = [cluster_job(each, f"job {number}") for number, each in enumerate(work)]
        processes = [Process(database, owner, *jobs) for owner in "ab"]
        for _ in range(3):
            await asyncio.gather(*(process.run_due() for process in processes))
        assert [each.ended for each in work] == [1, 1, 1]
        for name in await leases(database):
            await make_due(database, name)
        for _ in range(3):
            await asyncio.gather(*(process.run_due() for process in processes))
        assert [each.ended for each in work] == [2, 2, 2]

    run(story)


def test_the_number_of_statements_does_not_depend_on_the_number_of_jobs(run: Run) -> None:
    """One that reads all jobs and, if there is something to do, one that claims and one that renews."""

    async def story(database: Database) -> None:
        held = Work(held=True)
        quick = [cluster_job(Work(), f"quick {number}") for number in range(20)]
        process = Process(database, "a", *quick, *(cluster_job(held, f"held {number}") for number in range(5)))
        await process.look()
        await until_async(lambda: len(process.runner.running) == 5)

        async def count() -> int:
            before = database.statement_count
            await process.look()
            return database.statement_count - before

        assert await count() == 2
        other = Process(database, "b", *quick)
        await other.look()
        before = database.statement_count
        await other.look()
        assert database.statement_count - before == 1
        for job in quick:
            await make_due(database, job.name)
        before = database.statement_count
        await other.look()
        assert database.statement_count - before == 2
        await other.until_idle()
        await process.runner.stop()

    run(story)


def test_a_long_run_keeps_its_lease(run: Run) -> None:
    async def story(database: Database) -> None:
        work = Work(held=True)
        one, other = (Process(database, owner, cluster_job(work)) for owner in "ab")
        await one.look()
        first = (await leases(database))["x"].lease_until
        for _ in range(6):  # two whole leases
            await one.look()
            await other.look()
        row = (await leases(database))["x"]
        assert (row.owner, row.fence, work.begun, work.canceled) == ("a", 1, 1, 0)
        assert first is not None
        assert row.lease_until is not None
        assert row.lease_until > first
        work.gate.set()
        await one.until_idle()
        assert (await leases(database))["x"].owner is None
        await other.look()
        assert work.begun == 1

    run(story)


def test_a_process_frozen_past_its_lease_loses_the_run(run: Run) -> None:
    """As after SIGSTOP. Its run is canceled and leaves no mark on the run of the other process."""

    async def story(database: Database) -> None:
        frozen, other = Work(held=True), Work(held=True)
        one, two = Process(database, "a", cluster_job(frozen)), Process(database, "b", cluster_job(other))
        await one.look()
        await expire(database)
        await two.look()
        assert (await leases(database))["x"].owner == "b"
        await one.look()
        await one.until_idle()
        assert (frozen.canceled, frozen.ended, one.outcomes) == (1, 0, [("x", "lost")])
        row = (await leases(database))["x"]
        assert (row.owner, row.fence, row.failures) == ("b", 2, 0)
        other.gate.set()
        await two.until_idle()
        assert two.outcomes == [("x", "succeeded")]

    run(story)


def test_a_run_that_ends_after_its_lease_was_lost_is_not_recorded(run: Run) -> None:
    """The process continues after a freeze, and its run ends before the process has looked at its leases."""

    async def story(database: Database) -> None:
        frozen, other = Work(held=True), Work(held=True)
        one, two = Process(database, "a", cluster_job(frozen)), Process(database, "b", cluster_job(other))
        await one.look()
        await expire(database)
        await two.look()
        before = (await leases(database))["x"]
        frozen.gate.set()
        await one.until_idle()
        assert one.outcomes == [("x", "lost")]
        after = (await leases(database))["x"]
        assert after._replace(now=before.now) == before
        await two.runner.stop()

    run(story)


def test_the_lease_of_a_process_that_died_is_taken_over(run: Run) -> None:
    async def story(database: Database) -> None:
        dead, work = Work(held=True), Work()
        await Process(database, "dead", cluster_job(dead)).look()
        other = Process(database, "b", cluster_job(work))
        await other.run_due()
        assert work.begun == 0
        await expire(database)
        await other.run_due()
        assert (work.ended, (await leases(database))["x"].fence) == (1, 2)

    run(story)


def test_a_process_that_stops_releases_its_leases(run: Run) -> None:
    async def story(database: Database) -> None:
        work = Work(held=True)
        one, other = (Process(database, owner, cluster_job(work)) for owner in "ab")
        await one.look()
        await one.runner.stop()
        assert (work.canceled, one.outcomes) == (1, [])
        work.gate.set()
        await other.run_due()  # at once, although the lease would last for minutes
        assert work.ended == 1

    run(story)


class UnreliableDatabase:
    """A database whose reads and writes fail while `is_down`.

    With `delay`, the result of the next write, which is committed, arrives when that is set.
    """

    def __init__(self, database: Database) -> None:
        self.dialect = database.dialect
        self._database = database
        self.is_down = False
        self.delay: asyncio.Event | None = None

    @property
    def statement_count(self) -> int:
        return self._database.statement_count

    async def read(self, work: Any, *, single: bool = False) -> Any:
        return await self._checked().read(work, single=single)

    async def write(self, work: Any) -> Any:
        delay, self.delay = self.delay, None
        result = await self._checked().write(work)
        if delay is not None:
            await delay.wait()
        return result

    def _checked(self) -> Database:
        if self.is_down:
            raise Unavailable("The database cannot be reached.")
        return self._database


def test_a_run_is_canceled_when_its_lease_cannot_be_renewed(run: Run) -> None:
    """A process that cannot reach the database does not know whether another one runs the job."""

    async def story(database: Database) -> None:
        unreliable: Any = UnreliableDatabase(database)
        work = Work(held=True)
        process = Process(unreliable, "a", cluster_job(work))
        await process.look()
        unreliable.is_down = True
        await process.look()
        await process.look()
        assert process.runner.running == {"x"}
        await process.look()
        await process.until_idle()
        assert (work.canceled, process.outcomes) == (1, [("x", "lost")])
        unreliable.is_down = False
        await expire(database)
        work.gate.set()
        await process.run_due()
        assert work.ended == 1

    run(story)


def test_an_end_that_the_database_did_not_record_is_repeated(run: Run) -> None:
    """The job is not run again because of that."""

    async def story(database: Database) -> None:
        unreliable: Any = UnreliableDatabase(database)
        work = Work(held=True)
        process = Process(unreliable, "a", cluster_job(work))
        await process.look()
        unreliable.is_down = True
        work.gate.set()
        await until_async(lambda: work.ended == 1)
        assert process.runner.running == {"x"}
        unreliable.is_down = False
        await process.until_idle()
        assert (work.begun, process.outcomes) == (1, [("x", "succeeded")])
        assert (await leases(database))["x"].seconds_until_due > 3_500

    run(story)


def test_a_renewal_does_not_cancel_a_run_whose_end_is_recorded_already(run: Run) -> None:
    """The process does not know yet that its end was committed, and finds no lease to renew."""

    async def story(database: Database) -> None:
        unreliable: Any = UnreliableDatabase(database)
        work = Work(held=True)
        process = Process(unreliable, "a", cluster_job(work))
        await process.look()
        delay = unreliable.delay = asyncio.Event()
        work.gate.set()

        async def is_recorded() -> bool:
            return (await leases(database))["x"].owner is None

        await until_async(is_recorded)
        await process.look()
        assert process.runner.running == {"x"}
        delay.set()
        await process.until_idle()
        assert process.outcomes == [("x", "succeeded")]

    run(story)


def test_unknown_jobs_in_the_database_are_ignored_and_logged_once(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def story(database: Database) -> None:
        await Process(database, "newer", cluster_job(Work(held=True), "unheard-of")).look()
        await expire(database, "unheard-of")
        before = (await leases(database))["unheard-of"]
        work = Work()
        process = Process(database, "a", cluster_job(work))
        for _ in range(3):
            await process.run_due()
        assert work.ended == 1
        assert (await leases(database))["unheard-of"]._replace(now=before.now) == before
        assert await process.runner.problems() == {}

    run(story)
    messages = [record.getMessage() for record in caplog.records]
    assert [text for text in messages if "unheard-of" in text] == [
        "Ignored a job in the database that this process does not know job=unheard-of"
    ]


def test_a_row_that_was_deleted_is_created_again(run: Run) -> None:
    async def story(database: Database) -> None:
        work = Work()
        process = Process(database, "a", cluster_job(work))
        await process.run_due()
        await execute(database, "DELETE FROM job_lease")
        await process.run_due()
        assert work.ended == 2

    run(story)


def test_a_job_finds_its_claim(run: Run) -> None:
    """Its transactions can require that the lease was not lost."""

    async def story(database: Database) -> None:
        found = []

        async def work() -> None:
            claim = CURRENT_CLAIM.get()
            await database.write(claim.confirm)
            found.append((claim.job, claim.owner, claim.fence))

        process = Process(database, "a", cluster_job(work))
        await process.run_due()
        assert found == [("x", "a", 1)]
        assert CURRENT_CLAIM.get(None) is None

    run(story)


def test_a_claim_that_is_lost_in_a_transaction_is_no_failure(run: Run) -> None:
    async def story(database: Database) -> None:
        async def work() -> None:
            claim = CURRENT_CLAIM.get()
            await expire(database)
            await other.look()
            await database.write(claim.confirm)

        other = Process(database, "b", cluster_job(Work(held=True)))
        process = Process(database, "a", cluster_job(work))
        await process.run_due()
        assert process.outcomes == [("x", "lost")]
        row = (await leases(database))["x"]
        assert (row.owner, row.failures) == ("b", 0)
        await other.runner.stop()

    run(story)


# ---- the loop


def test_the_loop_repeats_jobs_until_it_is_stopped(run: Run) -> None:
    async def story(database: Database) -> None:
        local, cluster = Work(), Work()
        jobs = [PeriodicJob("local", 0.001, local, Scope.PROCESS), cluster_job(cluster, every=0.001)]
        runner = JobRunner(database, jobs, owner="a", lease=LEASE)
        assert runner.ended
        await runner.start()
        assert not runner.ended
        await until_async(lambda: local.ended >= 3 and cluster.ended >= 3)
        await runner.stop()
        assert runner.ended
        ends = (local.ended, cluster.ended)
        assert (await leases(database))["x"].owner is None
        await asyncio.sleep(0.01)
        assert (local.ended, cluster.ended) == ends

    run(story)


def test_an_error_of_one_job_does_not_end_the_loop(run: Run) -> None:
    async def story(database: Database) -> None:
        def fail() -> bool:
            raise ValueError("a bug in has_work")

        broken = PeriodicJob("broken", 0.001, Work(), Scope.PROCESS, has_work=fail)
        work = Work()
        runner = JobRunner(database, [cluster_job(work, every=0.001), broken], owner="a", lease=LEASE)
        await runner.start()
        await until_async(lambda: work.ended >= 2)
        assert not runner.ended
        await runner.stop()

    run(story)
