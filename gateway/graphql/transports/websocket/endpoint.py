"""GraphQL over WebSocket: the endpoint that shakes hands. It speaks graphql-transport-ws and nothing else."""

from starlette.types import Receive, Scope, Send

from gateway.access.quotas import Quotas
from gateway.graphql.requests import Authenticate, Executor
from gateway.graphql.transports.streams import Streams
from gateway.graphql.transports.websocket.connection import Close, Connection, WebSocketLimits, close_event

SUBPROTOCOL = "graphql-transport-ws"


class WebSocketEndpoint:
    """An ASGI application for WebSocket scopes; mount it with `WebSocketRoute("/graphql", WebSocketEndpoint(...))`."""

    def __init__(
        self,
        executor: Executor,
        authenticate: Authenticate,
        callers: Quotas,
        streams: Streams,
        *,
        max_message_bytes: int,
        limits: WebSocketLimits | None = None,
    ) -> None:
        self._executor = executor
        self._authenticate = authenticate
        self._callers = callers
        self._streams = streams
        self._max_message_bytes = max_message_bytes
        self._limits = limits or WebSocketLimits()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (await receive())["type"] != "websocket.connect":
            return
        offered: list[str] = scope["subprotocols"]
        if SUBPROTOCOL not in offered:
            # A browser sees the code only on a connection that was accepted with something it offered.
            await send({"type": "websocket.accept", "subprotocol": offered[0] if offered else None})
            await send(close_event(Close.SUBPROTOCOL, f"Offer the subprotocol {SUBPROTOCOL}."))
            return
        await send({"type": "websocket.accept", "subprotocol": SUBPROTOCOL})
        connection = Connection(
            self._executor,
            self._authenticate,
            self._callers,
            self._limits,
            self._max_message_bytes,
            scope,
            receive,
            send,
        )
        with self._streams.opened(lambda: connection.end(Close.GOING_AWAY, "The server is stopping.")):
            await connection.run()
