"""Refreshes machines that may have changed: after a change hint of their provider, or at the end of an operation.

The refresh of pending machines is no periodic job (`gateway.jobs`), because a change must be visible soon: it waits for
requests in a task of its own. Each provider has such a task and a queue, so one that does not answer, or that sends
hints without end, delays no other. The change hints of a provider are a cluster job whose run lasts as long as their
stream, so one process consumes them for all.
"""

import asyncio
import logging
from collections.abc import Mapping
from math import inf

from gateway.drivers.base import Driver, is_ref
from gateway.errors import ProviderError
from gateway.inventory.refresh import InventoryRefresher

log = logging.getLogger(__name__)

RESUBSCRIBE_INTERVAL = 5.0  # seconds after which change hints of a provider are requested again when they have ended
_MAX_PENDING = 10_000  # machines of a provider that wait to be refreshed; others are left to the next periodic refresh


class _Queue:
    """The machines of a provider that wait to be refreshed."""

    def __init__(self) -> None:
        self.pending: dict[str, None] = {}  # refs in order of arrival
        self.has_pending = asyncio.Event()


class ChangeWatcher:
    """Refreshes machines on request, from `start` to `stop`, and requests refreshes on change hints.

    Requests for the same machine within `coalesce` seconds lead to one refresh.
    """

    worked_at = inf  # never counts as stuck, because a provider may take any time to answer

    def __init__(self, refresher: InventoryRefresher, drivers: Mapping[str, Driver], *, coalesce: float = 0.2) -> None:
        self._refresher = refresher
        self._drivers = drivers
        self._coalesce = coalesce
        self._queues = {name: _Queue() for name in drivers}
        self._tasks: list[asyncio.Task[None]] | None = None

    @property
    def ended(self) -> bool:
        """Whether a task that refreshes machines is not running."""
        return self._tasks is None or any(task.done() for task in self._tasks)

    @property
    def providers_with_hints(self) -> list[str]:
        """The providers whose drivers yield change hints."""
        return [name for name, driver in self._drivers.items() if driver.change_hints() is not None]

    def request_refresh(self, provider: str, machine_ref: str) -> None:
        """Requests a refresh of a machine that may have changed.

        Dropped when 10,000 machines of the provider are pending, when no machine can have the ref, and when the
        provider has no driver.
        """
        queue = self._queues.get(provider)
        if queue is not None and len(queue.pending) < _MAX_PENDING and is_ref(machine_ref):
            queue.pending[machine_ref] = None
            queue.has_pending.set()

    async def consume_hints(self, provider: str) -> None:
        """Requests a refresh of each machine that the provider's change hints name, until their stream ends.

        A provider that becomes unavailable ends it. Called again `RESUBSCRIBE_INTERVAL` later.
        """
        hints = self._drivers[provider].change_hints()
        if hints is None:
            return
        try:
            async for machine_ref in hints:
                self.request_refresh(provider, machine_ref)
        except ProviderError as error:
            log.info("Change hints became unavailable provider=%s error=%s", provider, error.message)

    async def start(self) -> None:
        """Starts the tasks that refresh machines."""
        self._tasks = [
            asyncio.create_task(self._refresh_pending(provider, queue), name=f"watch-{provider}")
            for provider, queue in self._queues.items()
        ]

    async def stop(self) -> None:
        """Cancels the tasks. A merge whose transaction has been sent is either committed or not."""
        for task in self._tasks or ():
            task.cancel()
        await asyncio.gather(*self._tasks or (), return_exceptions=True)

    async def _refresh_pending(self, provider: str, queue: _Queue) -> None:
        while True:
            await queue.has_pending.wait()
            await asyncio.sleep(self._coalesce)
            queue.has_pending.clear()
            pending, queue.pending = queue.pending, {}
            await self._refresher.refresh_machines(provider, list(pending))
