"""A connection that is lost around the COMMIT of a write: nobody can know what came of it but the database."""

from typing import Any

import pytest

from tests.faults.asking import CREATE, create, eventually, told
from tests.faults.conftest import Wired

COMMIT = b"COMMIT\x00"
MINE = '{ vm(id: "vm-11") { snapshots(filter: {name: {eq: "doubtful"}}) { totalCount } } }'
WISH = {"machineId": "vm-11", "name": "doubtful"}


@pytest.fixture
def quiet(wired: Wired) -> Wired:
    """Nothing else commits: what is cut next is the mutation's."""
    wired.gateway.run(wired.gateway.gateway.worker.stop())
    wired.gateway.run(wired.gateway.gateway.inventory.stop())
    return wired


def count(wired: Wired) -> int:
    number: int = eventually(wired.gateway, MINE)["vm"]["snapshots"]["totalCount"]
    return number


@pytest.mark.parametrize("passed_on", [True, False], ids=["committed", "not committed"])
def test_without_a_key_the_outcome_is_unknown(quiet: Wired, passed_on: bool) -> None:
    quiet.wire.cut_at(COMMIT, passed_on=passed_on)
    code, retryable, message = told(quiet.gateway, CREATE, {"input": WISH})
    assert quiet.wire.cuts == 1
    assert (code, retryable) == ("OUTCOME_UNKNOWN", False)
    assert message.endswith("repeat it with the same idempotency key, or look before you ask again")
    assert count(quiet) == (1 if passed_on else 0)


@pytest.mark.parametrize("passed_on", [True, False], ids=["committed", "not committed"])
def test_with_a_key_the_gateway_finds_the_truth(quiet: Wired, passed_on: bool) -> None:
    quiet.wire.cut_at(COMMIT, passed_on=passed_on)
    first = create(quiet.gateway, "doubtful", idempotencyKey="k")["data"]["createSnapshot"]
    assert quiet.wire.cuts == 1
    assert first["errors"] == []
    assert create(quiet.gateway, "doubtful", idempotencyKey="k")["data"]["createSnapshot"] == first
    assert count(quiet) == 1


def test_by_rest(quiet: Wired) -> None:
    quiet.wire.cut_at(COMMIT, passed_on=True)
    answer = quiet.gateway.http.post("/api/vms/11/snapshots", json={"name": "doubtful"})
    assert (answer.status_code, answer.json()["error"]["kind"]) == (504, "gateway_timeout")
    assert "retry-after" not in answer.headers
    assert count(quiet) == 1


@pytest.mark.thorough
def test_what_was_accepted_is_not_called_retryable(quiet: Wired) -> None:
    """The database goes away between the commit and the reading of the answer."""
    database = quiet.gateway.gateway.database
    write = database.write

    async def write_and_lose(work: Any) -> Any:
        result = await write(work)
        quiet.wire.refuse()
        return result

    database.write = write_and_lose  # type: ignore[method-assign]
    code, retryable, message = told(quiet.gateway, CREATE, {"input": WISH})
    assert (code, retryable) == ("OUTCOME_UNKNOWN", False)
    assert message.startswith("this was decided, but the database went away before the answer could be read")
    quiet.wire.heal()
    assert count(quiet) == 1


def test_one_of_several_hides_nothing_of_the_others(quiet: Wired) -> None:
    """REST creates one after the other: the second is lost, the others are told."""
    database = quiet.gateway.gateway.database
    write, calls = database.write, 0

    async def write_but_lose_the_second(work: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            quiet.wire.cut_at(COMMIT, passed_on=False)
        return await write(work)

    database.write = write_but_lose_the_second  # type: ignore[method-assign]
    items = [{"name": f"n{number}"} for number in range(3)]
    answer = quiet.gateway.http.post("/api/vms/11/snapshots", json={"action": "create", "resources": items})
    results = answer.json()["results"]
    assert [(result["success"], result.get("code")) for result in results] == [
        (True, None),
        (False, "OUTCOME_UNKNOWN"),
        (True, None),
    ]
    nodes = '{ vm(id: "vm-11") { snapshots(filter: {name: {like: "n*"}}, sort: [{field: NAME}]) { nodes { name } } } }'
    assert [node["name"] for node in eventually(quiet.gateway, nodes)["vm"]["snapshots"]["nodes"]] == ["n0", "n2"]
