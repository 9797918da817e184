"""Limits on connections: their number, the length and time of headers, TLS handshakes, and the pace of reading.

uvicorn has no such limits. Stalled connections are found by a periodic check of all connections (every 0.1 to 1 s,
depending on GATEWAY_HEAD_TIMEOUT), so requests need no timers of their own.

The protocols, in the order in which a connection has them: `_TlsHandshake`, if the gateway serves TLS;
`BoundedProtocol` for HTTP; `BoundedWebSocketProtocol` after an upgrade. All count as one connection of their client and
read within its share of the time of the event loop. `BoundedServer` accepts connections, and ends them at the stop.
"""

import asyncio
import logging
import resource
import socket
import ssl
from collections.abc import Awaitable, MutableMapping
from http import HTTPStatus
from time import perf_counter
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from uvloop.loop import SSLProtocol  # type: ignore[attr-defined]
from websockets.exceptions import HeaderLineTooLong, RequestLineTooLong, TooManyHeaders

from gateway.access.admission import Application
from gateway.app import ERROR_FORMATS
from gateway.config import Settings
from gateway.errors import ErrorCode
from gateway.graphql.error_format import GRAPHQL_FORMAT
from gateway.http.errors import HttpError
from gateway.http.health import HEALTH_PATHS
from gateway.http.scope import HOLD
from gateway.server.clients import Clients
from gateway.server.http_1_0 import close_delimited
from gateway.server.paced_transport import PacedTransport

_ANSWERED_BEYOND_LIMIT = 256  # connections over the limit that receive a 503; further ones are reset
_OTHER_FILES = 256  # open files of a process that are not connections of clients
_MAX_HEADERS = 500  # of a request; handling each takes time, in which no other request is served
_PIECE = 1_024  # bytes that are parsed without a look at the time, and at whether the protocol is busy
_FIRST_REQUEST_SECONDS = 0.5  # that a server which stops gives the first request of a connection to arrive
_LINGER_SECONDS = 2.0  # for which the rest of a rejected request is read and dropped
_LINGER_BYTES = 1_048_576
_CONNECTION = "gateway.connection"  # key of the transport in the state of an ASGI scope

_RETRY_AFTER = (b"retry-after", b"5")
_TOO_MANY_CONNECTIONS = HttpError(
    503,
    "The gateway has reached its maximum number of connections. Retry later.",
    ErrorCode.LIMIT_EXCEEDED,
    [_RETRY_AFTER],
)
_TOO_MANY_OF_CLIENT = HttpError(
    503,
    "This client has reached its maximum number of connections. Close some of them, then retry.",
    ErrorCode.LIMIT_EXCEEDED,
    [_RETRY_AFTER],
)
_TOO_MUCH_UNREAD = HttpError(
    429,
    "This client has too many unread responses. Read them or close their connections, then retry.",
    ErrorCode.LIMIT_EXCEEDED,
    [_RETRY_AFTER],
    retryable=True,
)
_HEAD_TIMEOUT = HttpError(408, "The headers of the request did not arrive in time.")
_HEAD_TOO_LONG = HttpError(431, "The headers of the request are too long.", ErrorCode.LIMIT_EXCEEDED)
_MALFORMED = HttpError(400, "The request is not valid HTTP/1.1.")

log = logging.getLogger(__name__)


class _HeadTooLong(Exception):
    """Raised in a callback of the parser, which turns it into an error of its own."""


class ClientLimits:
    """Attributes each request to its client, and refuses HTTP requests of a client that has too much to read.

    An ASGI application around the gateway's. It runs after uvicorn has replaced the address of a trusted proxy by that
    of its client. A refused request has not been executed. One that is sent before the previous response was read
    waits, so that at most one response per connection is in memory.
    """

    def __init__(self, app: Application) -> None:
        self._app = app

    def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> Awaitable[None]:
        connection: PacedTransport = scope["state"][_CONNECTION]
        client = scope["client"]
        connection.assign(client[0] if client else "")
        if connection.client.unread:
            return self._limited(connection, scope, receive, send)
        return self._app(scope, receive, send)

    async def _limited(
        self, connection: PacedTransport, scope: MutableMapping[str, Any], receive: Any, send: Any
    ) -> None:
        await connection.wait_until_sent()
        exempt = scope["type"] != "http" or scope["path"] in HEALTH_PATHS
        if exempt or not connection.reads_too_little:
            await self._app(scope, receive, send)
        else:
            await ERROR_FORMATS.response(scope, _TOO_MUCH_UNREAD)(scope, receive, send)


