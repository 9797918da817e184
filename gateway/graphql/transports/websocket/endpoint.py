"""The WebSocket endpoint: accepts handshakes. The only supported subprotocol is graphql-transport-ws."""

from starlette.types import Receive, Scope, Send

from gateway.access.quotas import Quotas
from gateway.graphql.requests import Authenticate, Executor
from gateway.graphql.transports.streams import OpenStreams
from gateway.graphql.transports.websocket.connection import Close, Connection, WebSocketLimits, close_event
from gateway.http.load_shedding import LoopTurns

SUBPROTOCOL = "graphql-transport-ws"


class WebSocketEndpoint:
    """An ASGI application for WebSocket scopes, mounted by `WebSocketRoute("/graphql", WebSocketEndpoint(...))`."""

    def __init__(
        self,
        executor: Executor,
        authenticate: Authenticate,
        quotas: Quotas,
        streams: OpenStreams,
        *,
        max_message_bytes: int,
        turns: LoopTurns,
        limits: WebSocketLimits | None = None,
    ) -> None:
        self._executor = executor
        self._authenticate = authenticate
        self._quotas = quotas
        self._streams = streams
        self._max_message_bytes = max_message_bytes
        self._limits = limits or WebSocketLimits()
        self._turns = turns

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (await receive())["type"] != "websocket.connect":
            return
        offered: list[str] = scope["subprotocols"]
        if SUBPROTOCOL not in offered:
            # Browsers only report the close code of a connection that was accepted with an offered subprotocol.
            await send({"type": "websocket.accept", "subprotocol": offered[0] if offered else None})
            await send(close_event(Close.SUBPROTOCOL, f"Offer the subprotocol {SUBPROTOCOL}."))
            return
        await send({"type": "websocket.accept", "subprotocol": SUBPROTOCOL})
        connection = Connection(
            scope,
            receive,
            send,
            executor=self._executor,
            authenticate=self._authenticate,
            quotas=self._quotas,
            limits=self._limits,
            turns=self._turns,
            max_message_bytes=self._max_message_bytes,
        )
        with self._streams.track(lambda: connection.close(Close.GOING_AWAY, "The server is stopping.")):
            await connection.run()
