"""Crashes a gateway at one step: before or after a write to the database, or before or after a call of the driver."""

import asyncio
from collections.abc import Callable
from typing import Any

from gateway.operations.worker import Worker
from gateway.store.database import Database, Work
from tests.operations.world import World
from tests.waiting import until_async


class Crash(BaseException):
    """Simulates the end of the process. Not an Exception, so that no handler in the gateway catches it."""


class CrashPoint:
    """Raises `error` at step `step`, counted from 1, before or after its effect. After a Crash every step raises it."""

    def __init__(self, step: int, *, before: bool, error: Callable[[], BaseException] = Crash) -> None:
        self.step = step
        self.before = before
        self.error = error
        self.count = 0
        self.is_dead = False

    async def run_step(self, action: Callable[[], Any]) -> Any:
        self.check()
        self.count += 1
        crashes_here = self.count == self.step
        if crashes_here and self.before:
            self.crash()
        result = await action()
        if crashes_here:
            self.crash()
        self.check()
        return result

    def crash(self) -> None:
        error = self.error()
        self.is_dead = isinstance(error, Crash)
        raise error

    def check(self) -> None:
        if self.is_dead:
            raise Crash

    @property
    def reached(self) -> bool:
        return self.count >= self.step


class CrashingDatabase:
    """Database whose writes are the steps."""

    def __init__(self, database: Database, crash_point: CrashPoint) -> None:
        self._database = database
        self._crash_point = crash_point
        self.dialect = database.dialect

    async def read(self, work: Work[Any], *, single: bool = False) -> Any:
        self._crash_point.check()
        return await self._database.read(work, single=single)

    async def write(self, work: Work[Any]) -> Any:
        return await self._crash_point.run_step(lambda: self._database.write(work))


class CrashingDriver:
    """Driver whose calls are the steps."""

    name = "crashing"

    def __init__(self, driver: Any, crash_point: CrashPoint) -> None:
        self._driver = driver
        self._crash_point = crash_point
        self.matrix = driver.matrix

    async def run(self, *arguments: Any) -> Any:
        return await self._crash_point.run_step(lambda: self._driver.run(*arguments))

    async def recover(self, *arguments: Any) -> Any:
        return await self._crash_point.run_step(lambda: self._driver.recover(*arguments))


async def run_until_crash(world: World, worker: Worker, crash_point: CrashPoint) -> None:
    """Runs `worker` until the crash point is reached or all operations have ended, then kills it."""
    await worker.start()

    async def is_over() -> bool:
        return crash_point.reached or not {"QUEUED", "RUNNING"} & set(await world.states())

    await until_async(is_over)
    await kill_workers()


async def kill_workers() -> None:
    """Cancels the tasks of all workers, without releasing their claims."""
    tasks = [task for task in asyncio.all_tasks() if task.get_name().partition("-")[0] in {"claim", "operation"}]
    for task in tasks:
        task.cancel()

    async def ended() -> bool:
        return all(task.done() for task in tasks)

    await until_async(ended)
    for task in tasks:
        if not task.cancelled():
            task.exception()


async def expire_leases(world: World) -> None:
    """Sets all leases to a time in the past."""
    await world.execute(
        "UPDATE operation SET lease_until = '2020-01-01T00:00:00.000000Z' WHERE lease_until IS NOT NULL"
    )