class _PacedProtocol(asyncio.Protocol):
    """The part of both protocols that belongs to their `PacedTransport`, and the pace of parsing.

    What arrives is parsed in pieces. The rest waits, and no more is read, while the protocol is busy with what it has
    parsed, or while its client has used more than its share of the time of the event loop for parsing. A read delivers
    up to 256 KiB, which can be 43,000 empty frames or 14,000 requests: parsed at once, they would hold the event loop
    for up to a second, and as objects they would take some kilobytes each. What waits counts as unread by the client.
    """

    transport: PacedTransport
    loop: asyncio.AbstractEventLoop
    _unparsed = memoryview(b"")
    _held = 0  # unparsed bytes that count as unread
    _dropped_bytes = 0  # received since the connection is closing
    _closing_since: float | None = None  # the time of the first check that found nothing but the client's end missing
    _is_scheduled = False  # whether `_parse_pieces` will be called

    def _parse(self, data: bytes | memoryview) -> None:
        """Parses one piece."""
        raise NotImplementedError

    @property
    def _parses(self) -> bool:
        """Whether this protocol still parses: it does not if the connection is closing or has become a WebSocket."""
        return not self.transport.is_closing() and self.transport.get_protocol() is self

    @property
    def _is_busy(self) -> bool:
        """Whether what has been parsed must be handled before more is parsed. `parse_soon` is called afterwards."""
        raise NotImplementedError

    @property
    def _reads(self) -> bool:
        """Whether the protocol wants to read from the socket."""
        raise NotImplementedError

    def _receive(self, data: bytes) -> None:
        if self._unparsed:
            self._unparsed = memoryview(bytes(self._unparsed) + data)
            self._hold_unparsed()
            return
        client = self.transport.peer
        started = perf_counter()
        if len(data) <= _PIECE and not client.waits_to_parse and not client.parse_delay(started):
            self._parse(data)
            client.parse_seconds += perf_counter() - started
        else:
            self._unparsed = memoryview(data)
            self._parse_pieces()

    def parse_soon(self) -> None:
        """Continues to parse if anything waits for it."""
        if self._unparsed and not self._is_scheduled:
            self._is_scheduled = True
            self.loop.call_soon(self._parse_pieces)

    def _parse_pieces(self) -> None:
        """Parses what waits, as far as possible now."""
        self._is_scheduled = False
        client, data, position = self.transport.peer, self._unparsed, 0
        while position < len(data) and self._parses and not self._is_busy:
            now = perf_counter()
            if client.parse_delay(now) or (position and client.waits_to_parse):
                self._is_scheduled = True
                client.parse_later(self._parse_pieces)
                break
            self._parse(data[position : position + _PIECE])
            position += _PIECE
            client.parse_seconds += perf_counter() - now
        self._unparsed = data[position:] if self._parses else memoryview(b"")
        self._hold_unparsed()

    def _hold_unparsed(self) -> None:
        """Counts the unparsed bytes as unread by the client, and reads from the socket only if there are none."""
        size = len(self._unparsed.obj) if self._unparsed else 0  # type: ignore[arg-type] # all of it is in memory
        if size != self._held:
            change, self._held = size - self._held, size
            self.transport.hold(change)
        if bool(size) != self.transport.holds_input:
            self.transport.holds_input = bool(size)
            if size:
                self.transport.pause_reading()
            elif self._reads:
                self.transport.resume_reading()

    def _drop(self, data: bytes) -> None:
        """Drops what a client still sends on a connection that is closing: unread, it would cause a reset."""
        self._dropped_bytes += len(data)
        if self._dropped_bytes > _LINGER_BYTES:
            self.transport.abort()

    def pause_writing(self) -> None:
        self.transport.pause()
        super().pause_writing()

    def resume_writing(self) -> None:
        if self.transport.resume():
            super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport.lost()
        self._unparsed = memoryview(b"")
        super().connection_lost(exc)

    def check_pace(self, now: float, seconds: float) -> None:
        """Closes the connection of a client that has read too slowly for `seconds`."""
        if self.transport.is_too_slow(now, seconds):
            log.info("Closed a connection because its client reads too slowly client=%s", self.transport.client.name)
            self.transport.abort()

    def check_closing(self, now: float) -> None:
        """Closes a connection that only waits for the client to close its side, after `_LINGER_SECONDS`."""
        if not self.transport.is_closing() or self.transport.get_write_buffer_size():
            self._closing_since = None
        elif self._closing_since is None:
            self._closing_since = now
        elif now - self._closing_since > _LINGER_SECONDS:
            self.transport.close_now()

    def shutdown(self) -> None:
        """Called when the server stops, which does not wait for the client to close its side."""
        if self.transport.is_closing() and not self.transport.get_write_buffer_size():
            self.transport.close_now()
        else:
            super().shutdown()  # type: ignore[misc]


