"""What `tests.drivers.large` has for each driver, and the calls that are made to it."""

import pkgutil
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol

from gateway.drivers.base import CreateCommand, DeleteCommand, Driver, RevertCommand, UpdateCommand, Work
from gateway.models import MachineKind, PowerState, SnapshotAction
from tests.drivers import large

NAMES = sorted(module.name for module in pkgutil.iter_modules(large.__path__))
SNAPSHOT_TIME = 1_500_000_000  # seconds since 1970, of the first snapshot of a chain


@dataclass(frozen=True, slots=True)
class LargeWorld:
    """A driver, and the machine that has the snapshots. It can be snapshotted with this `memory`."""

    driver: Driver
    machine: str
    kind: MachineKind = MachineKind.VM
    memory: bool = False


class LargeModule(Protocol):
    """A module of `tests.drivers.large`."""

    PART: str

    def lacking(self) -> str | None: ...

    def world(self, directory: Path, machines: int, snapshots: int) -> AbstractContextManager[LargeWorld]: ...


def large_module(name: str) -> LargeModule:
    """The module of a driver."""
    module: LargeModule = import_module(f"tests.drivers.large.{name}")
    return module


Call = Callable[[], Awaitable[object]]


def calls(world: LargeWorld, power: PowerState, refs: list[str]) -> Iterator[tuple[str, Call]]:
    """The calls in the order in which they are to be made. `refs` are the snapshots of the machine, the root first."""
    driver, machine = world.driver, world.machine
    matrix = driver.matrix(world.kind)
    checkpoints: list[str] = []

    async def checkpoint(task_ref: str) -> None:
        checkpoints.append(task_ref)

    def last() -> str | None:
        return checkpoints[-1] if checkpoints else None

    def supports(action: SnapshotAction) -> bool:
        return matrix.unsupported_reason(action, power) is None

    create = CreateCommand(machine, "made", None, world.memory)
    yield "list the machines", driver.machines
    yield "read the machine", lambda: driver.machine(machine)
    yield "list its snapshots", lambda: driver.snapshots(machine)
    yield "create", lambda: driver.create(Work("token", checkpoint=checkpoint), create)
    yield "recover a create", lambda: driver.recover(Work("token", last()), create)
    yield "recover a create that did not start", lambda: driver.recover(Work("other"), create)
    middle = refs[len(refs) // 2]
    if supports(SnapshotAction.UPDATE):
        yield "update", lambda: driver.update(Work("u"), UpdateCommand(machine, middle, description="new"))
    if supports(SnapshotAction.REVERT):
        revert = RevertCommand(machine, refs[1])
        yield "revert", lambda: driver.revert(Work("r", checkpoint=checkpoint), revert)
        yield "recover a revert", lambda: driver.recover(Work("r", last()), revert)
    delete = DeleteCommand(machine, middle)
    yield "delete", lambda: driver.delete(Work("d", checkpoint=checkpoint), delete)
    yield "recover a delete", lambda: driver.recover(Work("d", last()), delete)
