"""Refreshes machines that may have changed: after a change hint of their provider, or at the end of an operation."""

import asyncio
import logging
import random
from collections.abc import Mapping
from math import inf

from gateway.drivers.base import Driver
from gateway.errors import ProviderError
from gateway.inventory.refresh import InventoryRefresher

log = logging.getLogger(__name__)

_COALESCE_SECONDS = 0.2  # requests for the same machine within this time lead to one refresh
_MAX_PENDING = 10_000  # machines that wait to be refreshed; further ones are left to the next periodic refresh
_RESUBSCRIBE_DELAY = 5.0  # seconds after which change hints of a provider are requested again when they have ended


class ChangeWatcher:
    """Refreshes machines on request and on change hints, from `start` to `stop`."""

    worked_at = inf  # never counts as stuck, because a provider may take any time to answer

    def __init__(
        self, refresher: InventoryRefresher, drivers: Mapping[str, Driver], *, subscribes: bool = True
    ) -> None:
        """`subscribes`: whether to consume the change hints of providers; otherwise only `request_refresh` counts."""
        self._subscribes = subscribes
        self._refresher = refresher
        self._drivers = drivers
        self._pending: dict[tuple[str, str], None] = {}  # by provider and ref, in order of arrival
        self._has_pending = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def ended(self) -> bool:
        """Whether the task that refreshes machines is not running."""
        return not self._tasks or self._tasks[0].done()

    def request_refresh(self, provider: str, machine_ref: str) -> None:
        """Requests a refresh of a machine that may have changed. Dropped when 10,000 machines are pending."""
        if len(self._pending) < _MAX_PENDING:
            self._pending[provider, machine_ref] = None
            self._has_pending.set()

    async def start(self) -> None:
        """Starts the task that refreshes machines, and one task per provider that consumes its change hints."""
        listeners = [self._consume_hints(name, driver) for name, driver in self._drivers.items() if self._subscribes]
        self._tasks = [asyncio.create_task(work, name="watch") for work in (self._refresh_pending(), *listeners)]

    async def stop(self) -> None:
        """Cancels all tasks. A merge whose transaction has been sent is either committed or not."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    async def _refresh_pending(self) -> None:
        while True:
            await self._has_pending.wait()
            await asyncio.sleep(_COALESCE_SECONDS)
            self._has_pending.clear()
            pending, self._pending = self._pending, {}
            await self._refresher.refresh_machines(list(pending))

    async def _consume_hints(self, name: str, driver: Driver) -> None:
        while (hints := driver.change_hints()) is not None:
            try:
                async for machine_ref in hints:
                    self.request_refresh(name, machine_ref)
            except ProviderError as error:
                log.info("Change hints became unavailable provider=%s error=%s", name, error.message)
            except Exception:
                log.exception("Change hints failed provider=%s", name)
            await asyncio.sleep(_RESUBSCRIBE_DELAY * random.uniform(0.9, 1.1))  # noqa: S311
