"""Connections before they carry a request: how many there are, how long a head may be and take, and TLS handshakes.

uvicorn bounds none of these. What is stuck is found by looking at all connections now and then, so a request pays for
little of it.
"""

import asyncio
import socket
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from gateway.config import Settings

_SPARE = 256  # connections beyond the limit that are told so; whoever comes then is cut off


def _refusal(status: str, code: str, message: str, more: str = "") -> bytes:
    body = f'{{"errors":[{{"message":"{message}","extensions":{{"code":"{code}"}}}}]}}'
    return (
        f"HTTP/1.1 {status}\r\ncontent-type: application/json; charset=utf-8\r\ncontent-length: {len(body)}\r\n"
        f"cache-control: no-store\r\nx-content-type-options: nosniff\r\n{more}connection: close\r\n\r\n{body}"
    ).encode()


_FULL = _refusal(
    "503 Service Unavailable",
    "LIMIT_EXCEEDED",
    "The gateway has as many connections as it serves: try again later.",
    "retry-after: 5\r\n",
)
_LATE = _refusal("408 Request Timeout", "BAD_USER_INPUT", "The head of the request did not arrive in time.")
_TOO_LONG = _refusal("431 Request Header Fields Too Large", "LIMIT_EXCEEDED", "The head of the request is too long.")


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's, which also knows whether it is in the middle of a head."""

    def __init__(
        self, settings: Settings, config: uvicorn.Config, state: ServerState, app_state: dict[str, Any]
    ) -> None:
        super().__init__(config, state, app_state)
        self._settings = settings
        self._full = False
        self._in_head = True  # also before its first byte
        self._heads = 0
        self._head_bytes = 0
        self._stuck: tuple[str, int] | None = None
        self._stuck_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        beyond = len(self.connections) - self._settings.max_connections
        self._full = beyond > 0
        if beyond > _SPARE:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._full:
            self._refuse(_FULL)
            return
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > self._settings.max_head_bytes:
                self._refuse(_TOO_LONG)

    def on_message_begin(self) -> None:
        self._in_head = True
        self._heads += 1
        self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def look(self, now: float) -> None:
        """Ends the connection if it has been stuck for too long, in a way that the one who looked last saw too."""
        stuck, allowed = self._what_is_stuck()
        if stuck is None or stuck != self._stuck:
            self._stuck, self._stuck_since = stuck, now
        elif now - self._stuck_since > allowed:
            if stuck[0] == "unsent":
                self.transport.abort()
            else:
                self._refuse(_LATE if self._head_bytes else b"")

    def _what_is_stuck(self) -> tuple[tuple[str, int] | None, float]:
        unsent = self.transport.get_write_buffer_size()
        if unsent:
            return ("unsent", unsent), self._settings.body_timeout
        if self._in_head:
            return ("head", self._heads), self._settings.head_timeout
        if self.cycle is not None and self.cycle.response_complete and self.timeout_keep_alive_task is None:
            return ("rest", self._heads), self._settings.head_timeout  # of a body that nobody waited for
        return None, 0.0

    def _refuse(self, answer: bytes) -> None:
        if self.cycle is None or self.cycle.response_complete:  # else it would stand in the middle of another answer
            self.transport.write(answer)
        self.transport.close()


class BoundedServer(uvicorn.Server):
    """uvicorn's, on sockets that listen already, with the bounds that it lacks."""

    def __init__(self, config: uvicorn.Config, settings: Settings) -> None:
        super().__init__(config)
        config.load()  # so that its TLS can be asked for
        self._settings = settings
        self._ticks = max(1, min(10, int(settings.head_timeout * 2)))  # tenths of a second between looks

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self.lifespan.startup()
        loop = asyncio.get_running_loop()
        tls: dict[str, Any] = {}
        if self.config.ssl is not None:
            tls = {"ssl": self.config.ssl, "ssl_handshake_timeout": self._settings.head_timeout}
        self.servers = [
            await loop.create_server(self._protocol, sock=one, backlog=self.config.backlog, **tls)
            for one in sockets or ()
        ]
        self.started = True

    def _protocol(self) -> BoundedProtocol:
        return BoundedProtocol(self._settings, self.config, self.server_state, self.lifespan.state)

    async def on_tick(self, counter: int) -> bool:
        if counter % self._ticks == 0:
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                if isinstance(connection, BoundedProtocol):
                    connection.look(now)
        return await super().on_tick(counter)
