"""Calls of the qcow2 driver for tests. Each call uses a new driver."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from gateway.drivers.base import CreateCommand, DeleteCommand, ReportedSnapshot, RevertCommand, Work
from gateway.drivers.qcow2.driver import Options, Qcow2Driver

TOKEN = "0123456789abcdef" * 2
VM = "vm.qcow2"


def driver(directory: Path, program: str = "qemu-img", timeout: float = 30) -> Qcow2Driver:
    return Qcow2Driver(Options(directory=str(directory), program=program), 2, timeout)


def run(call: Awaitable[Any]) -> Any:
    async def inside() -> Any:
        return await call

    return asyncio.run(inside())


def create(vm: Path, name: str = "a", token: str = TOKEN, **options: Any) -> ReportedSnapshot:
    made = run(driver(vm.parent, **options).create(Work(token), CreateCommand(vm.name, name, None, False)))
    assert isinstance(made, ReportedSnapshot)
    return made


def revert(vm: Path, ref: str, **options: Any) -> None:
    run(driver(vm.parent, **options).revert(Work("r"), RevertCommand(vm.name, ref)))


def delete(vm: Path, ref: str, **options: Any) -> None:
    run(driver(vm.parent, **options).delete(Work("d"), DeleteCommand(vm.name, ref)))


def snapshot_names(vm: Path) -> dict[str, str]:
    """The name of each snapshot, by ref."""
    return {snapshot.ref: snapshot.name for snapshot in run(driver(vm.parent).snapshots(vm.name)).snapshots}


def all_changes(vm: Path, ref: str, **options: Any) -> list[Callable[[], object]]:
    """One call per kind of change: create, revert and delete."""
    return [
        partial(create, vm, token="another", **options),
        partial(revert, vm, ref, **options),
        partial(delete, vm, ref, **options),
    ]
