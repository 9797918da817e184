"""Runs the transports with uvicorn on a free port of 127.0.0.1, in a thread, with the test schema of `world`."""

import asyncio
import socket
import threading
from collections.abc import Coroutine, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from websockets.sync.client import ClientConnection, connect

from gateway.access.admission import Admission
from gateway.access.caller import Caller
from gateway.access.quotas import Quotas
from gateway.config import Settings
from gateway.graphql.error_format import GRAPHQL_FORMAT
from gateway.graphql.transports.http import GraphQLEndpoint
from gateway.graphql.transports.sse import EventStreams
from gateway.graphql.transports.streams import OpenStreams
from gateway.graphql.transports.websocket.connection import WebSocketLimits
from gateway.graphql.transports.websocket.endpoint import SUBPROTOCOL, WebSocketEndpoint
from gateway.http.errors import ErrorFormats
from gateway.http.load_shedding import LoopTurns
from gateway.http.middleware import middleware
from tests.serving import Server

from .world import World, authenticate

T = TypeVar("T")

MAX_BODY = 100_000  # bytes
FORMATS = ErrorFormats({"/graphql": GRAPHQL_FORMAT})
SETTINGS = Settings(
    max_body_bytes=MAX_BODY,
    cors_origins=("http://localhost:5173",),
    allowed_hosts=("gateway.example", "only.example:81"),
)


class Configured:
    """The `Authentication` of a gateway with users, none of whom was authenticated before."""

    requires_authentication = True

    async def is_open(self) -> bool:
        return False

    def known_caller(self, _scope: Mapping[str, Any]) -> Caller | None:
        return None


class Serving:
    """A running server: its addresses, its world, and access to its event loop."""

    def __init__(self, port: int, world: World, streams: OpenStreams, server: Server) -> None:
        self.origin = f"http://127.0.0.1:{port}"
        self.url = f"{self.origin}/graphql"
        self.world = world
        self.streams = streams
        self.port = port
        self.server = server

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Starts a coroutine on the event loop of the server."""
        return asyncio.run_coroutine_threadsafe(work, self.server.loop)

    def wait_for_closed_subscription(self) -> None:
        """Waits until one endless subscription has been closed that no earlier call has waited for."""
        self.submit(self.world.closed.acquire()).result(60)

    def release(self) -> None:
        """Lets all blocked resolvers continue."""

        async def set_released() -> None:
            self.world.released.set()

        self.submit(set_released()).result(60)

    def socket(self, *, host: str | None = None, **options: Any) -> ClientConnection:
        """A WebSocket, with `host` in the `Host` header. It is not compressed, so that limits count the sent bytes."""
        defaults = {"subprotocols": [SUBPROTOCOL], "proxy": None, "compression": None}
        uri = f"ws://{host or f'127.0.0.1:{self.port}'}/graphql"
        wire = socket.create_connection(("127.0.0.1", self.port), 60)
        connected: ClientConnection = connect(uri, sock=wire, **{**defaults, **options})
        return connected

    def raw(self, request: bytes) -> bytes:
        """Sends bytes that no client library would send. Returns the response, up to the end of the connection."""
        with socket.create_connection(("127.0.0.1", self.port), 60) as connection:
            connection.sendall(request)
            return b"".join(iter(lambda: connection.recv(65_536), b""))


def application(world: World, streams: OpenStreams, **limits: Any) -> Starlette:
    """The transports, and a route `/elsewhere` that returns the request id."""
    admission = Admission(Quotas(limits.pop("settings", SETTINGS)))
    turns = LoopTurns()
    events = EventStreams(streams, ping_after=limits.pop("sse_ping", 12.0), send_timeout=limits.pop("send_timeout", 30))
    http = GraphQLEndpoint(
        world,
        authenticate,
        admission,
        events,
        max_body_bytes=SETTINGS.max_body_bytes,
        body_timeout=limits.pop("body_timeout", 30.0),
        turns=turns,
    )
    ws = WebSocketEndpoint(
        world,
        authenticate,
        admission.quotas,
        streams,
        max_message_bytes=SETTINGS.max_body_bytes,
        turns=turns,
        limits=WebSocketLimits(**limits),
    )

    async def elsewhere(request: Request) -> PlainTextResponse:
        return PlainTextResponse(request.state.request_id)

    routes = [
        WebSocketRoute("/graphql", ws),
        Route("/elsewhere", elsewhere, methods=["GET", "POST", "DELETE"]),
    ]
    return Starlette(
        routes=routes,
        middleware=middleware(SETTINGS, FORMATS, admission.wrap(http), Configured(), turns),
        exception_handlers={404: FORMATS.no_route},
    )


@contextmanager
def serve(**limits: Any) -> Iterator[Serving]:
    """Serves while the block runs.

    `limits` may have `settings`, `sse_ping`, `send_timeout` and `body_timeout`; the others are for `WebSocketLimits`.
    """
    world, streams = World(), OpenStreams()
    listener, listening = socket.create_server(("127.0.0.1", 0)), threading.Event()
    config = uvicorn.Config(
        application(world, streams, **limits),
        log_config=None,
        access_log=False,
        ws="websockets-sansio",
        ws_max_size=SETTINGS.max_body_bytes,
        lifespan="off",
    )
    server = Server(config, streams, on_started=listening.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    assert listening.wait(60), "The server did not start"
    try:
        yield Serving(listener.getsockname()[1], world, streams, server)
    finally:
        server.stop()
        thread.join(30)
        assert not thread.is_alive()
