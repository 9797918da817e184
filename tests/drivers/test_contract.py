"""The contract of all drivers, with every call repeated. A new driver only adds a module to `worlds`."""

import asyncio
import pkgutil
from collections.abc import Awaitable, Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from gateway.drivers.base import (
    CreateCommand,
    DeleteCommand,
    Recovery,
    ReportedSnapshot,
    RevertCommand,
    UpdateCommand,
    Work,
)
from gateway.errors import ProviderMissing, ProviderRefused
from gateway.models import SnapshotAction
from tests.databases import required
from tests.drivers import worlds
from tests.drivers.subject import Subject

# The first starts machines, and `libvirt_test` has the same driver; the second takes as long as all others together.
SLOW = {"libvirt_qemu", "ec2"}
WORLDS = [
    pytest.param(name, marks=pytest.mark.thorough) if name in SLOW else name
    for name in sorted(module.name for module in pkgutil.iter_modules(worlds.__path__))
]

Test = Callable[[Subject], Awaitable[None]]


@pytest.fixture(params=WORLDS)
def check(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Test], None]:
    world = import_module(f"tests.drivers.worlds.{request.param}")
    if reason := world.lacking():
        (pytest.fail if required(world.PART) else pytest.skip)(reason)

    def run(test: Test) -> None:
        async def inside() -> None:
            async with world.world(tmp_path) as subject:
                try:
                    await test(subject)
                finally:
                    await subject.driver.close()

        asyncio.run(inside())

    return run


class Watched:
    """A `Work` that records its checkpoints and progress reports."""

    def __init__(self, token: str) -> None:
        self.reports: list[Any] = []
        self.tasks: list[str] = []
        self.work = Work(token, checkpoint=self._checkpoint, progress=self._progress)

    @property
    def task(self) -> str | None:
        return self.tasks[-1] if self.tasks else None

    async def _checkpoint(self, task_ref: str) -> None:
        self.tasks.append(task_ref)

    async def _progress(self, percent: int | None, phase: str | None) -> None:
        assert percent is None or 0 <= percent <= 100
        self.reports.append((percent, phase))


async def make(subject: Subject, name: str, token: str | None = None) -> ReportedSnapshot:
    return await subject.driver.create(Work(token or f"token{name}"), subject.create_command(name))


def changes(subject: Subject, name: str, description: str) -> list[dict[str, Any]]:
    """The changes that the driver can make to a snapshot, as arguments of UpdateCommand: each alone, and all."""
    matrix = subject.driver.matrix(subject.kind)
    if SnapshotAction.UPDATE not in matrix.supported:
        return []
    given = {"name": name, "description": description}
    single = [{key: value} for key, value in given.items() if key not in matrix.fixed]
    return single if len(single) == 1 else [*single, given]


async def refs(subject: Subject) -> list[str]:
    return [seen.ref for seen in (await subject.driver.snapshots(subject.machine)).snapshots]


def test_machines_are_reported_the_same_each_time(check: Callable[[Test], None]) -> None:
    async def test(subject: Subject) -> None:
        driver = subject.driver
        await driver.health()
        machines = await driver.machines()
        assert {subject.machine} <= {machine.ref for machine in machines}
        assert "foreign" not in {machine.ref for machine in machines}
        assert await driver.machines() == machines
        for machine in machines:
            assert machine.kind is not None
            for _ in range(2):
                assert await driver.machine(machine.ref) == machine
        for _ in range(2):
            assert await refs(subject) == []

    check(test)


def test_missing_machines_and_snapshots(check: Callable[[Test], None]) -> None:
    async def test(subject: Subject) -> None:
        driver, machine = subject.driver, subject.machine
        made = await make(subject, "gone")
        await driver.delete(Work("t"), DeleteCommand(machine, made.ref))
        reverts = driver.matrix(subject.kind).unsupported_reason(
            SnapshotAction.REVERT, (await driver.machine(machine)).power_state
        )
        for _ in range(2):
            for call in (
                driver.machine("nowhere"),
                driver.snapshots("nowhere"),
                driver.machine("foreign"),
                driver.create(Work("t1"), CreateCommand("nowhere", "n", None, subject.memory)),
                driver.delete(Work("t2"), DeleteCommand("nowhere", "none")),
                driver.delete(Work("t3"), DeleteCommand(machine, "none")),
                driver.delete(Work("t4"), DeleteCommand(machine, made.ref)),
                *([] if reverts else [driver.revert(Work("t5"), RevertCommand(machine, "none"))]),
                *(
                    driver.update(Work("t6"), UpdateCommand(*target, **change))
                    for target in (("nowhere", "none"), ("nowhere", made.ref), (machine, "none"), (machine, made.ref))
                    for change in changes(subject, "name", "why")
                ),
            ):
                with pytest.raises(ProviderMissing):
                    await call

    check(test)


