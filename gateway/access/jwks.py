"""Keys that a JWT issuer publishes as a JSON Web Key Set (JWKS, RFC 7517) at a URL.

The keys are fetched when the first token arrives, in the background once they are 5 minutes old, and when a token has
an unknown `kid`, but at most every 10 seconds. A token whose key is cached never waits for a fetch. While the URL
cannot be fetched, the cached keys are used until they are one hour old.

A token with an unknown `kid` waits for a fetch that begins after its arrival, so for up to 10 seconds. If it were
refused because the last fetch was too recent, anyone could keep others from using a new key, by sending made-up tokens.
A `kid` that was not found is unknown without a fetch for the next 10 seconds.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from math import inf
from time import monotonic

import httpx2
import orjson

from gateway.access.keys import Key, keys_from_jwks
from gateway.bounded_cache import BoundedCache
from gateway.errors import StartupError, Unavailable

REFRESH_AFTER = 300.0  # age in seconds at which keys are fetched again in the background; bounds use of a withdrawn key
MAX_AGE = 3_600.0  # age in seconds up to which keys are used while they cannot be fetched
MIN_INTERVAL = 10.0  # seconds between the starts of two fetches, however many unknown keys tokens name
FETCH_TIMEOUT = 5.0  # seconds for a whole fetch
MAX_BYTES = 262_144  # of a response
_MAX_ABSENT = 1_000  # ids of keys that are remembered because they were not found

_LOOPBACK = [("http", host) for host in ("127.0.0.1", "::1", "localhost")]

log = logging.getLogger(__name__)


class JwksKeySource:
    """Supplies the keys that are published at `url`. `clock` returns the monotonic seconds by which `sleep` sleeps."""

    def __init__(
        self,
        url: str,
        clock: Callable[[], float] = monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        try:
            parsed = httpx2.URL(url)
        except httpx2.InvalidURL:
            parsed = httpx2.URL()
        if not parsed.host or (parsed.scheme != "https" and (parsed.scheme, parsed.host) not in _LOOPBACK):
            # An attacker who alters the keys in transit can authenticate as any caller.
            raise StartupError(f"GATEWAY_JWT_JWKS_URL must be an https:// URL (or http:// on loopback), not {url!r}.")
        self._url = url
        self._clock = clock
        self._sleep = sleep
        self._client: httpx2.AsyncClient | None = None
        self._keys: list[Key] = []
        self._fetched_at = -inf
        self._tried_at = -inf
        self._fetching: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None  # waits until it may fetch
        self._absent = BoundedCache[str, bool](_MAX_ABSENT, clock=clock)  # ids of keys that were not found

    async def find(self, id: str | None, algorithm: str) -> Sequence[Key]:
        """Return the keys with this `kid`, or all keys if a token has none, that may verify `algorithm`.

        Raises Unavailable if no keys younger than `MAX_AGE` are available.
        """
        age = self._clock() - self._fetched_at
        if age > MAX_AGE:
            await self._wait_for_fetch()
        elif id is not None and self._is_unknown(id):
            await self._wait_for_key(id)
        elif age > REFRESH_AFTER:
            self._start_fetch()
        if self._clock() - self._fetched_at > MAX_AGE:
            raise Unavailable("The keys that verify tokens cannot be fetched from their issuer. Retry later.")
        return [key for key in self._keys if algorithm in key.algorithms and (id is None or key.id == id)]

    async def close(self) -> None:
        running = [task for task in (self._next, self._fetching) if task is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()

    def _is_unknown(self, id: str) -> bool:
        return all(key.id != id for key in self._keys)

    async def _wait_for_key(self, id: str) -> None:
        """Wait for a fetch that begins from now on, unless the key was not found recently."""
        if self._absent.get(id):
            return
        asked_at = self._clock()
        if self._next is None:
            self._next = asyncio.create_task(self._fetch_when_permitted(), name="next jwks")
        await asyncio.shield(self._next)
        if self._is_unknown(id) and self._fetched_at >= asked_at:
            self._absent.put(id, True, MIN_INTERVAL)

    async def _fetch_when_permitted(self) -> None:
        """Fetch as soon as `MIN_INTERVAL` permits. Tokens that arrive from then on wait for another fetch."""
        while (wait := self._tried_at + MIN_INTERVAL - self._clock()) > 0:
            await self._sleep(wait)
        self._next = None
        await self._wait_for_fetch()

    async def _wait_for_fetch(self) -> None:
        """Wait for the running fetch, or for a new one if `MIN_INTERVAL` permits. All waiting requests share it."""
        if (fetching := self._start_fetch()) is not None:
            await asyncio.shield(fetching)

    def _start_fetch(self) -> asyncio.Task[None] | None:
        """Start a fetch unless one is running or the last one is too recent. Return the running fetch, if any."""
        if self._fetching is None and self._clock() - self._tried_at >= MIN_INTERVAL:
            self._tried_at = self._clock()
            self._fetching = asyncio.create_task(self._fetch(), name="jwks")
        return self._fetching

    async def _fetch(self) -> None:
        try:
            async with asyncio.timeout(FETCH_TIMEOUT):
                keys = keys_from_jwks(orjson.loads(await self._fetch_document()))
            if not keys:
                raise ValueError("The JWKS has no usable keys.")  # noqa: TRY301 - all errors are logged below
            self._keys, self._fetched_at = keys, self._clock()
        except (httpx2.HTTPError, TimeoutError, ValueError) as error:
            log.warning("Fetching the keys of the JWT issuer failed error=%s", error or type(error).__name__)
        finally:
            self._fetching = None

    async def _fetch_document(self) -> bytes:
        if self._client is None:
            # `identity` forbids compression, so that a small response cannot expand beyond MAX_BYTES in memory.
            headers = {"accept": "application/json", "accept-encoding": "identity"}
            self._client = httpx2.AsyncClient(timeout=FETCH_TIMEOUT, headers=headers, follow_redirects=False)
        async with self._client.stream("GET", self._url) as response:
            if response.is_redirect:  # not followed: the keys of another host could be those of an attacker
                raise ValueError(
                    f"The URL redirects to the host {response.headers.get('location', '')[:200]!r}."
                    " Set GATEWAY_JWT_JWKS_URL to the final URL."
                )
            if response.status_code != 200:
                raise ValueError(f"The response has status {response.status_code}.")
            body = bytearray()
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > MAX_BYTES:
                    raise ValueError(f"The response is longer than {MAX_BYTES} bytes.")
            return bytes(body)
