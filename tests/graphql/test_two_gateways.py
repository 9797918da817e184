"""Two processes on one database: subscribers of one process receive changes that the other process accepted."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.cli.programs import Program, serving
from tests.databases import KINDS, Databases
from tests.graphql.client import CREATE, DELETE
from tests.waiting import within

pytestmark = pytest.mark.thorough

Programs = tuple[Program, Program]


@pytest.fixture(scope="module", params=KINDS)
def programs(request: pytest.FixtureRequest, databases: Databases) -> Iterator[Programs]:
    url = databases.new(request.param)
    with serving("--demo", "--database-url", url) as one, serving("--database-url", url) as other:
        yield one, other


@contextmanager
def subscribed(program: Program, query: str, event: str | None = None, **variables: Any) -> Iterator[Iterator[Any]]:
    """The responses of a subscription, which has started when the block begins."""
    body = {"query": query, "variables": variables, "extensions": {"lastEventId": event} if event else None}
    headers = {"accept": "text/event-stream"}
    with program.http.stream("POST", "/graphql", json=body, headers=headers) as answer:
        lines = within(answer.iter_lines())
        assert next(lines) == ":"
        yield (json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {"))


UPDATED = "subscription ($id: ID!) { operationUpdated(id: $id) { id state isDone snapshot { state } } }"
CHANGED = "subscription { snapshotChanged { kind snapshotId snapshot { name state } deletedSnapshotId } }"


def created(program: Program, machine: str, name: str) -> tuple[str, str]:
    payload = program.ask(CREATE, input={"machineId": machine, "name": name})["createSnapshot"]
    assert payload["errors"] == []
    return payload["operation"]["id"], payload["snapshot"]["id"]


@pytest.mark.parametrize("swapped", [False, True])
def test_operation_updated_for_an_operation_of_the_other_process(programs: Programs, swapped: bool) -> None:
    """The current state is first and the final state is last, whichever process executes the operation."""
    one, other = reversed(programs) if swapped else programs
    operation, _ = created(one, "vm-11", "elsewhere")
    with subscribed(other, UPDATED, id=operation) as bodies:
        states = [body["data"]["operationUpdated"] for body in bodies]
    assert {state["id"] for state in states} == {operation}
    assert [state["isDone"] for state in states] == [False] * (len(states) - 1) + [True]
    assert states[-1] | {"snapshot": {"state": "READY"}} == states[-1]
    assert states[-1]["state"] == "SUCCEEDED"


def test_changes_are_sent_by_both_processes_and_can_be_resumed_on_either(programs: Programs) -> None:
    one, other = programs
    with subscribed(one, CHANGED) as here, subscribed(other, CHANGED) as there:
        operation, snapshot = created(one, "vm-12", "everywhere")
        with subscribed(other, UPDATED, id=operation) as bodies:
            assert [body["data"]["operationUpdated"]["state"] for body in bodies][-1] == "SUCCEEDED"
        program = other
        (result,) = program.ask(DELETE, input={"ids": [snapshot]})["deleteSnapshots"]["results"]
        assert result["errors"] == []
        mine, theirs = (list(_until_deleted(bodies, snapshot)) for bodies in (here, there))
    # Each stream may start with changes of other snapshots.
    one_sees, other_sees = (
        [event for event, change in changes if change["snapshotId"] == snapshot] for changes in (mine, theirs)
    )
    assert one_sees == other_sees
    for changes in (mine, theirs):
        kinds = [change["kind"] for _, change in changes if change["snapshotId"] == snapshot]
        assert (kinds[0], kinds[-1], set(kinds[1:-1])) == ("CREATED", "DELETED", {"UPDATED"})
    # A client of the first process resumes on the second one.
    first, _ = mine[0]
    with subscribed(other, CHANGED, event=first) as bodies:
        missed = list(_until_deleted(bodies, snapshot))
    assert missed[-1][0] == mine[-1][0]
    assert {event for event, _ in missed} <= {event for event, _ in mine[1:]}


def _until_deleted(bodies: Iterator[Any], snapshot: str) -> Iterator[tuple[str, Any]]:
    for body in bodies:
        change = body["data"]["snapshotChanged"]
        yield body["extensions"]["eventId"], change
        if change["deletedSnapshotId"] == snapshot:
            return
