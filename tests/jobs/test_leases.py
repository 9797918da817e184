"""The protocol of leases: of two owners, only the last claim of a job counts, in every order of their steps."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.app import opened_database
from gateway.config import Settings
from gateway.jobs.leases import JobClaim, JobLeaseLost, claim, register, release, renew
from gateway.store.database import Database, Transaction
from tests.databases import SLOW_KINDS, Databases
from tests.examples import EXAMPLES
from tests.jobs.world import LEASE, Work, cluster_job, execute, expire, leases, make_due

OWNERS = ("a", "b")
JOBS = ("x", "y")
Run = Callable[..., Any]

_owners, _jobs = st.sampled_from(OWNERS), st.sampled_from(JOBS)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("claim"), _owners, st.sets(_jobs, min_size=1).map(sorted)),
        st.tuples(st.just("renew"), _owners, st.sets(_jobs, min_size=1).map(sorted)),
        # The number selects one of all claims that were made so far, which may be lost or ended.
        st.tuples(st.just("end"), st.integers(0, 9), st.sampled_from([None, "It failed."])),
        st.tuples(st.just("confirm"), st.integers(0, 9)),
        st.tuples(st.just("release"), _owners, st.sets(_jobs).map(sorted)),
        st.tuples(st.just("expire"), _jobs),
        st.tuples(st.just("make_due"), _jobs),
    ),
    max_size=25,
)


@dataclass
class Model:
    """What the row of a job must be."""

    fence: int = 0
    owner: str | None = None
    is_leased: bool = False
    is_due: bool = True
    failures: int = 0
    has_succeeded: bool = False

    def accepts(self, made: JobClaim) -> bool:
        return (self.owner, self.fence) == (made.owner, made.fence)


@dataclass
class Protocol:
    """Takes steps on the database and on the model, and compares the two after each."""

    database: Database
    models: dict[str, Model] = field(default_factory=lambda: {name: Model() for name in JOBS})
    claims: list[JobClaim] = field(default_factory=list)

    async def take(self, step: tuple[Any, ...]) -> None:
        await getattr(self, step[0])(*step[1:])
        found = {
            name: Model(
                row.fence,
                row.owner,
                row.is_held,
                row.next_run_at <= row.now,
                row.failures,
                row.succeeded_at is not None,
            )
            for name, row in (await leases(self.database)).items()
        }
        assert found == self.models

    async def claim(self, owner: str, names: list[str]) -> None:
        expected = {name for name in names if self.models[name].is_due and not self.models[name].is_leased}
        made = await claim(self.database, owner, names, lease=LEASE)
        assert {one.job for one in made} == expected
        for one in made:
            model = self.models[one.job]
            model.fence += 1
            model.owner, model.is_leased = owner, True
            assert (one.owner, one.fence, one.failures) == (owner, model.fence, model.failures)
        self.claims += made

    async def renew(self, owner: str, names: list[str]) -> None:
        held = {name: self.models[name] for name in names if self.models[name].owner == owner}
        fences = await renew(self.database, owner, names, lease=LEASE)
        assert fences == {name: model.fence for name, model in held.items()}
        for model in held.values():
            model.is_leased = True

    async def end(self, number: int, problem: str | None) -> None:
        for made in self.claims[number : number + 1]:
            model = self.models[made.job]
            if not model.accepts(made):
                with pytest.raises(JobLeaseLost):
                    await made.end(self.database, delay=3_600.0, problem=problem)
                continue
            await made.end(self.database, delay=3_600.0, problem=problem)
            failures = 0 if problem is None else model.failures + 1
            succeeded = model.has_succeeded or problem is None
            self.models[made.job] = Model(model.fence, None, False, False, failures, succeeded)

    async def confirm(self, number: int) -> None:
        for made in self.claims[number : number + 1]:
            if self.models[made.job].accepts(made):
                await self.database.write(made.confirm)
            else:
                with pytest.raises(JobLeaseLost):
                    await self.database.write(made.confirm)

    async def release(self, owner: str, running: list[str]) -> None:
        await release(self.database, owner, except_for=running)
        for name, model in self.models.items():
            if model.owner == owner and name not in running:
                model.owner, model.is_leased = None, False

    async def expire(self, name: str) -> None:
        await expire(self.database, name)
        self.models[name].is_leased = False

    async def make_due(self, name: str) -> None:
        await make_due(self.database, name)
        self.models[name].is_due = True


async def register_all(database: Database) -> None:
    await register(database, [cluster_job(Work(), name) for name in JOBS])


@pytest.mark.parametrize("kind", SLOW_KINDS)
def test_every_order_of_the_steps_of_two_owners(databases: Databases, kind: str) -> None:
    with asyncio.Runner() as loop:
        context = opened_database(Settings(database_url=databases.new(kind)))
        database = loop.run(context.__aenter__())

        @settings(max_examples=EXAMPLES, deadline=None)
        @given(STEPS)
        def holds(steps: list[tuple[Any, ...]]) -> None:
            async def story() -> None:
                await execute(database, "DELETE FROM job_lease")
                await register_all(database)
                protocol = Protocol(database)
                for step in steps:
                    await protocol.take(step)

            loop.run(story())

        try:
            holds()
        finally:
            loop.run(context.__aexit__(None, None, None))


def test_of_claims_at_the_same_time_one_gets_the_job(run: Run) -> None:
    async def story(database: Database) -> None:
        await register_all(database)
        owners = [f"owner {number}" for number in range(8)]
        found = await asyncio.gather(*(claim(database, owner, JOBS, lease=LEASE) for owner in owners))
        assert sorted(made.job for claims in found for made in claims) == [*JOBS]
        assert {name: row.fence for name, row in (await leases(database)).items()} == {"x": 1, "y": 1}

    run(story)


def test_a_lost_claim_commits_nothing(run: Run) -> None:
    """Its transaction is rolled back with everything that it has written before."""

    async def story(database: Database) -> None:
        await register_all(database)
        (old,) = await claim(database, "a", ["x"], lease=LEASE)
        await expire(database)
        (new,) = await claim(database, "b", ["x"], lease=LEASE)

        async def work(tx: Transaction, made: JobClaim) -> None:
            await tx.rows("UPDATE job_lease SET problem = 'written' WHERE name = 'y'")
            await made.confirm(tx)

        with pytest.raises(JobLeaseLost):
            await database.write(lambda tx: work(tx, old))
        query = "SELECT problem FROM job_lease WHERE name = 'y'"
        assert [row[0] for row in await database.read(lambda tx: tx.rows(query))] == [None]
        await database.write(lambda tx: work(tx, new))
        assert [row[0] for row in await database.read(lambda tx: tx.rows(query))] == ["written"]

    run(story)


def test_a_job_is_not_claimed_while_a_confirmed_transaction_is_open(databases: Databases) -> None:
    """On PostgreSQL, where transactions overlap. The renewal, and the claim of other jobs, do not wait for it."""

    async def story() -> None:
        async with opened_database(Settings(database_url=databases.new("postgresql"))) as database:
            await register_all(database)
            (old,) = await claim(database, "a", ["x"], lease=LEASE)
            confirmed, finish = asyncio.Event(), asyncio.Event()

            async def slow(tx: Transaction) -> None:
                await old.confirm(tx)
                confirmed.set()
                await finish.wait()

            writing = asyncio.create_task(database.write(slow))
            await confirmed.wait()
            assert await renew(database, "a", ["x"], lease=LEASE) == {"x": 1}
            await expire(database)
            assert [made.job for made in await claim(database, "b", JOBS, lease=LEASE)] == ["y"]
            finish.set()
            await writing
            assert [made.fence for made in await claim(database, "b", JOBS, lease=LEASE)] == [2]

    asyncio.run(story())


def test_registering_again_changes_only_what_is_due_too_late(run: Run) -> None:
    """After a restart with a shorter period, the next run is not delayed by the longer one that was configured."""

    async def story(database: Database) -> None:
        job = cluster_job(Work(), every=3_600.0)
        await register(database, [job])
        (made,) = await claim(database, "a", ["x"], lease=LEASE)
        await made.end(database, delay=1_800.0, problem=None)
        before = (await leases(database))["x"]
        await register(database, [job])
        after = (await leases(database))["x"]
        assert before._replace(now=after.now) == after
        await register(database, [cluster_job(Work(), every=60.0)])
        assert 59.0 < (await leases(database))["x"].seconds_until_due <= 60.0

    run(story)