def test_snapshots_are_listed_as_created(check: Callable[[Test], None]) -> None:
    async def test(subject: Subject) -> None:
        driver = subject.driver
        a = await make(subject, "a")
        b = await make(subject, "b")
        same_name = await make(subject, "b", token="other")
        assert len({a.ref, b.ref, same_name.ref}) == 3
        seen = await driver.snapshots(subject.machine)
        assert {s.ref: s for s in seen.snapshots} == {s.ref: s for s in (a, b, same_name)}
        assert await driver.snapshots(subject.machine) == seen
        assert all(s.ready for s in seen.snapshots)

    check(test)


def test_snapshots_form_a_tree(check: Callable[[Test], None]) -> None:
    async def test(subject: Subject) -> None:
        driver, machine = subject.driver, subject.machine
        a, b, c = [await make(subject, name) for name in "abc"]
        seen = await driver.snapshots(machine)
        if not driver.matrix(subject.kind).tree:
            assert ([s.parent_ref for s in seen.snapshots], seen.current_ref) == ([None] * 3, None)
            return
        assert (a.parent_ref, b.parent_ref, c.parent_ref, seen.current_ref) == (None, a.ref, b.ref, c.ref)
        await driver.revert(Work("r"), RevertCommand(machine, a.ref))
        assert (await driver.snapshots(machine)).current_ref == a.ref
        d = await make(subject, "d")
        assert d.parent_ref == a.ref
        await driver.delete(Work("d"), DeleteCommand(machine, a.ref))
        seen = await driver.snapshots(machine)
        assert {s.ref: s.parent_ref for s in seen.snapshots} == {b.ref: None, c.ref: b.ref, d.ref: None}
        assert seen.current_ref == d.ref
        order = [s.ref for s in seen.snapshots]
        assert order.index(b.ref) < order.index(c.ref)

    check(test)


def test_any_name_is_accepted(check: Callable[[Test], None]) -> None:
    async def test(subject: Subject) -> None:
        names = ['vor/"dem" Umzug: ☃ <&> 100 %', "-n", "x" * 255, "current", "2026"]
        made = [await make(subject, name, token=f"{place}cafe") for place, name in enumerate(names)]
        assert {*await refs(subject)} == {snapshot.ref for snapshot in made}
        for place, snapshot in enumerate(made):
            assert await subject.driver.recover(Work(f"{place}cafe"), subject.create_command(names[place])) == snapshot
        for place, snapshot in enumerate(made):
            await subject.driver.delete(Work(f"{place}gone"), DeleteCommand(subject.machine, snapshot.ref))
        assert await refs(subject) == []

    check(test)


def test_deleting_a_deleted_snapshot(check: Callable[[Test], None]) -> None:
    async def test(subject: Subject) -> None:
        a = await make(subject, "a")
        command = DeleteCommand(subject.machine, a.ref)
        await subject.driver.delete(Work("d"), command)
        for token in ("d", "d", "e"):
            with pytest.raises(ProviderMissing):
                await subject.driver.delete(Work(token), command)
        assert await refs(subject) == []

    check(test)


def test_recovery_finds_the_outcome_and_changes_nothing(check: Callable[[Test], None]) -> None:
    async def test(subject: Subject) -> None:
        driver = subject.driver
        create = subject.create_command("before", "why")
        for _ in range(2):
            assert await driver.recover(Work("c"), create) is Recovery.NOT_STARTED
        watched = Watched("c")
        made = await driver.create(watched.work, create)
        assert (made.name, made.description, made.memory, made.token) == (
            "before",
            subject.description("why"),
            subject.memory,
            "c",
        )
        for _ in range(2):
            assert await driver.recover(Work("c", watched.task), create) == made
        delete = DeleteCommand(subject.machine, made.ref)
        assert await driver.recover(Work("d"), delete) is Recovery.NOT_STARTED
        assert await refs(subject) == [made.ref]
        watched = Watched("d")
        await driver.delete(watched.work, delete)
        for _ in range(2):
            assert await driver.recover(Work("d", watched.task), delete) is Recovery.DONE

    check(test)


def test_a_revert_can_be_recovered(check: Callable[[Test], None]) -> None:
    async def test(subject: Subject) -> None:
        driver, machine = subject.driver, subject.machine
        power = (await driver.machine(machine)).power_state
        if driver.matrix(subject.kind).unsupported_reason(SnapshotAction.REVERT, power):
            return
        a, b = [await make(subject, name) for name in "ab"]
        revert = RevertCommand(machine, a.ref)
        watched = Watched("r")
        await driver.revert(watched.work, revert)
        for _ in range(2):
            assert await driver.recover(Work("r", watched.task), revert) is Recovery.DONE
        assert {*await refs(subject)} == {a.ref, b.ref}

    check(test)


