"""The connection that receives commit notifications (LISTEN). It reconnects when lost and is probed when idle."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

from gateway.errors import Unavailable
from gateway.store.postgres_hosts import Connector
from gateway.store.retry import Backoff

log = logging.getLogger(__name__)

CHANNEL = "gateway_event"  # the trigger on the table `event` notifies this channel

_PROBE_INTERVAL = 10.0  # seconds without a disconnect after which the connection is probed with a SELECT
_PROBE_TIMEOUT = 5.0  # seconds that the probe may take


class CommitListener:
    """Calls `wake` after each commit that wrote events, and after each reconnect, when some may have been missed."""

    def __init__(self, connector: Connector, wake: Callable[[], None]) -> None:
        self._connector = connector
        self._wake = wake
        self._task = asyncio.create_task(self._run(), name="listen")

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        backoff = Backoff()
        while True:
            try:
                connection = await self._connector.connect()
                try:
                    await self._listen(connection, backoff)
                finally:
                    connection.terminate()
            except Unavailable:
                pass  # the connector has logged it
            except Exception as error:  # noqa: BLE001 - any error means to reconnect
                log.info("Commit listener lost its connection error=%s", error)
            await asyncio.sleep(backoff.next())

    async def _listen(self, connection: Any, backoff: Backoff) -> None:
        """Returns or raises when the connection is lost."""
        lost = asyncio.Event()
        connection.add_termination_listener(lambda _: lost.set())
        await connection.add_listener(CHANNEL, lambda *_: self._wake())
        backoff.reset()
        self._wake()  # commits may have been missed while there was no connection
        while not lost.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PROBE_INTERVAL):
                    await lost.wait()
                    return
            await connection.execute("SELECT 1", timeout=_PROBE_TIMEOUT)
