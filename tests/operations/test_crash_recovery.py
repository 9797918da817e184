"""Crash at every step of every kind of operation: the next worker ends it with its true outcome; nothing runs twice."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa
from sqlmodel import col

from gateway.models import AuditEntry, AuditOutcome
from gateway.store.statements import Query
from tests.examples import EXAMPLES
from tests.operations.crash_injection import (
    CrashingDatabase,
    CrashingDriver,
    CrashPoint,
    expire_leases,
    kill_workers,
    run_until_crash,
)
from tests.operations.world import SETTINGS, TABLES, World, all_rows
from tests.waiting import at_most, until_async

pytestmark = pytest.mark.thorough

Run = Callable[..., None]
Picture = list[tuple[str, str, str | None, bool]]

# Operations with one failing write each, before and after its effect.
ROUNDS = min(10, EXAMPLES // 5)

A, B, C = ("a", "READY", None, False), ("b", "READY", "a", False), ("c", "READY", "b", True)
BEFORE: Picture = [A, B, C]
AFTER: dict[str, Picture] = {
    "create": [A, B, ("c", "READY", "b", False), ("new", "READY", "c", True)],
    "revert": [("a", "READY", None, True), B, ("c", "READY", "b", False)],
    "delete": [A, ("c", "READY", "a", True)],
    "leaf": [A, ("b", "READY", "a", True)],
    "update": [A, ("B", "READY", "a", False), ("c", "READY", "B", True)],
}
FAILED: dict[str, Picture] = dict.fromkeys(AFTER, BEFORE) | {"create": [*BEFORE, ("new", "ERROR", None, False)]}
KINDS = list(AFTER)


class AuditedOutcome(NamedTuple):
    outcome: AuditOutcome
    code: str | None


_TASKS = all_rows(TABLES["simulated_task"])
_AUDIT_ENTRIES = Query(
    sa.select(col(AuditEntry.outcome), col(AuditEntry.code))
    .where(col(AuditEntry.operation_id) == sa.bindparam("operation_id"))
    .order_by(col(AuditEntry.id)),
    AuditedOutcome,
)


class Trial:
    """One machine with a <- b <- c, and one operation on it."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.ref = f"m{number}"

    async def start(self, kind: str, fault: dict[str, Any] | None) -> None:
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
            case "update":
                self.operation = (await world.update(numbers["b"], name="B", description="new")).operation_id

    async def check(self, expected: Picture, state: str, code: str | None) -> None:
        rows = {key: row for key, row in (await self.world.snapshots()).items() if row.machine_id == self.machine}
        assert [
            (row.name, row.state.value, rows[row.parent_id].name if row.parent_id else None, row.is_current)
            for row in rows.values()
        ] == expected
        on_provider = [(name, parent, current) for name, state, parent, current in expected if state != "ERROR"]
        assert await self.world.provider_picture(self.ref) == on_provider
        contents = await self.world.simulation.contents(self.ref)
        assert contents is not None
        for some in (contents[1], [row for row in rows.values() if row.state != "ERROR"]):
            assert [row.name for row in some if row.description == "new"] == [
                name for name, *_ in expected if name == "B"
            ]
        operation = await self.world.operation(self.operation)
        assert (operation.state, operation.error_code) == (state, code)
        entries = await self.world.database.read(
            lambda tx: tx.all(_AUDIT_ENTRIES, operation_id=self.operation), single=True
        )
        assert [(row.outcome, row.code) for row in entries] == [("ACCEPTED", None), (state, code)]
        tasks = [row for row in await tasks_of(self.world) if row.token == operation.token]
        assert len(tasks) <= 1, "the command was sent twice"


async def tasks_of(world: World) -> list[Any]:
    return await world.database.read(lambda tx: tx.all(_TASKS), single=True)


def crashing_worker(world: World, crash_point: CrashPoint, where: str) -> Any:
    if where == "write":
        return world.worker(CrashingDatabase(world.database, crash_point))  # type: ignore[arg-type]
    return world.worker(drivers={"sim": CrashingDriver(world.driver, crash_point)})


@pytest.mark.parametrize("fault", [None, {"on": "any", "kind": "refuse"}], ids=["no fault", "refused"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", ["write", "call"])
def test_crash_at_every_step(run: Run, where: str, kind: str, fault: dict[str, Any] | None) -> None:
    async def story(world: World) -> None:
        ends = (AFTER[kind], "SUCCEEDED", None) if fault is None else (FAILED[kind], "FAILED", "PROVIDER_FAILED")
        crashes = 0
        for number in at_most(200):
            crash_point = CrashPoint((number + 1) // 2, before=number % 2 == 1)
            trial = Trial(world, number)
            await trial.start(kind, fault)
            await run_until_crash(world, crashing_worker(world, crash_point, where), crash_point)
            await expire_leases(world)
            await world.finish()
            picture, state, code = ends
            operation = await world.operation(trial.operation)
            if kind == "update" and fault is not None and operation.attempt > 1:
                # It has no recovery: if the first attempt was dispatched, it may have taken effect.
                code = "OUTCOME_UNKNOWN" if where == "call" else operation.error_code
                assert code in ("PROVIDER_FAILED", "OUTCOME_UNKNOWN")
            await trial.check(picture, state, code)
            crashes += crash_point.reached
            # A worker makes a few empty claims more after the last step, so the number of attempts decides.
            if (await world.operation(trial.operation)).attempt == 1 and crash_point.step > 1:
                break
        assert crashes >= (6 if where == "write" else 2 if fault is None else 1)

    run(story)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("where", ["write", "call"])
def test_each_next_worker_crashes_one_step_later(run: Run, where: str, before: bool, kind: str) -> None:
    async def story(world: World) -> None:
        trial = Trial(world, 1)
        await trial.start(kind, None)
        for step in range(1, 20):
            crash_point = CrashPoint(step, before=before)
            await run_until_crash(world, crashing_worker(world, crash_point, where), crash_point)
            await expire_leases(world)
            if await world.states() == ["SUCCEEDED"]:
                break
        await trial.check(AFTER[kind], "SUCCEEDED", None)

    run(story)


@pytest.mark.parametrize("kind", KINDS)
def test_failing_writes(run: Run, kind: str) -> None:
    async def story(world: World) -> None:
        for number in range(1, ROUNDS + 1):
            crash_point = CrashPoint((number + 1) // 2, before=number % 2 == 1, error=OSError)
            trial = Trial(world, number)
            await trial.start(kind, None)
            worker = crashing_worker(world, crash_point, "write")
            await worker.start()

            await until_async(partial(ended, world, trial.operation))
            await kill_workers()
            await trial.check(AFTER[kind], "SUCCEEDED", None)

    run(story, replace(SETTINGS, operation_lease=0.3))


async def ended(world: World, operation: int | None) -> bool:
    return (await world.operation(operation)).state.value not in {"QUEUED", "RUNNING"}
