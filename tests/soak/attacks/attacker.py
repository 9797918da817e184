"""The means of an attacker: one process with asyncio and raw sockets, which uses little CPU time itself.

The process has a low priority (nice 10): on a host with few cores, the victims are to measure the gateway, and not that
the attacker took a core from it or from them.
"""

import asyncio
import re
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import orjson

from tests.soak.attacks.target import ATTACKER, ProviderEndpoint, Target
from tests.soak.raw_client import RawConnection

_READ_BYTES = 1 << 18
_END_OF_HEAD = b"\r\n\r\n"
_STATUS_LINE = re.compile(rb"HTTP/1\.1 (\d{3}) ")
_STATUS_LINE_BYTES = 12  # of a status line, less one: those that may be at the end of a piece
_CODE = re.compile(rb'"code": ?"([A-Z_]+)"')

Step = Callable[[], Awaitable[bool]]  # returns whether the gateway served a request


class Attacker:
    """Sends requests to `target` until `ends` (monotonic).

    `got` counts the outcomes of requests: the status, or how they ended without one. `received` counts bytes.
    `provider` is set for an attacker that is a provider.
    """

    def __init__(self, target: Target, ends: float, provider: ProviderEndpoint | None) -> None:
        self.target = target
        self.ends = ends
        self.provider = provider
        self.got = Counter[str]()
        self.received = 0

    async def repeat(self, number: int, *steps: Step, pause: float = 0.1) -> None:
        """Runs `number` clients at the same time, which repeat the steps until the attack ends.

        After each refusal a client pauses for `pause` seconds: without that, every attack would also be a flood.
        """

        async def client(position: int) -> None:
            while time.monotonic() < self.ends:
                served = await steps[position % len(steps)]()
                position += 1
                if not served:
                    await asyncio.sleep(pause)

        async with asyncio.TaskGroup() as group:
            for position in range(number):
                group.create_task(client(position))

    async def ask(self, message: bytes, *, source: str = ATTACKER) -> bool:
        """Sends a request on a connection of its own, and reads until the gateway closes it.

        `message` may be a part of a request. Returns whether the gateway served it.
        """

        async def read(reader: asyncio.StreamReader) -> str:
            first = await reader.read(_READ_BYTES)
            if first.endswith(_END_OF_HEAD):
                first += await reader.read(_READ_BYTES)
            self.received += len(first)
            while piece := await reader.read(_READ_BYTES):
                self.received += len(piece)
            return _outcome(first)

        return await self._exchange(message, read, source, _READ_BYTES)

    async def read_slowly(self, message: bytes, size: int, pause: float) -> bool:
        """The same, but reads pieces of `size` bytes, with pauses in seconds, through a small receive buffer."""

        async def read(reader: asyncio.StreamReader) -> str:
            outcome = _outcome(await reader.read(size))
            while piece := await reader.read(size):
                self.received += len(piece)
                await asyncio.sleep(pause)
            return outcome

        return await self._exchange(message, read, ATTACKER, size)

    async def pipeline(self, messages: Sequence[bytes], *, rest: bytes = b"", source: str = ATTACKER) -> bool:
        """Sends requests on one connection without waiting for responses, and reads until the gateway closes it.

        The last one must ask for that. `rest` is sent after them. Counts the status of each response.
        """

        async def read(reader: asyncio.StreamReader) -> str:
            tail = b""
            while piece := await reader.read(_READ_BYTES):
                self.received += len(piece)
                found = _STATUS_LINE.findall(tail + piece)
                self.got.update(status.decode() for status in found)
                tail = piece[-_STATUS_LINE_BYTES:]
            return "connections"

        return not await self._exchange(b"".join(messages) + rest, read, source, _READ_BYTES)

    async def begin(self, message: bytes) -> bool:
        """Sends the beginning of an exchange, waits for a response of any kind, and closes the connection."""

        async def read(reader: asyncio.StreamReader) -> str:
            first = await reader.read(_READ_BYTES)
            self.received += len(first)
            return "answered" if first else "closed"

        return not await self._exchange(message, read, ATTACKER, _READ_BYTES)

    def connection(self, user: str) -> RawConnection:
        """A connection with the token of a user."""
        return RawConnection(self.target.url, token=self.target.tokens[user], source=ATTACKER)

    async def _exchange(
        self, message: bytes, read: Callable[[asyncio.StreamReader], Awaitable[str]], source: str, buffer: int
    ) -> bool:
        outcome, writer, connection = "pending", None, socket.socket()
        try:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)  # before the window is negotiated
            connection.setblocking(False)
            connection.bind((source, 0))
            await asyncio.get_running_loop().sock_connect(connection, (self.target.host, self.target.port))
            reader, writer = await asyncio.open_connection(sock=connection, limit=buffer)
            writer.write(message)
            outcome = await read(reader)
        except OSError:
            outcome = "connection lost"
        finally:
            self.got[outcome] += 1
            if writer is None:
                connection.close()
            else:
                writer.transport.abort()
        return outcome == "200"

    def head(
        self, method: str, path: str, *, token: str | None = None, headers: str = "", keep_alive: bool = False
    ) -> bytes:
        """The head of a request, after whose response the gateway closes the connection, unless `keep_alive`.

        `token`: "" for none.
        """
        credential = self.target.tokens["attacker"] if token is None else token
        authorization = f"authorization: Bearer {credential}\r\n" if credential else ""
        host = f"host: {self.target.host}:{self.target.port}\r\n"
        connection = "" if keep_alive else "connection: close\r\n"
        return f"{method} {path} HTTP/1.1\r\n{host}{connection}{authorization}{headers}\r\n".encode()

    def post(self, query: str, variables: object = None, *, token: str | None = None) -> bytes:
        """A GraphQL request, whose response has another status than 200 if the document is refused."""
        body = orjson.dumps({"query": query, "variables": variables})
        headers = (
            "content-type: application/json\r\naccept: application/graphql-response+json\r\n"
            f"content-length: {len(body)}\r\n"
        )
        return self.head("POST", "/graphql", token=token, headers=headers) + body


def _outcome(first: bytes) -> str:
    """The status of a response, and the code of its first error. `first` is the beginning of the response."""
    if not first:
        return "closed"
    status, code = first[9:12].decode("latin-1"), _CODE.search(first)
    return status if code is None else f"{status} {code[1].decode()}"
