"""`refreshProvider`: reads a provider again as a whole, one refresh at a time."""

import asyncio
from collections.abc import Iterator
from functools import partial

import pytest

from gateway.app import JobParts, opened_database, periodic_jobs
from gateway.config import Settings
from gateway.jobs.periodic_job import PeriodicJob
from gateway.operations.commands.refresh_provider import RefreshProvider
from gateway.store.database import Database
from tests.databases import KINDS, Databases
from tests.graphql.client import REFRESH_PROVIDER, execute_sql, mutate
from tests.jobs.world import Process, Work, cluster_job, leases
from tests.operations.world import ORIGIN, World
from tests.serving import Served, served
from tests.waiting import attempts, until


def lab_only(parts: JobParts) -> list[PeriodicJob]:
    """The refresh of the provider `lab`, once a day."""
    (job,) = [one for one in periodic_jobs(parts) if one.name == "refresh:lab"]
    return [PeriodicJob(job.name, 86_400.0, job.run, job.scope)]


@pytest.fixture(scope="module", params=KINDS)
def gateway(request: pytest.FixtureRequest, databases: Databases) -> Iterator[Served]:
    """The demo world after the first refresh of `lab`."""
    with served(Settings(database_url=databases.new(request.param, demo=True)), jobs=lab_only) as gateway:
        until(partial(is_idle, gateway))
        yield gateway


def is_idle(gateway: Served) -> bool:
    """Whether a refresh of `lab` has succeeded and the next one is not due."""
    row = gateway.run(leases(gateway.gateway.database)).get("refresh:lab")
    return row is not None and row.succeeded_at is not None and row.owner is None and row.seconds_until_due > 1_000


def names(gateway: Served) -> list[str]:
    found = gateway.ask('{ vms(filter: {name: {startsWith: "found-"}}) { nodes { name } } }')
    return [node["name"] for node in found["vms"]["nodes"]]


def test_changes_at_the_provider_are_found(gateway: Served) -> None:
    columns = "ref, provider, kind, name, power_state, latency_ms, created_at"
    values = "'found', 'lab', 'VM', 'found-1', 'ON', 0, '2026-01-01T00:00:00.000000Z'"
    execute_sql(gateway, f"INSERT INTO simulated_machine ({columns}) VALUES ({values})")
    assert names(gateway) == []
    payload = mutate(gateway, REFRESH_PROVIDER, name="lab")
    assert payload["errors"] == []
    assert (payload["provider"]["name"], payload["provider"]["driver"]) == ("lab", "simulated")
    until(partial(is_idle, gateway))
    assert names(gateway) == ["found-1"]
    query = "{ auditEntries(filter: {action: {eq: REFRESH_PROVIDER}}) { nodes { outcome subject callerName } } }"
    (entry,) = gateway.ask(query)["auditEntries"]["nodes"]
    assert entry == {"outcome": "SUCCEEDED", "subject": "lab", "callerName": "local"}


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("nowhere", "NOT_FOUND", "Provider 'nowhere' was not found."),
        ("", "NOT_FOUND", "Provider '' was not found."),
        ("LAB", "NOT_FOUND", "Provider 'LAB' was not found."),
        ("old", "UNSUPPORTED", "No driver is configured for provider 'old', so it cannot be refreshed."),
        ("elsewhere", "NOT_FOUND", "Provider 'elsewhere' was not found."),
        ("l\0b", "INVALID", "The name of a provider contains neither a NUL character nor half of a character."),
    ],
)
def test_refusals(gateway: Served, name: str, code: str, message: str) -> None:
    rows = "('old', 'default', 'none'), ('elsewhere', 'other', 'none')"
    execute_sql(gateway, f"INSERT INTO provider (name, tenant, driver) VALUES {rows} ON CONFLICT DO NOTHING")
    payload = mutate(gateway, REFRESH_PROVIDER, name=name)
    error = {"code": code, "message": message, "path": ["input", "name"], "conflict": None}
    assert payload == {"provider": None, "errors": [error]}
    assert is_idle(gateway)


@pytest.mark.parametrize("kind", KINDS)
def test_one_refresh_at_a_time(databases: Databases, kind: str) -> None:
    """Requests during a refresh are followed by one more, in whichever process looks first."""
    url = databases.new(kind)

    async def story() -> None:
        async with opened_database(Settings(database_url=url)) as database:
            await _one_at_a_time(database)

    asyncio.run(story())


async def _one_at_a_time(database: Database) -> None:
    world = World(database)
    await world.provider()
    work = Work(held=True)
    a, b = (Process(database, name, cluster_job(work, "refresh:sim")) for name in ("a", "b"))
    await a.look()
    assert (work.begun, work.ended) == (1, 0)
    for _ in range(3):
        await refresh_provider(world)
        await b.look()
    assert work.begun == 1
    work.gate.set()
    await a.until_idle()
    await run_until(b, work, 2)
    await a.run_due()
    await b.run_due()
    assert (work.begun, work.ended) == (2, 2)
    await refresh_provider(world)
    await run_until(a, work, 3)


async def run_until(process: Process, work: Work, ended: int) -> None:
    """Turns the loop of a process until that many refreshes have ended. A request is due after a millisecond."""
    for _ in attempts():
        await process.run_due()
        if work.ended == ended:
            break
    assert work.begun == ended


async def refresh_provider(world: World) -> None:
    (outcome,) = await world.operations.execute(RefreshProvider(name="sim"), world.caller, ORIGIN)
    assert outcome.provider == "sim"
