"""The one connection that hears of commits: opened again when it is lost, and asked now and then if it still is one."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

from gateway.errors import Unavailable
from gateway.store.postgres_hosts import Hosts
from gateway.store.retry import Backoff

log = logging.getLogger(__name__)

CHANNEL = "gateway_event"  # what the outbox's trigger notifies

_PROBE = 10.0  # seconds of silence after which a host may have gone without a word
_ANSWER = 5.0  # seconds that it has to answer


class Listening:
    """Calls `wake` after each commit that made events, and when some may have been missed."""

    def __init__(self, hosts: Hosts, wake: Callable[[], None]) -> None:
        self._hosts = hosts
        self._wake = wake
        self._task = asyncio.create_task(self._listen_forever(), name="listen")

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _listen_forever(self) -> None:
        backoff = Backoff()
        while True:
            try:
                connection = await self._hosts.connect()
                try:
                    await self._listen(connection, backoff)
                finally:
                    connection.terminate()
            except Unavailable:
                pass  # said where connections are opened
            except Exception as error:  # noqa: BLE001 - any of them means to begin anew
                log.info("the connection that hears of commits was lost: %s", error)
            await asyncio.sleep(backoff.next())

    async def _listen(self, connection: Any, backoff: Backoff) -> None:
        """Returns or raises when the connection is lost."""
        lost = asyncio.Event()
        connection.add_termination_listener(lambda _: lost.set())
        await connection.add_listener(CHANNEL, lambda *_: self._wake())
        backoff.reset()
        self._wake()  # for what was missed
        while not lost.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PROBE):
                    await lost.wait()
                    return
            await connection.execute("SELECT 1", timeout=_ANSWER)
