"""The subscription `operationsUpdated`: several operations, each at once and then its changes, until all have ended."""

from collections.abc import Iterator
from typing import Any

import pytest

from gateway.config import Settings
from tests.databases import SLOW_KINDS, Databases
from tests.graphql.client import CANCEL, CREATE, await_running, mutate, set_latency, stalled
from tests.graphql.subscription_clients import Bodies, Subscribe, subscribe_by_sse, subscribe_by_websocket
from tests.serving import Served, served

UPDATED = "subscription ($ids: [ID!]!) { operationsUpdated(ids: $ids) { id state isDone } }"


@pytest.fixture(scope="module", params=SLOW_KINDS)
def gateway(request: pytest.FixtureRequest, databases: Databases) -> Iterator[Served]:
    settings = Settings(database_url=databases.new(request.param, demo=True), drain_timeout=0.1)
    with served(settings) as gateway:
        set_latency(gateway, 0)
        yield gateway


def updates(bodies: Bodies) -> Iterator[tuple[str, str]]:
    """Id and state of each message."""
    for body in bodies:
        assert "errors" not in body, body
        found = body["data"]["operationsUpdated"]
        assert found["isDone"] == (found["state"] in ("SUCCEEDED", "FAILED", "CANCELED"))
        yield found["id"], found["state"]


def created(gateway: Served, machine: str) -> str:
    operation: str = mutate(gateway, CREATE, machineId=machine, name="followed")["operation"]["id"]
    return operation


@pytest.mark.parametrize("subscribe", [subscribe_by_sse, subscribe_by_websocket])
def test_several_operations_to_the_end_of_the_last(gateway: Served, subscribe: Subscribe) -> None:
    with stalled(gateway, "vm-11"), stalled(gateway, "vm-12"):
        first, second = created(gateway, "vm-11"), created(gateway, "vm-12")
        queued = created(gateway, "vm-12")
        for operation in (first, second):
            await_running(gateway, operation)
        with subscribe(gateway, UPDATED, ids=[second, "operation-1", first, queued]) as bodies:
            received = updates(bodies)
            # The current states, in the order of the ids.
            assert [next(received) for _ in range(4)] == [
                (second, "RUNNING"),
                ("operation-1", "SUCCEEDED"),
                (first, "RUNNING"),
                (queued, "QUEUED"),
            ]
            created(gateway, "vm-12")  # no change of these operations
            assert mutate(gateway, CANCEL, operationId=queued)["errors"] == []
            assert next(received) == (queued, "CANCELED")
            with stalled(gateway, "vm-11"):
                pass  # lets the work finish
            ended = next(update for update in received if update != (first, "RUNNING"))
            assert ended == (first, "SUCCEEDED")
            with stalled(gateway, "vm-12"):
                pass
            # Each final state is sent once, and the stream completes with the last one.
            rest = list(received)
    assert rest[-1] == (second, "SUCCEEDED")
    assert set(rest[:-1]) <= {(second, "RUNNING")}


@pytest.mark.parametrize("subscribe", [subscribe_by_sse, subscribe_by_websocket])
def test_operations_that_have_ended(gateway: Served, subscribe: Subscribe) -> None:
    with subscribe(gateway, UPDATED, ids=["operation-2", "operation-1"]) as bodies:
        assert list(updates(bodies)) == [("operation-2", "SUCCEEDED"), ("operation-1", "SUCCEEDED")]


@pytest.mark.parametrize("subscribe", [subscribe_by_sse, subscribe_by_websocket])
@pytest.mark.parametrize(
    ("ids", "code", "message"),
    [
        ([], "BAD_USER_INPUT", "Argument 'ids' has 0 ids; it must have 1 to 100."),
        (
            [f"operation-{n}" for n in range(101)],
            "BAD_USER_INPUT",
            "Argument 'ids' has 101 ids; it must have 1 to 100.",
        ),
        (["operation-1", "x"], "BAD_USER_INPUT", "ids[1]: 'x' is not an id."),
        (["operation-1", "operation-2", "operation-1"], "BAD_USER_INPUT", "ids[2]: 'operation-1' is repeated."),
        (["vm-11", "vm-11"], "BAD_USER_INPUT", "ids[1]: 'vm-11' is repeated."),
        (["operation-1", "vm-11"], "NOT_FOUND", "Operation 'vm-11' was not found."),
        (["operation-1", "operation-999999"], "NOT_FOUND", "Operation 'operation-999999' was not found."),
        (["operation-1", None], "BAD_USER_INPUT", "Variable '$ids' has invalid value"),
        (None, "BAD_USER_INPUT", "Variable '$ids' has invalid value"),
    ],
    ids=range(9),
)
def test_invalid_ids(gateway: Served, subscribe: Subscribe, ids: Any, code: str, message: str) -> None:
    with subscribe(gateway, UPDATED, ids=ids) as bodies:
        (body,) = bodies
    (error,) = body["errors"]
    assert error["extensions"]["code"] == code
    assert error["message"].startswith(message)
    assert body.get("data") is None
