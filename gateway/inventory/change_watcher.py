"""Reads a machine again as soon as something hints at it: an event of its provider, or an operation that has ended."""

import asyncio
import logging
import random
from collections.abc import Mapping
from math import inf

from gateway.drivers.base import Driver
from gateway.errors import ProviderError
from gateway.inventory.refresh import Inventory

log = logging.getLogger(__name__)

_GATHER = 0.2  # seconds in which hints at one machine become one look
_MOST = 10_000  # machines that wait to be looked at; what is left out the next refresh sees
_PAUSE = 5.0  # seconds until a provider whose hints have ended is listened to again


class Watch:
    """Looks while it is started."""

    worked_at = inf  # it is never stuck: a provider may take as long as it likes

    def __init__(self, inventory: Inventory, drivers: Mapping[str, Driver], *, listens: bool = True) -> None:
        """`listens`: to providers' events; else it looks only at what it is told of."""
        self._listens = listens
        self._inventory = inventory
        self._drivers = drivers
        self._wanted: dict[tuple[str, str], None] = {}  # by provider and ref, in order
        self._hinted = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def ended(self) -> bool:
        """Whether it looks at nothing more."""
        return not self._tasks or self._tasks[0].done()

    def look(self, provider: str, machine_ref: str) -> None:
        """Something may have happened at this machine."""
        if len(self._wanted) < _MOST:
            self._wanted[provider, machine_ref] = None
            self._hinted.set()

    async def start(self) -> None:
        """Begins."""
        listeners = [self._listen(name, driver) for name, driver in self._drivers.items() if self._listens]
        self._tasks = [asyncio.create_task(work, name="watch") for work in (self._look_forever(), *listeners)]

    async def stop(self) -> None:
        """Lets go; a merge that is on its way to the database is done or not done."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    async def _look_forever(self) -> None:
        while True:
            await self._hinted.wait()
            await asyncio.sleep(_GATHER)
            self._hinted.clear()
            wanted, self._wanted = self._wanted, {}
            await self._inventory.read_again(list(wanted))

    async def _listen(self, name: str, driver: Driver) -> None:
        while (hints := driver.hints()) is not None:
            try:
                async for machine_ref in hints:
                    self.look(name, machine_ref)
            except ProviderError as error:
                log.info("provider %s gives no hints now: %s", name, error.message)
            except Exception:
                log.exception("the hints of provider %s ended", name)
            await asyncio.sleep(_PAUSE * random.uniform(0.9, 1.1))  # noqa: S311
