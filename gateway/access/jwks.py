"""The keys that an issuer publishes: fetched when they are first needed, again as they age, and for a key that is new.

Tokens of a known key never wait for the issuer's host. While that is away, what was fetched last is used for an hour.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from math import inf
from time import monotonic
from urllib.parse import urlsplit

import httpx2
import orjson

from gateway.access.keys import Key, jwk_keys
from gateway.errors import ProviderUnavailable, StartupError

FRESH = 300.0  # seconds, after which they are fetched again beside the requests; so a withdrawn key lives that long
STALE = 3_600.0  # seconds for which they are used when they cannot be fetched again
BETWEEN = 10.0  # seconds at least from one fetch to the next, whatever keys tokens name
TIMEOUT = 5.0  # seconds for a whole fetch
LONGEST = 262_144  # bytes

_LOOPBACK = [("http", host) for host in ("127.0.0.1", "::1", "localhost")]

log = logging.getLogger(__name__)


class JwksKeys:
    """The keys at one URL. `clock` counts seconds."""

    def __init__(self, url: str, clock: Callable[[], float] = monotonic) -> None:
        parts = urlsplit(url)
        if not parts.hostname or (parts.scheme != "https" and (parts.scheme, parts.hostname) not in _LOOPBACK):
            raise StartupError(
                "GATEWAY_JWT_JWKS_URL must be an https:// URL: who could change keys on their way could come in"
            )
        self._url = url
        self._clock = clock
        self._client: httpx2.AsyncClient | None = None
        self._keys: list[Key] = []
        self._fetched_at = -inf
        self._tried_at = -inf
        self._fetching: asyncio.Task[None] | None = None

    async def find(self, id: str | None, algorithm: str) -> Sequence[Key]:
        """Those of this id, or all where a token names none, that may have signed it. Raises ProviderUnavailable."""
        age = self._clock() - self._fetched_at
        unknown = id is not None and all(key.id != id for key in self._keys)
        if age > STALE or unknown:
            await self._fetched()
        elif age > FRESH:
            self._begin()
        if self._clock() - self._fetched_at > STALE:
            raise ProviderUnavailable("The keys that verify tokens cannot be fetched from their issuer now.")
        return [key for key in self._keys if algorithm in key.algorithms and (id is None or key.id == id)]

    async def close(self) -> None:
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()

    async def _fetched(self) -> None:
        """Waits for a fetch, one for all who wait, if there may be one now."""
        if (fetching := self._begin()) is not None:
            await asyncio.shield(fetching)

    def _begin(self) -> asyncio.Task[None] | None:
        if self._fetching is None and self._clock() - self._tried_at >= BETWEEN:
            self._tried_at = self._clock()
            self._fetching = asyncio.create_task(self._fetch())
        return self._fetching

    async def _fetch(self) -> None:
        try:
            async with asyncio.timeout(TIMEOUT):
                keys = jwk_keys(orjson.loads(await self._document()))
            if not keys:
                raise ValueError("it has no keys that can verify")  # noqa: TRY301 - one place tells of all faults
            self._keys, self._fetched_at = keys, self._clock()
        except (httpx2.HTTPError, TimeoutError, ValueError) as error:
            log.warning("the keys of the JWT issuer could not be fetched: %s", error or type(error).__name__)
        finally:
            self._fetching = None

    async def _document(self) -> bytes:
        if self._client is None:
            # `identity`: nothing that is sent small and unpacks to something large.
            headers = {"accept": "application/json", "accept-encoding": "identity"}
            self._client = httpx2.AsyncClient(timeout=TIMEOUT, headers=headers)
        async with self._client.stream("GET", self._url) as response:
            if response.status_code != 200:
                raise ValueError(f"status {response.status_code}")
            body = bytearray()
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > LONGEST:
                    raise ValueError(f"it is longer than {LONGEST} bytes")
            return bytes(body)
