"""Small runs of the other long tests, without checks of durations, which require an idle host."""

import pytest

from tests.crash.world import home
from tests.databases import KINDS, Databases
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
