"""Two gateways on one database (PostgreSQL or one SQLite file): one order per machine, one operation per key."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import pytest

from tests.cli.programs import Program, serving
from tests.databases import KINDS, Databases
from tests.faults.client import CREATE
from tests.waiting import until

pytestmark = pytest.mark.thorough

FINISHED = (
    '{ vm(id: "%s") { operations(first: 1000, sort: [{field: ID, direction: ASC}])'
    " { nodes { id state startedAt finishedAt snapshotName } } } }"
)
UNFINISHED = "{ operations(filter: {state: {in: [QUEUED, RUNNING]}}) { totalCount } }"


@pytest.fixture(scope="module", params=KINDS)
def programs(request: pytest.FixtureRequest, databases: Databases) -> Iterator[tuple[Program, Program]]:
    url = databases.new(request.param)
    with serving("--demo", "--database-url", url) as one, serving("--database-url", url) as other:
        yield one, other


def created(program: Program, machine: str, name: str, key: str | None = None) -> dict[str, Any]:
    arguments = {"machineId": machine, "name": name, "idempotencyKey": key}
    if key is None:
        del arguments["idempotencyKey"]
    payload: dict[str, Any] = program.ask(CREATE, input=arguments)["createSnapshot"]
    return payload


def finished(program: Program, machine: str, prefix: str) -> list[dict[str, Any]]:
    """Waits until all operations have ended. Returns those of the machine whose snapshot has the prefix in its name."""
    until(lambda: program.ask(UNFINISHED)["operations"]["totalCount"] == 0)
    nodes = program.ask(FINISHED % machine)["vm"]["operations"]["nodes"]
    return [node for node in nodes if (node["snapshotName"] or "").startswith(prefix)]


def test_operations_of_a_machine_run_in_order(programs: tuple[Program, Program]) -> None:
    """An operation starts after the previous one has ended, whichever process accepted or runs them."""
    with ThreadPoolExecutor(6) as clients:
        answers = list(clients.map(lambda n: created(programs[n % 2], "vm-12", f"ordered {n}"), range(8)))
    assert [answer["errors"] for answer in answers] == [[]] * 8
    done = finished(programs[1], "vm-12", "ordered")
    assert [node["state"] for node in done] == ["SUCCEEDED"] * 8
    assert {node["id"] for node in done} == {answer["operation"]["id"] for answer in answers}
    assert all(after["startedAt"] >= before["finishedAt"] for before, after in pairwise(done))


@pytest.mark.parametrize("attempt", range(3))
def test_one_operation_per_key(programs: tuple[Program, Program], attempt: int) -> None:
    """Twelve identical concurrent requests through both processes: one operation, and the same response to all."""
    key = f"key {attempt}"
    with ThreadPoolExecutor(12) as clients:
        answers = list(clients.map(lambda n: created(programs[n % 2], "vm-11", key, key), range(12)))
    assert answers == [answers[0]] * 12
    assert answers[0]["errors"] == []
    assert [node["id"] for node in finished(programs[0], "vm-11", key)] == [answers[0]["operation"]["id"]]