def test_an_update_changes_only_what_it_names(check: Callable[[Test], None]) -> None:
    async def test(subject: Subject) -> None:
        driver, machine = subject.driver, subject.machine
        a, b, c = [await driver.create(Work(f"token{name}"), subject.create_command(name, name)) for name in "abc"]
        if driver.matrix(subject.kind).tree:
            await driver.revert(Work("r"), RevertCommand(machine, b.ref))
        expected = await driver.snapshots(machine)
        possible = changes(subject, "new", "new\n<1> & ☃")
        updates = [(b, change) for change in possible]
        updates += [(target, change) for target in (a, c) for change in possible[-1:]]
        for number, (target, change) in enumerate(updates):  # b has a parent and a child, and is current
            for _ in range(2):
                await driver.update(Work(f"u{number}"), UpdateCommand(machine, target.ref, **change))
                listed = [replace(each, **change) if each.ref == target.ref else each for each in expected.snapshots]
                expected = replace(expected, snapshots=listed)
                assert await driver.snapshots(machine) == expected
        by_ref = {snapshot.ref: snapshot for snapshot in expected.snapshots}
        assert await driver.recover(Work("tokenb"), subject.create_command("b", "b")) == by_ref[b.ref]
        await driver.delete(Work("d"), DeleteCommand(machine, b.ref))
        assert {*await refs(subject)} == {a.ref, c.ref}

    check(test)


def test_an_empty_description_clears_it(check: Callable[[Test], None]) -> None:
    async def test(subject: Subject) -> None:
        driver, machine = subject.driver, subject.machine
        if not any("description" in change for change in changes(subject, "n", "d")):
            return
        made = await driver.create(Work("token"), subject.create_command("a", "why"))
        for description in ("", "", "x" * 200, ""):
            await driver.update(Work("u"), UpdateCommand(machine, made.ref, description=description))
            (reported,) = (await driver.snapshots(machine)).snapshots
            assert reported == replace(made, description=description or None)

    check(test)


def test_any_name_is_accepted_by_an_update(check: Callable[[Test], None]) -> None:
    async def test(subject: Subject) -> None:
        driver, machine = subject.driver, subject.machine
        if not any("name" in change for change in changes(subject, "n", "d")):
            return
        a, b = [await make(subject, name) for name in "ab"]
        for name in ('vor/"dem" Umzug: ☃ <&> 100 %', "-n", "x" * 255, "current", "2026", "line\nbreak", "b"):
            for _ in range(2):
                await driver.update(Work("cafe0123"), UpdateCommand(machine, a.ref, name))
            seen = {snapshot.ref: snapshot for snapshot in (await driver.snapshots(machine)).snapshots}
            updated = seen[a.ref]
            assert seen == {a.ref: replace(a, name=updated.name), b.ref: b}
            assert updated.name == name or updated.name.endswith("-cafe0123")

    check(test)


def test_what_an_update_cannot_change_is_refused(check: Callable[[Test], None]) -> None:
    async def test(subject: Subject) -> None:
        driver, machine = subject.driver, subject.machine
        matrix, made = driver.matrix(subject.kind), await make(subject, "a")
        before = await driver.snapshots(machine)
        given = {"name": "new", "description": "new"}
        if SnapshotAction.UPDATE in matrix.supported:
            refused = [given, *({key: given[key]} for key in matrix.fixed)] if matrix.fixed else []
        else:
            refused = [given, *({key: value} for key, value in given.items())]
        for change in refused:
            for _ in range(2):
                with pytest.raises(ProviderRefused):
                    await driver.update(Work("u"), UpdateCommand(machine, made.ref, **change))
        assert await driver.snapshots(machine) == before

    check(test)


def test_unsupported_actions_are_refused(check: Callable[[Test], None]) -> None:
    async def test(subject: Subject) -> None:
        driver = subject.driver
        for machine in await driver.machines():
            matrix, power, ref = driver.matrix(machine.kind), machine.power_state, machine.ref
            before = await driver.snapshots(ref)
            for action, memory in ((SnapshotAction.CREATE, False), (SnapshotAction.CREATE_WITH_MEMORY, True)):
                if machine.snapshot_blocker or matrix.unsupported_reason(action, power):
                    with pytest.raises(ProviderRefused):
                        await driver.create(Work("m"), CreateCommand(ref, "m", None, memory))
            if matrix.unsupported_reason(SnapshotAction.REVERT, power):
                with pytest.raises(ProviderRefused):
                    await driver.revert(Work("r"), RevertCommand(ref, "none"))
            assert await driver.snapshots(ref) == before

    check(test)
