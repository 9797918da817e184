"""A page below a row that is not found by its own id."""

import pytest

from gateway.config import Settings
from tests.databases import SLOW_KINDS, Databases
from tests.serving import served

CHILDREN = "currentSnapshot { id children(first: 5) { totalCount nodes { id } } }"


@pytest.mark.parametrize("kind", SLOW_KINDS)
def test_children_of_the_current_snapshot_are_the_same_for_one_machine_and_in_a_list(
    databases: Databases, kind: str
) -> None:
    """On PostgreSQL, one statement loads a row and its page, which then must belong to that row."""
    with served(Settings(database_url=databases.new(kind, demo=True))) as gateway:
        listed = gateway.ask(f"{{ machines(first: 100) {{ nodes {{ id {CHILDREN} }} }} }}")["machines"]["nodes"]
        current = [machine["currentSnapshot"] for machine in listed if machine["currentSnapshot"]]
        assert any(snapshot["children"]["nodes"] for snapshot in current)
        for machine in listed:
            query = f"query ($id: ID!) {{ machine(id: $id) {{ id {CHILDREN} }} }}"
            assert gateway.ask(query, id=machine["id"])["machine"] == machine
