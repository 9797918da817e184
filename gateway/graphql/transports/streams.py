"""Open event streams and WebSockets: how they end when the server stops, and when their credentials expire."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from math import inf
from time import time

from gateway.access.caller import Caller
from gateway.errors import BadCredentials, Unauthenticated
from gateway.fair_queue import CLAIM

RECHECK_INTERVAL = 10.0  # seconds between two checks of the credentials of a stream

log = logging.getLogger(__name__)


class OpenStreams:
    """Tracks open streams. A stopping server must call `close` before it closes connections."""

    def __init__(self) -> None:
        self._stops: dict[object, Callable[[], None]] = {}
        self._closing = False
        self._empty: asyncio.Event | None = None

    def __len__(self) -> int:
        return len(self._stops)

    @contextmanager
    def track(self, stop: Callable[[], None]) -> Iterator[None]:
        """Tracks a stream while the block runs. `stop` must end the stream; a stopping server calls it at once."""
        key = object()
        self._stops[key] = stop
        try:
            if self._closing:
                stop()
            yield
        finally:
            del self._stops[key]
            if self._empty is not None and not self._stops:
                self._empty.set()

    async def close(self, timeout: float = 2.0) -> None:  # noqa: ASYNC109 - streams that are slower are not waited for
        """Asks all streams to end, also those that open later, and waits up to `timeout` seconds until they have."""
        self._closing = True
        self._empty = asyncio.Event()
        for stop in list(self._stops.values()):
            stop()
        if self._stops:
            try:
                async with asyncio.timeout(timeout):
                    await self._empty.wait()
            except TimeoutError:
                pass


async def wait_for_expiry(
    authenticate: Callable[[], Awaitable[Caller]], caller: Caller, recheck_interval: float
) -> Unauthenticated:
    """Waits until the credentials of `caller` are no longer valid, and returns the error to report to the client.

    `authenticate` checks the credentials again; it is called every `recheck_interval` seconds. To be run in a task of
    its own.
    """
    CLAIM.set(None)  # verifying credentials is the gateway's own work: the caller cannot delay it by other requests
    while True:
        left = inf if caller.expires_at is None else caller.expires_at - time()
        if left <= 0:
            return BadCredentials("The token has expired.")
        await asyncio.sleep(min(left, recheck_interval))
        try:
            caller = await authenticate()
        except Unauthenticated as error:
            return error
        except Exception:
            # A failed check, such as one without a database, does not end the stream. The next check decides.
            log.debug("Credentials recheck failed", exc_info=True)
