"""A client that costs little: HTTP/1.1 on bare streams, one request at a time on each connection."""

import asyncio
import re
import resource
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson

_IDLE = 4.0  # seconds after which a connection is not used again: the gateway closes it after five, maybe just now
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


def allow_many_connections() -> None:
    """As many open files as this process may have; children inherit it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def resident_mib(pid: int) -> float:
    """How much memory a process has for itself: what it maps of files, SQLite's among them, is the system's cache."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("RssAnon:")]
    return int(line.split()[1]) / 1_024


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    head: bytes
    body: bytes

    @property
    def data(self) -> Any:
        """The data of a GraphQL answer without errors. Raises AssertionError."""
        found = orjson.loads(self.body)
        assert self.status == 200, found
        assert "errors" not in found, found
        return found["data"]


class Connection:
    """Opened when it is first used."""

    def __init__(self, url: str) -> None:
        split = urlsplit(url)
        assert split.hostname is not None
        self._host, self._port = split.hostname, split.port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._used_at = 0.0  # by time.monotonic()

    async def ask(self, query: str, **variables: Any) -> Any:
        """The data of an answer."""
        return (await self.send(request(query, **variables))).data

    async def send(self, body: bytes, accept: str = "application/json") -> Answer:
        """Opens another connection when the server has closed this one, idle as it was, or is about to."""
        if self._streams is not None and (self._streams[0].at_eof() or time.monotonic() - self._used_at > _IDLE):
            self.close()
        reader, _ = await self._write(body, accept)
        head = await reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(head)
        content = await reader.readexactly(int(length[1]) if length else 0)
        self._used_at = time.monotonic()
        if b"connection: close" in head.lower():
            self.close()
        return Answer(int(head[9:12]), head, content)

    async def stream(self, body: bytes) -> AsyncIterator[bytes]:
        """The lines of an event stream, from its first comment on. Raises AssertionError when it is refused."""
        reader, _ = await self._write(body, "text/event-stream")
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        while line := await reader.readline():
            yield line

    async def open(self) -> None:
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port)
            self._used_at = time.monotonic()

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def _write(self, body: bytes, accept: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        await self.open()
        assert self._streams is not None
        head = (
            f"POST /graphql HTTP/1.1\r\nhost: {self._host}:{self._port}\r\ncontent-type: application/json\r\n"
            f"accept: {accept}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        self._streams[1].write(head.encode() + body)
        return self._streams


def request(query: str, **variables: Any) -> bytes:
    return orjson.dumps({"query": query, "variables": variables})


def percentile(latencies: list[float], percent: float) -> float:
    """Milliseconds."""
    ordered = sorted(latencies)
    return 1_000 * ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] if ordered else 0.0
