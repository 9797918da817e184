"""The checker of runs of jobs, a short run of gateways that are killed and frozen, and a seeded bug.

`make soak ARGS=jobs` runs for ten minutes.
"""

import pytest

from tests.crash.world import home
from tests.databases import Databases
from tests.soak.job_runs import (
    ALLOWED,
    LEASE,
    LeaseChange,
    RunRecord,
    failures,
    freeze_owner,
    random_faults,
    report_jobs,
    run_jobs,
)
from tests.soak.recorded_jobs import ignore_lost_leases

PERIOD = 10.0


def changed(at: float, fence: int, owner: str | None = None, due: float = 0.0) -> LeaseChange:
    """The row of the job `x` after a claim or a renewal by `owner`, or after an end."""
    return LeaseChange("x", at, owner, fence, None if owner is None else at + LEASE, due)


# Registered, claimed by a, renewed, ended; claimed by b, which dies; claimed by c, ended.
VALID = [
    changed(0.0, 0),
    changed(0.1, 1, "a"),
    changed(1.1, 1, "a"),
    changed(2.0, 1, due=12.0),
    changed(12.1, 2, "b", due=12.0),
    changed(15.2, 3, "c", due=12.0),
    changed(16.0, 3, due=26.0),
]
RECORDS = [
    RunRecord("x", fence, pid, event)
    for fence, pid, event in ((1, 7, "begin"), (1, 7, "end"), (2, 8, "begin"), (3, 9, "begin"), (3, 9, "end"))
]


def test_valid_runs() -> None:
    (report,) = report_jobs(VALID, RECORDS, 20.0)
    assert failures([report]) == []
    assert (report.claims, report.ended, report.records, report.overlaps, report.late) == (3, 2, 5, 0, 0)
    assert (report.period, round(report.longest_gap, 6), round(report.latest, 6)) == (PERIOD, 10.1, 0.1)


def test_registering_again_is_no_sign_of_life() -> None:
    again = VALID[3]._replace(at=11.0)
    (report,) = report_jobs([*VALID[:4], again, *VALID[4:]], RECORDS, 20.0)
    assert round(report.longest_gap, 6) == 10.1


@pytest.mark.parametrize(
    ("changes", "records", "end", "expected"),
    [
        (
            [*VALID[:5], VALID[5]._replace(at=15.0), VALID[6]],
            RECORDS,
            20.0,
            ["x: 1 runs overlap"],
        ),
        (VALID, [*RECORDS, RunRecord("x", 2, 8, "end")], 20.0, ["x: 1 runs overlap"]),
        (VALID, [*RECORDS, RunRecord("x", 3, 8, "end")], 20.0, ["x: 1 runs overlap"]),
        (VALID, RECORDS, 26.0 + ALLOWED + 0.1, ["x: 1 times not claimed within 4 s"]),
        (
            [*VALID[:5], changed(20.0, 3, "c", due=12.0), changed(21.0, 3, due=31.0)],
            RECORDS,
            22.0,
            ["x: 1 times not claimed within 4 s"],
        ),
        (
            [*VALID[:4], changed(17.0, 2, "b", due=12.0), changed(18.0, 2, due=28.0)],
            RECORDS[:3],
            20.0,
            [
                "x: 1 times not claimed within 4 s",
                "x: a gap of 15.00 s, longer than its period and 4 s",
            ],
        ),
        (VALID[:1], [], 1.0, ["x: never claimed"]),
    ],
    ids=["lease in force", "older run", "two processes", "not claimed", "late takeover", "gap", "never"],
)
def test_violations_are_found(
    changes: list[LeaseChange], records: list[RunRecord], end: float, expected: list[str]
) -> None:
    assert failures(report_jobs(changes, records, end)) == expected


@pytest.mark.thorough
def test_jobs_of_killed_and_frozen_gateways_run_once_at_a_time(databases: Databases) -> None:
    with home("postgresql", databases) as place:
        assert failures(run_jobs(place, random_faults(20.0, seed=1), print)) == []


@pytest.mark.thorough
def test_a_run_that_ignores_the_loss_of_its_lease_is_found(databases: Databases) -> None:
    with home("postgresql", databases) as place:
        found = failures(run_jobs(place, freeze_owner, print, gateways=2, prepare=ignore_lost_leases))
    assert any("runs overlap" in failure for failure in found)
