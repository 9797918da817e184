"""A request repeated with the same idempotency key returns the original operation in its current state."""

from typing import Any

from tests.graphql.client import (
    CREATE,
    DELETE,
    REFRESH,
    REVERT,
    await_final_state,
    dump,
    mutate,
)
from tests.serving import Served

SUCCEEDED = ("SUCCEEDED", None)
READY = "READY"


def test_replay_returns_the_same_operation_in_its_current_state(busy: Served) -> None:
    for mutation, arguments, other in (
        (CREATE, {"machineId": "vm-21", "name": "once"}, {"name": "another"}),
        (CREATE, {"machineId": "vm-21", "name": "once", "description": "d"}, {"memory": True}),
        (REVERT, {"snapshotId": "snapshot-336"}, {"snapshotId": "snapshot-337"}),
        (REFRESH, {"machineId": "vm-21"}, {"machineId": "vm-22"}),
    ):
        key = f"replay {mutation[:60]} {len(arguments)}"
        first = mutate(busy, mutation, **arguments, idempotencyKey=key)
        assert first["errors"] == []
        assert await_final_state(busy, first["operation"]["id"]) == SUCCEEDED
        before = dump(busy)
        second = mutate(busy, mutation, **arguments, idempotencyKey=key)
        assert second["operation"] == first["operation"] | {"state": "SUCCEEDED"}
        assert second["errors"] == []
        reused = mutate(busy, mutation, **(arguments | other), idempotencyKey=key)
        assert set(reused) == set(first)
        assert [value for name, value in reused.items() if name != "errors"] == [None] * (len(reused) - 1)
        assert reused["errors"] == [REUSED]
        assert dump(busy) == before


REUSED = {
    "code": "IDEMPOTENCY_KEY_REUSED",
    "message": "The idempotency key was used for a request with other arguments. Use a new key.",
    "path": ["input", "idempotencyKey"],
    "conflict": None,
}


def test_replay_of_a_delete(busy: Served) -> None:
    arguments: dict[str, Any] = {"ids": ["snapshot-341", "snapshot-999999"], "idempotencyKey": "delete"}
    first = mutate(busy, DELETE, **arguments)
    operation = first["results"][0]["operation"]
    assert await_final_state(busy, operation["id"]) == SUCCEEDED
    before = dump(busy)
    second = mutate(busy, DELETE, **arguments)
    assert second["results"][0] == {
        "snapshotId": "snapshot-341",
        "isDescendant": False,
        "operation": operation | {"state": "SUCCEEDED"},
        "snapshot": None,
        "errors": [],
    }
    assert second["results"][1] == first["results"][1]
    assert (second["acceptedCount"], second["refusedCount"]) == (1, 1)
    for other in ({"ids": ["snapshot-341"]}, {"withDescendants": True}, {"allOrNothing": True}):
        reused = mutate(busy, DELETE, **(arguments | other))
        assert reused == {"acceptedCount": 0, "refusedCount": 0, "results": [], "errors": [REUSED]}
    assert dump(busy) == before


def test_key_is_scoped_to_the_mutation_and_not_used_by_a_refusal(busy: Served) -> None:
    key = {"idempotencyKey": "shared"}
    before = dump(busy)
    assert mutate(busy, CREATE, machineId="vm-23", name="n", memory=True, **key)["errors"][0]["code"] == "UNSUPPORTED"
    assert dump(busy) == before
    one = mutate(busy, CREATE, machineId="vm-23", name="n", **key)["operation"]["id"]
    assert await_final_state(busy, one) == SUCCEEDED
    two = mutate(busy, REFRESH, machineId="vm-23", **key)["operation"]["id"]
    assert one != two
    assert await_final_state(busy, two) == SUCCEEDED
