"""A client with little overhead: HTTP/1.1 on asyncio streams, one request at a time per connection."""

import asyncio
import re
import resource
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import orjson

_MAX_IDLE = 4.0  # seconds after which a connection is not reused: the gateway closes idle ones after 5 s
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@cache
def unverified_tls() -> ssl.SSLContext:
    """The context of a TLS client that accepts every certificate."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def raise_open_file_limit() -> None:
    """Raises the limit of open files to the maximum for this process. Child processes inherit it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@dataclass(frozen=True, slots=True)
class RawResponse:
    """A response: status, head and body."""

    status: int
    head: bytes
    body: bytes

    @property
    def data(self) -> Any:
        """The `data` of a GraphQL response. Raises AssertionError when it has errors."""
        response = orjson.loads(self.body)
        assert self.status == 200, response
        assert "errors" not in response, response
        return response["data"]


class RawConnection:
    """A connection that is opened at first use, and again when the server has closed it.

    `token` is sent with each request. `source` is the address of this end, for servers that tell clients apart by it.
    TLS certificates are not verified.
    """

    def __init__(self, url: str, *, token: str = "", source: str | None = None) -> None:
        split = urlsplit(url)
        assert split.hostname is not None
        self._host, self._port = split.hostname, split.port
        self._authorization = f"authorization: Bearer {token}\r\n" if token else ""
        self._local = None if source is None else (source, 0)
        self._tls = unverified_tls() if split.scheme == "https" else None
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._used_at = 0.0  # by time.monotonic()

    async def query(self, query: str, **variables: Any) -> Any:
        """The `data` of the response to a GraphQL document."""
        return (await self.send(request(query, **variables))).data

    async def send(self, body: bytes, accept: str = "application/json") -> RawResponse:
        """Posts a request body to `/graphql`."""
        return await self._exchange(self._post(body, accept))

    async def get(self, path: str) -> RawResponse:
        """Gets a resource. The response must have a `content-length`."""
        return await self._exchange(self._head("GET", path))

    async def _exchange(self, message: bytes) -> RawResponse:
        """Sends a request. Reconnects first when the server has closed the idle connection or may do so soon."""
        if self._streams is not None and (self._streams[0].at_eof() or time.monotonic() - self._used_at > _MAX_IDLE):
            self.close()
        reader = await self._write(message)
        head = await reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(head)
        content = await reader.readexactly(int(length[1]) if length else 0)
        self._used_at = time.monotonic()
        if b"connection: close" in head.lower():
            self.close()
        return RawResponse(int(head[9:12]), head, content)

    async def stream(self, body: bytes) -> AsyncIterator[bytes]:
        """The lines of an event stream. Raises AssertionError when the status is not 200."""
        reader = await self._write(self._post(body, "text/event-stream"))
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        while line := await reader.readline():
            yield line

    async def open(self) -> None:
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port, local_addr=self._local, ssl=self._tls)
            self._used_at = time.monotonic()

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def _write(self, message: bytes) -> asyncio.StreamReader:
        await self.open()
        assert self._streams is not None
        reader, writer = self._streams
        writer.write(message)
        return reader

    def _post(self, body: bytes, accept: str) -> bytes:
        more = f"content-type: application/json\r\naccept: {accept}\r\ncontent-length: {len(body)}\r\n"
        return self._head("POST", "/graphql", more) + body

    def _head(self, method: str, path: str, more: str = "") -> bytes:
        host = f"host: {self._host}:{self._port}\r\n"
        return f"{method} {path} HTTP/1.1\r\n{host}{self._authorization}{more}\r\n".encode()


def request(query: str, **variables: Any) -> bytes:
    """The body of a GraphQL request."""
    return orjson.dumps({"query": query, "variables": variables})


def percentile(latencies: list[float], percent: float) -> float:
    """The percentile of latencies in seconds, in milliseconds; 0 without latencies."""
    ordered = sorted(latencies)
    return 1_000 * ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] if ordered else 0.0