class _TlsHandshake(asyncio.BufferedProtocol):
    """The TLS handshake of a connection, in a share of the time of the event loop.

    The connection counts as one of its client from its acceptance on. `protocol` takes it, and counts it itself, once
    the handshake has succeeded.

    uvloop passes what arrives to its `SSLProtocol` without calling Python. So during the handshake this protocol stands
    in between: what arrives waits while the client has used its share of the time for parsing, in which its handshakes
    are included. One takes 0.3 to 2 ms, and a client can begin any number with a message that it has recorded.
    """

    def __init__(self, clients: Clients, protocol: "BoundedProtocol", context: ssl.SSLContext, timeout: float) -> None:
        """`timeout` is that of the handshake, in seconds."""
        self._clients = clients
        self._timeout = timeout
        loop = asyncio.get_running_loop()
        self._tls = SSLProtocol(loop, protocol, context, None, server_side=True, ssl_handshake_timeout=timeout)
        self._has_begun = False  # whether the client has sent anything that was processed
        self._has_ended = False
        self._waiting = 0  # bytes in the buffer that are not processed yet
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        address = _peer_address(transport)
        self._client = client = self._clients.find(address)
        client.connections += 1
        self._clients.handshakes += 1
        excess_of_client = client.connections - self._clients.share(address)
        excess = self._clients.handshakes - self._clients.max_connections
        if max(excess, excess_of_client) > _ANSWERED_BEYOND_LIMIT:
            transport.abort()
        else:
            self._timer = asyncio.get_running_loop().call_later(self._timeout, transport.abort)

    def get_buffer(self, sizehint: int) -> memoryview:
        buffer: memoryview = self._tls.get_buffer(sizehint)
        return buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._client.waits_to_parse or self._client.parse_delay(perf_counter()):
            self._waiting = nbytes
            self._transport.pause_reading()
            self._client.parse_later(self._continue)
        else:
            self._process(nbytes)

    def _continue(self) -> None:
        if not self._has_ended:  # otherwise the connection was lost
            self._transport.resume_reading()
            self._process(self._waiting)

    def _process(self, size: int) -> None:
        """Passes what the client has sent to the `SSLProtocol`, which receives the rest itself after the handshake."""
        started = perf_counter()
        if not self._has_begun:
            self._has_begun = True
            self._tls.connection_made(self._transport)
        self._tls.buffer_updated(size)
        self._client.parse_seconds += perf_counter() - started
        if self._has_ended:
            self._transport.set_protocol(self._tls)

    def end(self) -> None:
        """Must be called when the handshake has succeeded. May be called several times."""
        if not self._has_ended:
            self._has_ended = True
            self._client.connections -= 1
            self._clients.handshakes -= 1
            if self._timer is not None:
                self._timer.cancel()

    def eof_received(self) -> bool | None:
        return self._tls.eof_received() if self._has_begun else None

    def pause_writing(self) -> None:
        self._tls.pause_writing()

    def resume_writing(self) -> None:
        self._tls.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self.end()
        if self._has_begun:
            self._tls.connection_lost(exc)


