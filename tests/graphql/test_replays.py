"""A request that is sent again with its key is the same request, and shows what became of it."""

from typing import Any

from tests.graphql.asking import (
    CREATE,
    DELETE,
    REFRESH,
    REVERT,
    dump,
    ended,
    wish,
)
from tests.serving import Served

SUCCEEDED = ("SUCCEEDED", None)
READY = "READY"


def test_a_replay_shows_the_same_operation_as_it_is_now(busy: Served) -> None:
    for mutation, wished, other in (
        (CREATE, {"machineId": "vm-21", "name": "once"}, {"name": "another"}),
        (CREATE, {"machineId": "vm-21", "name": "once", "description": "d"}, {"memory": True}),
        (REVERT, {"snapshotId": "snapshot-336"}, {"snapshotId": "snapshot-337"}),
        (REFRESH, {"machineId": "vm-21"}, {"machineId": "vm-22"}),
    ):
        key = f"replay {mutation[:60]} {len(wished)}"
        first = wish(busy, mutation, **wished, idempotencyKey=key)
        assert first["errors"] == []
        assert ended(busy, first["operation"]["id"]) == SUCCEEDED
        before = dump(busy)
        second = wish(busy, mutation, **wished, idempotencyKey=key)
        assert second["operation"] == first["operation"] | {"state": "SUCCEEDED"}
        assert second["errors"] == []
        reused = wish(busy, mutation, **(wished | other), idempotencyKey=key)
        assert set(reused) == set(first)
        assert [value for name, value in reused.items() if name != "errors"] == [None] * (len(reused) - 1)
        assert reused["errors"] == [REUSED]
        assert dump(busy) == before


REUSED = {
    "code": "IDEMPOTENCY_KEY_REUSED",
    "message": "the idempotency key was used for a request with other arguments",
    "path": ["input", "idempotencyKey"],
    "conflict": None,
}


def test_a_replay_of_a_delete(busy: Served) -> None:
    wished: dict[str, Any] = {"ids": ["snapshot-341", "snapshot-999999"], "idempotencyKey": "delete"}
    first = wish(busy, DELETE, **wished)
    operation = first["results"][0]["operation"]
    assert ended(busy, operation["id"]) == SUCCEEDED
    before = dump(busy)
    second = wish(busy, DELETE, **wished)
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
        reused = wish(busy, DELETE, **(wished | other))
        assert reused == {"acceptedCount": 0, "refusedCount": 0, "results": [], "errors": [REUSED]}
    assert dump(busy) == before


def test_a_key_is_one_mutations_own_and_a_refusal_leaves_it_free(busy: Served) -> None:
    key = {"idempotencyKey": "shared"}
    before = dump(busy)
    assert wish(busy, CREATE, machineId="vm-23", name="n", memory=True, **key)["errors"][0]["code"] == "UNSUPPORTED"
    assert dump(busy) == before
    one = wish(busy, CREATE, machineId="vm-23", name="n", **key)["operation"]["id"]
    assert ended(busy, one) == SUCCEEDED
    two = wish(busy, REFRESH, machineId="vm-23", **key)["operation"]["id"]
    assert one != two
    assert ended(busy, two) == SUCCEEDED
