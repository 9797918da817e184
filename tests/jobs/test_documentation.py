"""The page of jobs lists all of them, with their scopes and periods."""

from collections.abc import Sequence
from dataclasses import replace

from gateway.app import JobParts, periodic_jobs
from gateway.config import Settings
from gateway.inventory.change_watcher import ChangeWatcher
from gateway.jobs.periodic_job import PeriodicJob
from tests.databases import Databases
from tests.inventory.scripted import ScriptedDriver
from tests.rules.markdown import ROOT, table
from tests.serving import served


def test_every_job_is_documented(databases: Databases) -> None:
    found: list[PeriodicJob] = []

    def record(parts: JobParts) -> Sequence[PeriodicJob]:
        drivers = {"PROVIDER": ScriptedDriver()}  # a driver with change hints
        parts = replace(parts, drivers=drivers, watch=ChangeWatcher(parts.inventory, drivers))
        found.extend(periodic_jobs(parts))
        return []

    with served(Settings(database_url=databases.new("sqlite")), jobs=record):
        pass
    _, _, *rows = table(ROOT / "docs/jobs.md", "Job")
    assert [row.split(" | ")[:3] for row in rows] == [
        [f"| `{job.name}`", job.scope.value.lower(), f"{job.every:g}"] for job in found
    ]
