"""The crash table: every fault at every step of every kind of operation; `make soak` tries all of them.

Whatever was hit: who asked with a key gets the one operation, it ends once, the provider was asked once, the tree is
the wished one on both sides, and the counter agrees.
"""

import pytest

from tests.crash.table import fill
from tests.databases import Databases

pytestmark = pytest.mark.thorough  # servers in processes of their own, and waits that are real


@pytest.mark.parametrize(
    ("kind", "fault", "wish"), [("sqlite", "gateway killed", "delete"), ("postgresql", "answer lost", "create")]
)
def test_some_of_it(kind: str, fault: str, wish: str, databases: Databases) -> None:
    assert sum(fill(kind, fault, databases, stride=25, wishes=[wish]).values()) >= 2
