"""The other proofs in small, without their times: those are for a machine that is quiet."""

import pytest

from tests.crash.world import home
from tests.databases import KINDS, Databases
from tests.soak.deleting import delete
from tests.soak.subscribers import follow

pytestmark = pytest.mark.thorough


def test_every_subscriber_sees_every_end(databases: Databases) -> None:
    with home("postgresql", databases) as place:
        assert follow(place, 100, 20, print).missing == 0


@pytest.mark.parametrize("kind", KINDS)
def test_everything_that_a_filter_finds_is_deleted(kind: str, databases: Databases) -> None:
    with home(kind, databases) as place:
        assert delete(place, 400, print).left == 0
