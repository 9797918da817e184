"""What every driver keeps to, each call repeated. A new driver adds a maker of its world to DRIVERS."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway.drivers.base import CreateWish, DeleteWish, Driver, Recovery, RevertWish, SeenSnapshot, Work
from gateway.drivers.simulated import SimulatedDriver
from gateway.errors import ProviderMissing, ProviderRefused
from gateway.models import MachineKind, PowerState, SnapshotAction
from gateway.store.migrate import migrate
from gateway.store.opening import open_database
from gateway.store.simulation import Simulation


@dataclass
class Subject:
    """A driver and two machines without snapshots that it has: one runs, one is off. None where it has no such."""

    driver: Driver
    vm: str
    off: str | None
    instance: str | None


@asynccontextmanager
async def simulated(directory: Path) -> AsyncIterator[Subject]:
    url = f"sqlite:///{directory}/gateway.db"
    migrate(url)
    database = open_database(url, read_connections=2, write_connections=1, read_timeout=10)
    simulation = Simulation(database)
    for ref, kind, power in (
        ("vm", MachineKind.VM, PowerState.ON),
        ("off", MachineKind.VM, PowerState.OFF),
        ("instance", MachineKind.INSTANCE, PowerState.ON),
    ):
        await simulation.put_machine(ref, provider="p", kind=kind, name=ref, power_state=power, latency_ms=5)
    await simulation.put_machine("foreign", provider="q", kind=MachineKind.VM, name="foreign")
    try:
        yield Subject(SimulatedDriver("p", simulation), "vm", "off", "instance")
    finally:
        await database.close()


DRIVERS: dict[str, Callable[[Path], AbstractAsyncContextManager[Subject]]] = {"simulated": simulated}

Test = Callable[[Subject], Awaitable[None]]


@pytest.fixture(params=DRIVERS)
def check(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Test], None]:
    def run(test: Test) -> None:
        async def inside() -> None:
            async with DRIVERS[request.param](tmp_path) as subject:
                await test(subject)
                await subject.driver.close()

        asyncio.run(inside())

    return run


class Watched:
    """What a piece of work told."""

    def __init__(self, token: str) -> None:
        self.told: list[Any] = []
        self.tasks: list[str] = []
        self.work = Work(token, checkpoint=self._checkpoint, progress=self._progress)

    async def _checkpoint(self, task_ref: str) -> None:
        self.tasks.append(task_ref)

    async def _progress(self, percent: int | None, phase: str | None) -> None:
        assert percent is None or 0 <= percent <= 100
        self.told.append((percent, phase))


async def make(subject: Subject, name: str, machine: str | None = None, token: str | None = None) -> SeenSnapshot:
    wish = CreateWish(machine or subject.vm, name, None, False)
    return await subject.driver.create(Work(token or f"token-{name}"), wish)


def test_machines_are_reported_the_same_each_time(check: Callable[[Test], None]) -> None:
    async def test(subject: Subject) -> None:
        driver = subject.driver
        await driver.health()
        machines = await driver.machines()
        assert {subject.vm} <= {machine.ref for machine in machines}
        assert "foreign" not in {machine.ref for machine in machines}
        assert await driver.machines() == machines
        for machine in machines:
            for _ in range(2):
                assert await driver.machine(machine.ref) == machine
                assert list((await driver.snapshots(machine.ref)).snapshots) == []

    check(test)


def test_what_is_missing_is_missing_each_time(check: Callable[[Test], None]) -> None:
    async def test(subject: Subject) -> None:
        driver = subject.driver
        for _ in range(2):
            for call in (
                driver.machine("nowhere"),
                driver.snapshots("nowhere"),
                driver.machine("foreign"),
                driver.create(Work("t1"), CreateWish("nowhere", "n", None, False)),
                driver.delete(Work("t2"), DeleteWish("nowhere", "none")),
                driver.delete(Work("t3"), DeleteWish(subject.vm, "none")),
                driver.revert(Work("t4"), RevertWish(subject.vm, "none")),
            ):
                with pytest.raises(ProviderMissing):
                    await call

    check(test)


def test_snapshots_make_a_tree(check: Callable[[Test], None]) -> None:
    async def test(subject: Subject) -> None:
        driver = subject.driver
        a = await make(subject, "a")
        b = await make(subject, "b")
        same_name = await make(subject, "b", token="other")
        assert len({a.ref, b.ref, same_name.ref}) == 3
        seen = await driver.snapshots(subject.vm)
        assert {s.ref: s for s in seen.snapshots} == {s.ref: s for s in (a, b, same_name)}
        assert await driver.snapshots(subject.vm) == seen
        if not driver.matrix(MachineKind.VM).tree:
            return
        assert (a.parent_ref, b.parent_ref, same_name.parent_ref, seen.current_ref) == (
            None,
            a.ref,
            b.ref,
            same_name.ref,
        )
        await driver.revert(Work("r"), RevertWish(subject.vm, a.ref))
        assert (await driver.snapshots(subject.vm)).current_ref == a.ref
        c = await make(subject, "c")
        assert c.parent_ref == a.ref
        await driver.delete(Work("d"), DeleteWish(subject.vm, a.ref))
        seen = await driver.snapshots(subject.vm)
        assert {s.ref: s.parent_ref for s in seen.snapshots} == {b.ref: None, same_name.ref: b.ref, c.ref: None}
        assert seen.current_ref == c.ref
        order = [s.ref for s in seen.snapshots]
        assert order.index(b.ref) < order.index(same_name.ref)

    check(test)


def test_deleting_what_is_deleted(check: Callable[[Test], None]) -> None:
    async def test(subject: Subject) -> None:
        a = await make(subject, "a")
        wish = DeleteWish(subject.vm, a.ref)
        await subject.driver.delete(Work("d"), wish)
        for token in ("d", "d", "e"):
            with pytest.raises(ProviderMissing):
                await subject.driver.delete(Work(token), wish)
        assert list((await subject.driver.snapshots(subject.vm)).snapshots) == []

    check(test)


def test_recovery_finds_what_was_done_and_does_nothing(check: Callable[[Test], None]) -> None:
    async def test(subject: Subject) -> None:
        driver = subject.driver
        create = CreateWish(subject.vm, "a", "why", False)
        for _ in range(2):
            assert await driver.recover(Work("c"), create) is Recovery.NOT_BEGUN
        watched = Watched("c")
        made = await driver.create(watched.work, create)
        assert (made.name, made.description, made.memory) == ("a", "why", False)
        task = watched.tasks[-1] if watched.tasks else None
        for _ in range(2):
            assert await driver.recover(Work("c", task), create) == made
        revert, delete = RevertWish(subject.vm, made.ref), DeleteWish(subject.vm, made.ref)
        watched = Watched("r")
        await driver.revert(watched.work, revert)
        task = watched.tasks[-1] if watched.tasks else None
        assert await driver.recover(Work("r", task), revert) is Recovery.DONE
        assert await driver.recover(Work("d"), delete) is Recovery.NOT_BEGUN
        assert [s.ref for s in (await driver.snapshots(subject.vm)).snapshots] == [made.ref]
        watched = Watched("d")
        await driver.delete(watched.work, delete)
        task = watched.tasks[-1] if watched.tasks else None
        for _ in range(2):
            assert await driver.recover(Work("d", task), delete) is Recovery.DONE

    check(test)


def test_what_the_matrix_says_no_to_is_refused(check: Callable[[Test], None]) -> None:
    async def test(subject: Subject) -> None:
        driver = subject.driver
        vms, instances = driver.matrix(MachineKind.VM), driver.matrix(MachineKind.INSTANCE)
        if subject.off is not None and vms.reason_against(SnapshotAction.CREATE_WITH_MEMORY, PowerState.OFF):
            with pytest.raises(ProviderRefused):
                await driver.create(Work("m"), CreateWish(subject.off, "m", None, True))
            assert list((await driver.snapshots(subject.off)).snapshots) == []
        if subject.instance is not None and instances.reason_against(SnapshotAction.REVERT, PowerState.ON):
            made = await make(subject, "image", subject.instance)
            with pytest.raises(ProviderRefused):
                await driver.revert(Work("r"), RevertWish(subject.instance, made.ref))
            assert made.parent_ref is None
            assert (await driver.snapshots(subject.instance)).current_ref is None

    check(test)