class BoundedWebSocketProtocol(_PacedProtocol, WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol. Takes the transport of the `BoundedProtocol` that received the handshake."""

    transport: PacedTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.keeps_sending = self._client_sends

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            self._drop(data)
        elif self.handshake_initiated:
            self._receive(data)
        else:
            self._receive_handshake(data)

    def _parse(self, data: bytes | memoryview) -> None:
        super().data_received(bytes(data))

    @property
    def _is_busy(self) -> bool:
        return self.read_paused

    @property
    def _reads(self) -> bool:
        return not self.read_paused

    def _client_sends(self) -> bool:
        """Whether the client may still be sending what was refused. Otherwise there is a closing handshake."""
        return self.conn.parser_exc is not None or self.conn.handshake_exc is not None

    def handle_parser_exception(self) -> None:
        super().handle_parser_exception()
        self.disconnected = True  # for the application, whose messages are dropped
        self.disconnected = True  # for the application, whose messages are dropped
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()

    def check(self, now: float, timeout: float) -> None:
        """Closes the connection of a client that has not read, or not closed its side, for too long."""
        self.check_pace(now, timeout)
        self.check_closing(now)

    def _receive_handshake(self, data: bytes) -> None:
        super().data_received(data)
        if not self.handshake_initiated and (reason := self.conn.handshake_exc) is not None:
            # uvicorn does not notice that the parser has rejected the handshake, and the client would wait without end.
            too_long = isinstance(reason, RequestLineTooLong | HeaderLineTooLong | TooManyHeaders)
            self.handshake_initiated = True
            self.transport.write(_response(_HEAD_TOO_LONG if too_long else _MALFORMED, b"GET", data.split(b" ", 2)[1]))
            self.transport.close()


class BoundedProtocol(_PacedProtocol, HttpToolsProtocol):
    """uvicorn's HTTP protocol with limits. It tracks whether the connection is in the head of a request.

    The head is the request line and the headers. Before the first byte, a connection is in the head of its first
    request.

    Its errors are sent before the application runs, in the format of the surface that serves the path of the request
    line, or in GraphQL's if the line has not arrived or no surface serves the path.
    """

    transport: PacedTransport

    def __init__(
        self,
        settings: Settings,
        clients: Clients,
        config: uvicorn.Config,
        state: ServerState,
        app_state: dict[str, Any],
        first_request_seconds: float = _FIRST_REQUEST_SECONDS,
    ) -> None:
        super().__init__(config, state, app_state)
        self._settings = settings
        self._clients = clients
        self._first_request_seconds = first_request_seconds
        self._stopping = False  # the first request, if there is one, is also the last
        self.handshake: _TlsHandshake | None = None
        self._served: RequestResponseCycle | None = None  # the request that the application has received last
        self.url = b""  # of the current request, as far as it has arrived; set by uvicorn
        self._rejection: HttpError | None = None  # of the connection, whatever it requests
        self._rejected = False  # whether a request was rejected before it had arrived completely
        self._parser_error = _MALFORMED  # the reason for which the parser rejects a request
        self._max_head_bytes = settings.max_head_bytes
        self._measures_head = False  # whether a piece was received that may contain a whole head which is too long
        self._in_head = True
        self._heads = 0  # requests that have begun on this connection
        self._head_bytes = 0  # of the head; after it, bytes since the last part of the body, such as trailers
        self._progress = False  # whether a request or a part of a body has arrived since the last count
        self._stall: tuple[str, int] | None = None  # what the last check found
        self._stalled_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self.handshake is not None:
            self.handshake.end()
        address = _peer_address(transport)
        paced = PacedTransport(transport, self._clients, address, self._client_sends)  # type: ignore[arg-type]
        super().connection_made(paced)
        self.app_state = {**self.app_state, _CONNECTION: paced, HOLD: paced.hold}
        excess = len(self.connections) + self._clients.handshakes - self._clients.max_connections
        excess_of_client = paced.peer.connections - self._clients.share(address)
        if excess > 0:
            self._rejection = _TOO_MANY_CONNECTIONS
        elif excess_of_client > 0:
            self._rejection = _TOO_MANY_OF_CLIENT
        if max(excess, excess_of_client) > _ANSWERED_BEYOND_LIMIT:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._rejection is not None or self._rejected:
            self._drop(data)
            return
        self._receive(data)

    def _parse(self, data: bytes | memoryview) -> None:
        self._measures_head = self._head_bytes + len(data) > self._max_head_bytes
        super().data_received(data)  # type: ignore[arg-type]
        if self._in_head or not self._progress:
            self._head_bytes += len(data)
            if self._head_bytes > self._max_head_bytes:
                self._reject_request(_HEAD_TOO_LONG)
        self._progress = False

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Keeps the connection of a client that sends no more until its response is sent, which TLS cannot."""
        if self.transport.queued and self.transport.can_write_eof():
            self.transport.close()
            return True
        return None

    def send_400_response(self, msg: str) -> None:
        """Replaces uvicorn's response to a request that it cannot parse."""
        self._reject_request(self._parser_error)

    def on_message_begin(self) -> None:
        self._in_head = True
        self._progress = True
        self._heads += 1
        self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        too_long = self._measures_head and self._head_size() > self._max_head_bytes
        if too_long or len(self.headers) > _MAX_HEADERS:
            self._parser_error = _HEAD_TOO_LONG
            raise _HeadTooLong
        self._in_head = False
        self._progress = True
        self._head_bytes = 0
        super().on_headers_complete()
        # The application has the list with the headers. uvicorn adds the trailers of a chunked body to the copy, where
        # they are ignored: a trailer must not replace a header (RFC 9110, 6.5.1).
        self.headers = self.headers.copy()

    def on_body(self, body: bytes) -> None:
        self._progress = True
        self._head_bytes = 0
        super().on_body(body)

    def shutdown(self) -> None:
        """Called when the server stops. A connection that was just accepted may have its first request on its way."""
        if self.cycle is None and not self._stopping and not self.transport.is_closing():
            self._stopping = True
            self.loop.call_later(self._first_request_seconds, self._stop_waiting)
        else:
            super().shutdown()

    def _stop_waiting(self) -> None:
        """Ends the wait of `shutdown`. The first request may have made the connection a WebSocket."""
        if not self.transport.is_closing():
            self.transport.get_protocol().shutdown()  # type: ignore[attr-defined]

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if self._stopping:
            cycle.keep_alive = False
        self._served = cycle
        if cycle.scope["http_version"] != "1.1":
            app = close_delimited(app, cycle)
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.parse_soon()

    def connection_lost(self, exc: Exception | None) -> None:
        # uvicorn informs the request that was parsed last, but an earlier one may be the one that is served.
        if self._served is not None and not self._served.response_complete:
            self._served.disconnected = True
            self._served.message_event.set()
        super().connection_lost(exc)

    @property
    def _parses(self) -> bool:
        return not self._rejected and super()._parses

    @property
    def _is_busy(self) -> bool:
        return bool(self.pipeline)

    @property
    def _reads(self) -> bool:
        return not self.flow.read_paused

    def check(self, now: float) -> None:
        """Closes the connection if successive checks have found the same stall for longer than its timeout."""
        self.check_pace(now, self._settings.body_timeout)
        self.check_closing(now)
        stall, timeout = self._current_stall()
        if stall is None or stall != self._stall:
            self._stall, self._stalled_since = stall, now
        elif now - self._stalled_since > timeout:
            if stall[0] == "head" and self._head_bytes:
                self._reject_request(_HEAD_TIMEOUT)
            else:
                self.transport.close()

    def _current_stall(self) -> tuple[tuple[str, int] | None, float]:
        """What the connection is waiting for, a value that changes with any progress, and its timeout in seconds."""
        if self.transport.get_write_buffer_size() or self.transport.is_closing() or self._unparsed:
            return None, 0.0
        if self._in_head:
            return ("head", self._heads), self._settings.head_timeout
        if self.cycle is not None and self.cycle.response_complete and self.timeout_keep_alive_task is None:
            # The response was sent before the body of the request had arrived, and the rest of the body is missing.
            return ("body", self._heads), self._settings.head_timeout
        return None, 0.0

    def _head_size(self) -> int:
        """The bytes of a complete head."""
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _reject_request(self, error: HttpError) -> None:
        """Rejects the request that is being received."""
        self._reject(error, self.parser.get_method(), self.url)

    def _reject(self, error: HttpError, method: bytes, target: bytes) -> None:
        self._rejected = True
        if self._may_respond():
            self.transport.write(_response(error, method, target))
        self.transport.close()

    def _drop(self, data: bytes) -> None:
        """Receives data of a connection that is rejected, or that only reads the rest of a rejected request."""
        super()._drop(data)
        if self._rejection is not None and not self._rejected:
            method, _, rest = data.partition(b" ")
            self._reject(self._rejection, method, rest.partition(b" ")[0])

    def _client_sends(self) -> bool:
        """Whether the client may still be sending a request that has been answered."""
        if self._rejected:
            return self._rejection is None
        return self.cycle is not None and self.cycle.response_complete and self.cycle.more_body

    def _may_respond(self) -> bool:
        """Whether an error would be sent neither inside nor before the response to another request."""
        if self.cycle is None:
            return True
        if self._in_head:
            return self.cycle.response_complete
        # Outside a head, the error concerns the body of the request that is being served.
        return not self.cycle.response_started and not self.pipeline


def _peer_address(transport: asyncio.BaseTransport) -> str:
    peer = transport.get_extra_info("peername")
    return str(peer[0]) if isinstance(peer, tuple) else ""


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


def _allowed_connections(wanted: int) -> int:
    """Raises the limit of open files of this process for `wanted` connections. Returns how many it allows."""
    needed = wanted + _ANSWERED_BEYOND_LIMIT + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    limit = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    if limit < needed:
        log.warning(
            "The limit of open files (%d) allows fewer connections than GATEWAY_MAX_CONNECTIONS (%d)", limit, wanted
        )
    return max(1, min(wanted, limit - _ANSWERED_BEYOND_LIMIT - _OTHER_FILES))


class BoundedServer(uvicorn.Server):
    """uvicorn's server for sockets that are already listening, with `BoundedProtocol`."""

    def __init__(
        self,
        config: uvicorn.Config,
        settings: Settings,
        clients: Clients | None = None,
        *,
        first_request_seconds: float = _FIRST_REQUEST_SECONDS,
    ) -> None:
        super().__init__(config)
        self._first_request_seconds = first_request_seconds
        config.load()  # sets `config.ssl`
        self._settings = settings
        self._clients = clients or Clients(_allowed_connections(settings.max_connections), settings.trusted_proxies)
        self._ticks = max(1, min(10, int(settings.head_timeout * 2)))  # from check to check; a tick is 0.1 s

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self.lifespan.startup()
        loop = asyncio.get_running_loop()
        self.servers = [
            await loop.create_server(self._protocol, sock=listening, backlog=self.config.backlog)
            for listening in sockets or ()
        ]
        self.started = True

    def _protocol(self) -> BoundedProtocol | _TlsHandshake:
        protocol = BoundedProtocol(
            self._settings,
            self._clients,
            self.config,
            self.server_state,
            self.lifespan.state,
            self._first_request_seconds,
        )
        if self.config.ssl is None:
            return protocol
        protocol.handshake = _TlsHandshake(self._clients, protocol, self.config.ssl, self._settings.head_timeout)
        return protocol.handshake

    async def on_tick(self, counter: int) -> bool:
        if counter % self._ticks == 0:
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                if isinstance(connection, BoundedProtocol):
                    connection.check(now)
                elif isinstance(connection, BoundedWebSocketProtocol):
                    connection.check(now, self._settings.body_timeout)
        return await super().on_tick(counter)
