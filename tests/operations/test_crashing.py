"""Killed at every step of every kind of operation: whoever comes next ends it truthfully, and nothing happens twice."""

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any

import pytest
import sqlalchemy as sa

from gateway.store.statements import Statement
from tests.operations.crashing import Death, MortalDatabase, MortalDriver, bury, expire_leases, live_and_die
from tests.operations.world import SETTINGS, TABLES, World, until

pytestmark = pytest.mark.thorough

Run = Callable[..., None]
Picture = list[tuple[str, str, str | None, bool]]

# Writes that fail, one after the other; two rounds for each.
ROUNDS = min(10, int(os.environ.get("GATEWAY_TEST_EXAMPLES", "20")) // 5)

PATIENT = replace(SETTINGS, operation_lease=600.0)  # leases run out when the test says so

A, B, C = ("a", "READY", None, False), ("b", "READY", "a", False), ("c", "READY", "b", True)
BEFORE: Picture = [A, B, C]
AFTER: dict[str, Picture] = {
    "create": [A, B, ("c", "READY", "b", False), ("new", "READY", "c", True)],
    "revert": [("a", "READY", None, True), B, ("c", "READY", "b", False)],
    "delete": [A, ("c", "READY", "a", True)],
    "leaf": [A, ("b", "READY", "a", True)],
}
FAILED: dict[str, Picture] = {
    "create": [*BEFORE, ("new", "ERROR", None, False)],
    "revert": BEFORE,
    "delete": BEFORE,
    "leaf": BEFORE,
}
KINDS = list(AFTER)


_TASKS = Statement(sa.select(TABLES["simulated_task"]))
_entry = TABLES["audit_entry"].c
_ENTRIES = Statement(
    sa.select(_entry.outcome, _entry.code)
    .where(_entry.operation_id == sa.bindparam("operation_id"))
    .order_by(_entry.id)
)


class Trial:
    """One machine with a <- b <- c, and one operation on it."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.ref = f"m{number}"

    async def begin(self, kind: str, fault: dict[str, Any] | None) -> None:
        world = self.world
        self.machine = await world.machine(self.ref)
        numbers: dict[str, int] = {}
        for name, parent in (("a", None), ("b", "a"), ("c", "b")):
            numbers[name] = await world.snapshot(
                self.machine,
                name,
                ref=f"{self.ref}-{name}",
                machine_ref=self.ref,
                parent=numbers[parent] if parent else None,
                current=name == "c",
            )
        await world.simulation.set_behavior(self.ref, latency_ms=1, fault=fault)
        match kind:
            case "create":
                self.operation = (await world.create(self.machine)).operation_id
            case "revert":
                self.operation = (await world.revert(numbers["a"])).operation_id
            case "delete":
                self.operation = (await world.delete(numbers["b"]))[0].operation_id
            case "leaf":
                self.operation = (await world.delete(numbers["c"]))[0].operation_id

    async def check(self, expected: Picture, state: str, code: str | None) -> None:
        rows = {key: row for key, row in (await self.world.snapshots()).items() if row.machine_id == self.machine}
        assert [
            (row.name, row.state.value, rows[row.parent_id].name if row.parent_id else None, row.is_current)
            for row in rows.values()
        ] == expected
        on_provider = [(name, parent, current) for name, state, parent, current in expected if state != "ERROR"]
        assert await self.world.provider_picture(self.ref) == on_provider
        operation = await self.world.operation(self.operation)
        assert (operation.state, operation.error_code) == (state, code)
        entries = await self.world.database.read(lambda tx: tx.all(_ENTRIES, operation_id=self.operation), single=True)
        assert [(row.outcome, row.code) for row in entries] == [("ACCEPTED", None), (state, code)]
        tasks = [row for row in await tasks_of(self.world) if row.token == operation.token]
        assert len(tasks) <= 1, "handed over twice"


async def tasks_of(world: World) -> list[Any]:
    return await world.database.read(lambda tx: tx.all(_TASKS), single=True)


def a_worker(world: World, death: Death, where: str) -> Any:
    if where == "write":
        return world.worker(MortalDatabase(world.database, death))  # type: ignore[arg-type]
    return world.worker(drivers={"sim": MortalDriver(world.driver, death)})


@pytest.mark.parametrize("fault", [None, {"on": "any", "kind": "refuse"}], ids=["well", "refused"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", ["write", "call"])
def test_killed_once(run: Run, where: str, kind: str, fault: dict[str, Any] | None) -> None:
    async def story(world: World) -> None:
        ends = (AFTER[kind], "SUCCEEDED", None) if fault is None else (FAILED[kind], "FAILED", "PROVIDER_FAILED")
        deaths = 0
        for number in count(1):
            death = Death((number + 1) // 2, before=number % 2 == 1)
            trial = Trial(world, number)
            await trial.begin(kind, fault)
            await live_and_die(world, a_worker(world, death, where), death)
            await expire_leases(world)
            await world.finish()
            await trial.check(*ends)
            deaths += death.struck
            # The worker that lives on writes a few empty claims more, so look at how it ended.
            if (await world.operation(trial.operation)).attempt == 1 and death.step > 1:
                break
        assert deaths >= (6 if where == "write" else 2 if fault is None else 1)

    run(story, PATIENT)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("where", ["write", "call"])
def test_each_successor_is_killed_a_step_later(run: Run, where: str, before: bool, kind: str) -> None:
    async def story(world: World) -> None:
        trial = Trial(world, 1)
        await trial.begin(kind, None)
        for step in range(1, 20):
            death = Death(step, before=before)
            await live_and_die(world, a_worker(world, death, where), death)
            await expire_leases(world)
            if await world.states() == ["SUCCEEDED"]:
                break
        await trial.check(AFTER[kind], "SUCCEEDED", None)

    run(story, PATIENT)


@pytest.mark.parametrize("kind", KINDS)
def test_a_database_that_fails_now_and_then(run: Run, kind: str) -> None:
    async def story(world: World) -> None:
        for number in range(1, ROUNDS + 1):
            death = Death((number + 1) // 2, before=number % 2 == 1, error=OSError)
            trial = Trial(world, number)
            await trial.begin(kind, None)
            worker = a_worker(world, death, "write")
            await worker.start()

            await until(partial(ended, world, trial.operation))
            await bury(worker)
            await trial.check(AFTER[kind], "SUCCEEDED", None)

    run(story, replace(SETTINGS, operation_lease=0.3))


async def ended(world: World, operation: int | None) -> bool:
    return (await world.operation(operation)).state.value not in {"QUEUED", "RUNNING"}
