"""Connections lost around the COMMIT of a write: the outcome is unknown, or found by the idempotency key."""

from typing import Any

import pytest

from tests.faults.client import CREATE, create, query_error, retry_until_served
from tests.faults.conftest import RelayedGateway

COMMIT = b"COMMIT\x00"
NAME = b"uncertain"
MINE = '{ vm(id: "vm-11") { snapshots(filter: {name: {eq: "uncertain"}}) { totalCount } } }'
INPUT = {"machineId": "vm-11", "name": "uncertain"}


@pytest.fixture
def quiet(relayed: RelayedGateway) -> RelayedGateway:
    """Stops the worker and the refreshes, so that nothing but the test changes the machines."""
    relayed.gateway.run(relayed.gateway.gateway.worker.stop())
    relayed.gateway.run(relayed.gateway.gateway.jobs.stop())
    return relayed


def count(relayed: RelayedGateway) -> int:
    number: int = retry_until_served(relayed.gateway, MINE)["vm"]["snapshots"]["totalCount"]
    return number


@pytest.mark.parametrize("passed_on", [True, False], ids=["committed", "not committed"])
def test_without_a_key_the_outcome_is_unknown(quiet: RelayedGateway, passed_on: bool) -> None:
    quiet.relay.cut_at(COMMIT, after=NAME, passed_on=passed_on)
    code, retryable, message = query_error(quiet.gateway, CREATE, {"input": INPUT})
    assert quiet.relay.cuts == 1
    assert (code, retryable) == ("OUTCOME_UNKNOWN", False)
    assert message.endswith("Repeat it with the same idempotency key, or check the current state before repeating it.")
    assert count(quiet) == (1 if passed_on else 0)


@pytest.mark.parametrize("passed_on", [True, False], ids=["committed", "not committed"])
def test_with_a_key_the_outcome_is_found(quiet: RelayedGateway, passed_on: bool) -> None:
    quiet.relay.cut_at(COMMIT, after=NAME, passed_on=passed_on)
    first = create(quiet.gateway, "uncertain", idempotencyKey="k")["data"]["createSnapshot"]
    assert quiet.relay.cuts == 1
    assert first["errors"] == []
    assert create(quiet.gateway, "uncertain", idempotencyKey="k")["data"]["createSnapshot"] == first
    assert count(quiet) == 1


@pytest.mark.parametrize("passed_on", [True, False], ids=["committed", "not committed"])
def test_with_a_key_the_outcome_is_unknown_while_the_database_is_absent(quiet: RelayedGateway, passed_on: bool) -> None:
    """The database cannot be asked whether the COMMIT took effect. The same request with the key finds out later."""
    quiet.relay.cut_at(COMMIT, after=NAME, passed_on=passed_on, then_refuse=True)
    code, retryable, message = query_error(quiet.gateway, CREATE, {"input": {**INPUT, "idempotencyKey": "k"}})
    assert quiet.relay.cuts == 1
    assert (code, retryable) == ("OUTCOME_UNKNOWN", False)
    assert message.endswith("Repeat it with the same idempotency key, or check the current state before repeating it.")
    quiet.relay.heal()
    assert count(quiet) == (1 if passed_on else 0)
    assert create(quiet.gateway, "uncertain", idempotencyKey="k")["data"]["createSnapshot"]["errors"] == []
    assert count(quiet) == 1


def test_with_a_key_the_outcome_is_unknown_over_rest_while_the_database_is_absent(quiet: RelayedGateway) -> None:
    quiet.relay.cut_at(COMMIT, after=NAME, passed_on=True, then_refuse=True)
    key = {"idempotency-key": "k"}
    answer = quiet.gateway.http.post("/api/vms/11/snapshots", json={"name": "uncertain"}, headers=key)
    assert (answer.status_code, answer.json()["error"]["kind"]) == (504, "gateway_timeout")
    quiet.relay.heal()
    assert count(quiet) == 1


def test_outcome_is_unknown_over_rest(quiet: RelayedGateway) -> None:
    quiet.relay.cut_at(COMMIT, after=NAME, passed_on=True)
    answer = quiet.gateway.http.post("/api/vms/11/snapshots", json={"name": "uncertain"})
    assert (answer.status_code, answer.json()["error"]["kind"]) == (504, "gateway_timeout")
    assert "retry-after" not in answer.headers
    assert count(quiet) == 1


@pytest.mark.thorough
def test_accepted_mutation_is_not_reported_as_retryable(quiet: RelayedGateway) -> None:
    """The database becomes unavailable between the commit and the read of the payload."""
    database = quiet.gateway.gateway.database
    write = database.write

    async def write_and_lose(work: Any) -> Any:
        result = await write(work)
        quiet.relay.refuse()
        return result

    database.write = write_and_lose  # type: ignore[method-assign]
    code, retryable, message = query_error(quiet.gateway, CREATE, {"input": INPUT})
    assert (code, retryable) == ("OUTCOME_UNKNOWN", False)
    assert message.startswith(
        "The mutation was decided, but the database became unavailable before its payload could be read."
    )
    quiet.relay.heal()
    assert count(quiet) == 1


def test_unknown_outcome_of_one_item_keeps_the_results_of_the_others(quiet: RelayedGateway) -> None:
    """REST creates one after the other. The second outcome is unknown, the others are reported."""
    database = quiet.gateway.gateway.database
    write, calls = database.write, 0

    async def write_but_lose_the_second(work: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            quiet.relay.cut_at(COMMIT, after=b"n1", passed_on=False)
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
    assert [node["name"] for node in retry_until_served(quiet.gateway, nodes)["vm"]["snapshots"]["nodes"]] == [
        "n0",
        "n2",
    ]
