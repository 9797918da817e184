"""Processes of several versions beside each other: an operation is accepted only if all of them know its kind."""

from collections.abc import Callable

import psycopg

from gateway.errors import Unsupported
from gateway.models import OperationKind
from gateway.operations.processes import Processes
from tests.databases import Databases
from tests.operations.world import World, play
from tests.waiting import until_async

Run = Callable[..., None]

LEASE = 600.0
FOUR = '["CREATE_SNAPSHOT","REVERT_VM_SNAPSHOT","DELETE_SNAPSHOT","REFRESH_MACHINE"]'
NOW = {"sqlite": "strftime('%Y-%m-%dT%H:%M:%f000Z', 'now', '600 seconds')", "postgresql": "now() + interval '600 s'"}
PAST = "'2020-01-01T00:00:00.000000Z'"
CONNECTED = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'snapshot-gateway'"
)


def refused(processes: Processes) -> list[OperationKind]:
    return [kind for kind in OperationKind if processes.refusal(kind) is not None]


async def plant(world: World, until: str, kinds: str = FOUR) -> None:
    await world.execute(
        f"INSERT INTO process (name, version, kinds, lease_until) VALUES ('old', '0.1.7', '{kinds}', {until})"
    )


def test_kind_that_another_process_does_not_know_is_refused_until_it_has_ended(run: Run) -> None:
    async def story(world: World) -> None:
        processes = Processes(world.database, "me", LEASE)
        await processes.start()
        assert refused(processes) == []
        await plant(world, NOW[world.database.dialect])
        await processes.renew()
        assert refused(processes) == [OperationKind.UPDATE_SNAPSHOT]
        refusal = processes.refusal(OperationKind.UPDATE_SNAPSHOT)
        assert isinstance(refusal, Unsupported)
        assert refusal.message == (
            "A gateway process of version 0.1.7 is still running, which cannot execute UPDATE_SNAPSHOT."
            " Retry when the upgrade is complete."
        )
        await world.execute(f"UPDATE process SET lease_until = {PAST} WHERE name = 'old'")
        await processes.renew()
        assert refused(processes) == []

    run(story)


def test_kinds_that_only_another_process_knows_do_not_matter(run: Run) -> None:
    async def story(world: World) -> None:
        kinds = '["ARCHIVE_SNAPSHOT",' + ",".join(f'"{kind}"' for kind in OperationKind) + "]"
        await plant(world, NOW[world.database.dialect], kinds)
        processes = Processes(world.database, "me", LEASE)
        await processes.start()
        assert refused(processes) == []

    run(story)


def test_ended_process_is_forgotten(run: Run) -> None:
    async def story(world: World) -> None:
        first, second = (Processes(world.database, name, LEASE) for name in ("first", "second"))
        await first.start()
        await second.start()
        assert await names(world) == ["first", "second"]
        await first.stop()
        assert await names(world) == ["second"]
        await world.execute(f"UPDATE process SET lease_until = {PAST}")
        await first.renew()
        assert await names(world) == ["first"]

    run(story)


async def names(world: World) -> list[str]:
    rows = await world.database.read(lambda tx: tx.rows("SELECT name FROM process ORDER BY name"))
    return [row[0] for row in rows]


def test_connected_process_of_the_first_release_counts(databases: Databases) -> None:
    """It does not register, but its connections have a name of their own. On PostgreSQL."""
    url = databases.new("postgresql")

    async def story(world: World) -> None:
        processes = Processes(world.database, "me", LEASE)
        with psycopg.connect(url, application_name="snapshot-gateway"):
            await processes.renew()
            assert refused(processes) == [OperationKind.UPDATE_SNAPSHOT]

        async def is_disconnected() -> bool:
            rows = await world.database.read(lambda tx: tx.rows(CONNECTED))
            return bool(rows[0][0] == 0)

        await until_async(is_disconnected)
        await processes.renew()
        assert refused(processes) == [OperationKind.UPDATE_SNAPSHOT]  # it may reconnect
        await world.execute(f"UPDATE process SET lease_until = {PAST} WHERE name = 'unregistered'")
        await processes.renew()
        assert refused(processes) == []

    play(url, story)
