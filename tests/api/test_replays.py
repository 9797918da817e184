"""A request that is sent again with its key is the same request, and shows what became of it."""

from collections.abc import Iterator
from typing import Any

import pytest

from gateway.config import Settings
from tests.api.asking import (
    CREATE,
    DELETE,
    REFRESH,
    REVERT,
    dump,
    ended,
    latency,
    wish,
)
from tests.databases import KINDS, Databases
from tests.serving import Served, served

SUCCEEDED = ("SUCCEEDED", None)
READY = "READY"


@pytest.fixture(scope="module", params=KINDS)
def gateway(request: pytest.FixtureRequest, databases: Databases) -> Iterator[Served]:
    """The demo world, whose providers need no time; each test has machines of its own in it."""
    settings = Settings(database_url=databases.new(request.param), drain_timeout=0.1)
    with served(settings, demo=True) as gateway:
        latency(gateway, 0)
        yield gateway


def test_a_replay_shows_the_same_operation_as_it_is_now(gateway: Served) -> None:
    for mutation, wished, other in (
        (CREATE, {"machineId": "vm-21", "name": "once"}, {"name": "another"}),
        (CREATE, {"machineId": "vm-21", "name": "once", "description": "d"}, {"memory": True}),
        (REVERT, {"snapshotId": "snapshot-336"}, {"snapshotId": "snapshot-337"}),
        (REFRESH, {"machineId": "vm-21"}, {"machineId": "vm-22"}),
    ):
        key = f"replay {mutation[:60]} {len(wished)}"
        first = wish(gateway, mutation, **wished, idempotencyKey=key)
        assert first["errors"] == []
        assert ended(gateway, first["operation"]["id"]) == SUCCEEDED
        before = dump(gateway)
        second = wish(gateway, mutation, **wished, idempotencyKey=key)
        assert second["operation"] == first["operation"] | {"state": "SUCCEEDED"}
        assert second["errors"] == []
        reused = wish(gateway, mutation, **(wished | other), idempotencyKey=key)
        assert set(reused) == set(first)
        assert [value for name, value in reused.items() if name != "errors"] == [None] * (len(reused) - 1)
        assert reused["errors"] == [REUSED]
        assert dump(gateway) == before


REUSED = {
    "code": "IDEMPOTENCY_KEY_REUSED",
    "message": "the idempotency key was used for a request with other arguments",
    "path": ["input", "idempotencyKey"],
    "conflict": None,
}


def test_a_replay_of_a_delete(gateway: Served) -> None:
    wished: dict[str, Any] = {"ids": ["snapshot-341", "snapshot-999999"], "idempotencyKey": "delete"}
    first = wish(gateway, DELETE, **wished)
    operation = first["results"][0]["operation"]
    assert ended(gateway, operation["id"]) == SUCCEEDED
    before = dump(gateway)
    second = wish(gateway, DELETE, **wished)
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
        reused = wish(gateway, DELETE, **(wished | other))
        assert reused == {"acceptedCount": 0, "refusedCount": 0, "results": [], "errors": [REUSED]}
    assert dump(gateway) == before


def test_a_key_is_one_mutations_own_and_a_refusal_leaves_it_free(gateway: Served) -> None:
    key = {"idempotencyKey": "shared"}
    before = dump(gateway)
    assert wish(gateway, CREATE, machineId="vm-23", name="n", memory=True, **key)["errors"][0]["code"] == "UNSUPPORTED"
    assert dump(gateway) == before
    one = wish(gateway, CREATE, machineId="vm-23", name="n", **key)["operation"]["id"]
    assert ended(gateway, one) == SUCCEEDED
    two = wish(gateway, REFRESH, machineId="vm-23", **key)["operation"]["id"]
    assert one != two
    assert ended(gateway, two) == SUCCEEDED
