"""Ways for a gateway to die: at a write, before or after it took effect, or around a call of the driver."""

from collections.abc import Callable
from typing import Any

from gateway.operations.worker import Worker
from gateway.store.database import Database, Work
from tests.operations.world import World, until


class Crash(BaseException):
    """The process is gone. Not an Exception: nothing in the gateway may survive it."""


class Death:
    """Strikes at step `step`, counted from 1, before or after it has taken effect; then nothing works any more."""

    def __init__(self, step: int, *, before: bool, error: Callable[[], BaseException] = Crash) -> None:
        self.step = step
        self.before = before
        self.error = error
        self.count = 0
        self.dead = False

    async def around(self, action: Callable[[], Any]) -> Any:
        self.check()
        self.count += 1
        strikes = self.count == self.step
        if strikes and self.before:
            self.strike()
        result = await action()
        if strikes:
            self.strike()
        self.check()
        return result

    def strike(self) -> None:
        error = self.error()
        self.dead = isinstance(error, Crash)
        raise error

    def check(self) -> None:
        if self.dead:
            raise Crash

    @property
    def struck(self) -> bool:
        return self.count >= self.step


class MortalDatabase:
    """A database whose writes are the steps."""

    def __init__(self, database: Database, death: Death) -> None:
        self._database = database
        self._death = death
        self.dialect = database.dialect

    async def read(self, work: Work[Any], *, single: bool = False) -> Any:
        self._death.check()
        return await self._database.read(work, single=single)

    async def write(self, work: Work[Any]) -> Any:
        return await self._death.around(lambda: self._database.write(work))


class MortalDriver:
    """A driver whose calls are the steps."""

    name = "mortal"

    def __init__(self, driver: Any, death: Death) -> None:
        self._driver = driver
        self._death = death
        self.matrix = driver.matrix

    async def create(self, *arguments: Any) -> Any:
        return await self._death.around(lambda: self._driver.create(*arguments))

    async def revert(self, *arguments: Any) -> Any:
        return await self._death.around(lambda: self._driver.revert(*arguments))

    async def delete(self, *arguments: Any) -> Any:
        return await self._death.around(lambda: self._driver.delete(*arguments))

    async def recover(self, *arguments: Any) -> Any:
        return await self._death.around(lambda: self._driver.recover(*arguments))


async def live_and_die(world: World, worker: Worker, death: Death) -> None:
    """Lets `worker` run until death has struck or everything is done, and buries it."""
    await worker.start()

    async def over() -> bool:
        return death.struck or not {"QUEUED", "RUNNING"} & set(await world.states())

    await until(over)
    await bury(worker)


async def bury(worker: Worker) -> None:
    """Ends the tasks of a worker without a word to the database."""
    tasks = [worker._claimer, worker._sweeper, *worker._jobs]
    for task in tasks:
        task.cancel()

    async def ended() -> bool:
        return all(task.done() for task in tasks)

    await until(ended)
    for task in tasks:
        if not task.cancelled():
            task.exception()


async def expire_leases(world: World) -> None:
    """As if long enough had passed for every lease to run out and every wait to be over."""
    await world.execute(
        "UPDATE operation SET lease_until = '2020-01-01T00:00:00.000000Z' WHERE lease_until IS NOT NULL"
    )
