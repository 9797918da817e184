"""Some cells of the crash table. `make soak` runs every fault at every step of every command.

After each fault: a repeated request with the same key returns the one operation, which ends once; the provider got one
command; both trees are as expected; and the snapshot counter is right.
"""

import pytest

from tests.crash.table import run_row
from tests.databases import Databases

pytestmark = pytest.mark.thorough  # servers in processes of their own, and waits that are real


@pytest.mark.parametrize(
    ("kind", "fault", "command"),
    [
        ("sqlite", "gateway killed", "delete"),
        ("sqlite", "gateway killed", "update"),
        ("postgresql", "answer lost", "create"),
    ],
)
def test_some_rows_of_the_table(kind: str, fault: str, command: str, databases: Databases) -> None:
    assert sum(run_row(kind, fault, databases, stride=25, commands=[command]).values()) >= 2
