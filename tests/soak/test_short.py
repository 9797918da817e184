"""Small runs of the other long tests, without checks of durations, which require an idle host."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.crash.world import home
from tests.databases import KINDS, Databases
from tests.soak.attacks.run import AttackPlan, run_attacks
from tests.soak.bulk_delete import run_bulk_delete
from tests.soak.subscribers import run_subscribers

pytestmark = pytest.mark.thorough


def test_every_subscriber_receives_every_end(databases: Databases) -> None:
    with home("postgresql", databases) as place:
        assert run_subscribers(place, 100, 20, print).missing == 0


@pytest.mark.parametrize("kind", KINDS)
def test_all_snapshots_found_by_a_filter_are_deleted(kind: str, databases: Databases) -> None:
    with home(kind, databases) as place:
        assert run_bulk_delete(place, 400, print).left == 0


@pytest.mark.parametrize("kind", KINDS)
def test_attacks_leave_others_served(kind: str, databases: Databases, tmp_path: Path) -> None:
    results = run_attacks(databases, replace(AttackPlan.short(), kinds=(kind,)), tmp_path, print)
    assert [failure for result in results for failure in result.broken(durations=False)] == []
    assert [result.attack for result in results] == list(AttackPlan.short().names)
    assert all(result.latencies and result.obtained.got for result in results)
