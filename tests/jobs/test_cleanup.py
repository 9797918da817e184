"""The jobs that delete rows which nothing needs any more."""

from typing import Any

import pytest

from gateway.config import Settings
from tests.databases import SLOW_KINDS, Databases
from tests.jobs.world import PAST, execute
from tests.serving import Served, served
from tests.waiting import until

FAR = "2100-01-01T00:00:00.000000Z"


def select(gateway: Served, sql: str) -> list[Any]:
    async def work(tx: Any) -> Any:
        return [row[0] for row in await tx.rows(sql)]

    found: list[Any] = gateway.run(gateway.gateway.database.read(work))
    return found


@pytest.mark.parametrize("kind", SLOW_KINDS)
def test_rows_that_nothing_needs_are_deleted(databases: Databases, kind: str) -> None:
    """Full quotas of callers, and leases of jobs that no process knows, such as the refresh of a removed provider."""
    with served(Settings(database_url=databases.new(kind))) as gateway:
        for name, next_run_at, lease_until in (
            ("removed", PAST, None),
            ("removed while it ran", PAST, PAST),
            ("of a newer version, running", PAST, FAR),
            ("of a newer version, waiting", FAR, None),
        ):
            until_text = "NULL" if lease_until is None else f"'{lease_until}'"
            columns = "name, fence, failures, next_run_at, lease_until"
            gateway.run(
                execute(
                    gateway.gateway.database,
                    f"INSERT INTO job_lease ({columns}) VALUES ('{name}', 1, 0, '{next_run_at}', {until_text})",
                )
            )
        for caller, full_at in (("full", 1.0), ("used", 4e9)):
            gateway.run(execute(gateway.gateway.database, f"INSERT INTO caller_use VALUES ('{caller}', {full_at})"))

        def jobs_are_deleted() -> bool:
            # The jobs may be running already, and then set the time of their next run.
            due = f"UPDATE job_lease SET next_run_at = '{PAST}' WHERE name IN ('sweep', 'quota-deletion')"
            gateway.run(execute(gateway.gateway.database, due))
            gateway.run(gateway.gateway.jobs.look())
            return select(gateway, "SELECT caller FROM caller_use") == ["used"] and select(
                gateway, "SELECT name FROM job_lease ORDER BY name"
            ) == ["of a newer version, running", "of a newer version, waiting", "quota-deletion", "sweep"]

        until(jobs_are_deleted)
