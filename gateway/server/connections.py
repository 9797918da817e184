"""Limits on connections before they carry a request: their number, the length and time of headers, TLS handshakes.

uvicorn has no such limits. Stalled connections are found by a periodic check of all connections (every 0.1 to 1 s,
depending on GATEWAY_HEAD_TIMEOUT), so requests need no timers of their own.
"""

import asyncio
import socket
from http import HTTPStatus
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from gateway.app import ERROR_FORMATS
from gateway.config import Settings
from gateway.errors import ErrorCode
from gateway.graphql.error_format import GRAPHQL_FORMAT
from gateway.http.errors import HttpError

_ANSWERED_BEYOND_LIMIT = 256  # connections over the limit that receive a 503; further ones are reset

_TOO_MANY_CONNECTIONS = HttpError(
    503,
    "The gateway has reached its maximum number of connections. Retry later.",
    ErrorCode.LIMIT_EXCEEDED,
    [(b"retry-after", b"5")],
)
_HEAD_TIMEOUT = HttpError(408, "The headers of the request did not arrive in time.")
_HEAD_TOO_LONG = HttpError(431, "The headers of the request are too long.", ErrorCode.LIMIT_EXCEEDED)
_MALFORMED = HttpError(400, "The request is not valid HTTP/1.1.")


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol with limits. It tracks whether the connection is in the head of a request.

    The head is the request line and the headers. Before the first byte, a connection is in the head of its first
    request.

    Its errors are sent before the application runs, in the format of the surface that serves the path of the request
    line, or in GraphQL's if the line has not arrived or no surface serves the path.
    """

    def __init__(
        self, settings: Settings, config: uvicorn.Config, state: ServerState, app_state: dict[str, Any]
    ) -> None:
        super().__init__(config, state, app_state)
        self._settings = settings
        self.url = b""  # of the current request, as far as it has arrived; set by uvicorn
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
            method, _, rest = data.partition(b" ")
            self._reject(_TOO_MANY_CONNECTIONS, method, rest.partition(b" ")[0])
            return
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > self._settings.max_head_bytes:
                self._reject_request(_HEAD_TOO_LONG)

    def send_400_response(self, msg: str) -> None:
        """Replaces uvicorn's response to a request that it cannot parse."""
        self._reject_request(_MALFORMED)

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
            elif stall[0] == "head" and self._head_bytes:
                self._reject_request(_HEAD_TIMEOUT)
            else:
                self.transport.close()

    def _current_stall(self) -> tuple[tuple[str, int] | None, float]:
        """What the connection is waiting for, a value that changes with any progress, and its timeout in seconds."""
        unsent = self.transport.get_write_buffer_size()
        if unsent:
            return ("unsent", unsent), self._settings.body_timeout
        if self._in_head:
            return ("head", self._heads), self._settings.head_timeout
        if self.cycle is not None and self.cycle.response_complete and self.timeout_keep_alive_task is None:
            # The response was sent before the body of the request had arrived, and the rest of the body is missing.
            return ("body", self._heads), self._settings.head_timeout
        return None, 0.0

    def _reject_request(self, error: HttpError) -> None:
        """Rejects the request that is being received."""
        self._reject(error, self.parser.get_method(), self.url)

    def _reject(self, error: HttpError, method: bytes, target: bytes) -> None:
        if self._may_respond():
            self.transport.write(_response(error, method, target))
        self.transport.close()

    def _may_respond(self) -> bool:
        """Whether an error would be sent neither inside nor before the response to another request."""
        if self.cycle is None or self.cycle.response_complete:
            return True
        # Outside a head, the error concerns the body of the request that is being served.
        return not self._in_head and not self.cycle.response_started and not self.pipeline


def _response(error: HttpError, method: bytes, target: bytes) -> bytes:
    """The whole response to a request. `target` is its path and query, or the part that has arrived."""
    path = target.partition(b"?")[0].decode("latin-1")
    error_format = ERROR_FORMATS.find(path, default=GRAPHQL_FORMAT)
    body = error_format.body(error)
    lines = [
        b"HTTP/1.1 %d %b" % (error.status, HTTPStatus(error.status).phrase.encode()),
        b"content-type: " + error_format.media_type.encode(),
        b"content-length: %d" % len(body),
        b"cache-control: no-store",
        b"x-content-type-options: nosniff",
        *(b"%b: %b" % header for header in error.headers),
        b"connection: close",
    ]
    return b"\r\n".join([*lines, b"", b"" if method == b"HEAD" else body])


class BoundedServer(uvicorn.Server):
    """uvicorn's server for sockets that are already listening, with `BoundedProtocol`."""

    def __init__(self, config: uvicorn.Config, settings: Settings) -> None:
        super().__init__(config)
        config.load()  # sets `config.ssl`
        self._settings = settings
        self._ticks = max(1, min(10, int(settings.head_timeout * 2)))  # from check to check; a tick is 0.1 s

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
