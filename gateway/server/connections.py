"""Limits on connections before they carry a request: their number, the length and time of headers, TLS handshakes.

uvicorn has no such limits. Stalled connections are found by a periodic check of all connections (every 0.1 to 1 s,
depending on GATEWAY_HEAD_TIMEOUT), so requests need no timers of their own.
"""

import asyncio
import socket
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from gateway.config import Settings

_ANSWERED_BEYOND_LIMIT = 256  # connections over the limit that receive a 503; further ones are reset


def _error_response(status: str, code: str, message: str, extra_headers: str = "") -> bytes:
    body = f'{{"errors":[{{"message":"{message}","extensions":{{"code":"{code}"}}}}]}}'
    return (
        f"HTTP/1.1 {status}\r\ncontent-type: application/json; charset=utf-8\r\ncontent-length: {len(body)}\r\n"
        f"cache-control: no-store\r\nx-content-type-options: nosniff\r\n{extra_headers}connection: close\r\n\r\n{body}"
    ).encode()


_TOO_MANY_CONNECTIONS = _error_response(
    "503 Service Unavailable",
    "LIMIT_EXCEEDED",
    "The gateway has reached its maximum number of connections. Retry later.",
    "retry-after: 5\r\n",
)
_HEAD_TIMEOUT = _error_response(
    "408 Request Timeout", "BAD_USER_INPUT", "The headers of the request did not arrive in time."
)
_HEAD_TOO_LONG = _error_response(
    "431 Request Header Fields Too Large", "LIMIT_EXCEEDED", "The headers of the request are too long."
)


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol with limits. It tracks whether the connection is in the head of a request.

    The head is the request line and the headers. Before the first byte, a connection is in the head of its first
    request.
    """

    def __init__(
        self, settings: Settings, config: uvicorn.Config, state: ServerState, app_state: dict[str, Any]
    ) -> None:
        super().__init__(config, state, app_state)
        self._settings = settings
        self._over_limit = False
        self._in_head = True
        self._heads = 0  # requests that have begun on this connection
        self._head_bytes = 0
        self._stall: tuple[str, int] | None = None  # what the last check found
        self._stalled_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        excess = len(self.connections) - self._settings.max_connections
        self._over_limit = excess > 0
        if excess > _ANSWERED_BEYOND_LIMIT:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._over_limit:
            self._reject(_TOO_MANY_CONNECTIONS)
            return
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > self._settings.max_head_bytes:
                self._reject(_HEAD_TOO_LONG)

    def on_message_begin(self) -> None:
        self._in_head = True
        self._heads += 1
        self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def check(self, now: float) -> None:
        """Closes the connection if successive checks have found the same stall for longer than its timeout."""
        stall, timeout = self._current_stall()
        if stall is None or stall != self._stall:
            self._stall, self._stalled_since = stall, now
        elif now - self._stalled_since > timeout:
            if stall[0] == "unsent":
                self.transport.abort()
            else:
                self._reject(_HEAD_TIMEOUT if self._head_bytes else b"")

    def _current_stall(self) -> tuple[tuple[str, int] | None, float]:
        """What the connection is waiting for, which differs after any progress, and for how many seconds it may."""
        unsent = self.transport.get_write_buffer_size()
        if unsent:
            return ("unsent", unsent), self._settings.body_timeout
        if self._in_head:
            return ("head", self._heads), self._settings.head_timeout
        if self.cycle is not None and self.cycle.response_complete and self.timeout_keep_alive_task is None:
            # The response was sent before the body of the request had arrived, and the rest of the body is missing.
            return ("body", self._heads), self._settings.head_timeout
        return None, 0.0

    def _reject(self, response: bytes) -> None:
        if self.cycle is None or self.cycle.response_complete:  # otherwise it would be sent inside another response
            self.transport.write(response)
        self.transport.close()


class BoundedServer(uvicorn.Server):
    """uvicorn's server for sockets that are already listening, with `BoundedProtocol`."""

    def __init__(self, config: uvicorn.Config, settings: Settings) -> None:
        super().__init__(config)
        config.load()  # sets `config.ssl`
        self._settings = settings
        self._ticks = max(1, min(10, int(settings.head_timeout * 2)))  # between two checks; a tick is 0.1 s

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self.lifespan.startup()
        loop = asyncio.get_running_loop()
        tls: dict[str, Any] = {}
        if self.config.ssl is not None:
            tls = {"ssl": self.config.ssl, "ssl_handshake_timeout": self._settings.head_timeout}
        self.servers = [
            await loop.create_server(self._protocol, sock=listening, backlog=self.config.backlog, **tls)
            for listening in sockets or ()
        ]
        self.started = True

    def _protocol(self) -> BoundedProtocol:
        return BoundedProtocol(self._settings, self.config, self.server_state, self.lifespan.state)

    async def on_tick(self, counter: int) -> bool:
        if counter % self._ticks == 0:
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                if isinstance(connection, BoundedProtocol):
                    connection.check(now)
        return await super().on_tick(counter)
