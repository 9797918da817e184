"""Runs `BoundedServer` with a small application in a thread of the test process, and raw clients for it."""

import asyncio
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import uvicorn
import uvloop

from gateway.config import Settings
from gateway.server.clients import Clients
from gateway.server.connections import BoundedServer, BoundedWebSocketProtocol, ClientLimits
from tests.waiting import at_most, until

_READ_SIZE = 1_048_576


class Application:
    """`/?size=N` returns N bytes, and `/?headers` the names of the request's headers, after its body has arrived.

    With `&together=M` it does so when M requests have arrived. A WebSocket gets one message of N bytes.
    """

    def __init__(self) -> None:
        self.executed: list[str] = []  # the `name` of each request
        self._together: dict[str, asyncio.Barrier] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        found = parse_qs(scope["query_string"].decode(), keep_blank_values=True)
        query = {name: values[0] for name, values in found.items()}
        self.executed.append(query.get("name", ""))
        if scope["type"] == "websocket":
            await self._websocket(receive, send, int(query["size"]))
            return
        more_body = True
        while more_body:
            more_body = (await receive()).get("more_body", False)
        if "together" in query:
            barrier = self._together.setdefault(query["together"], asyncio.Barrier(int(query["together"])))
            await barrier.wait()
        names = b" ".join(name for name, _ in scope["headers"])
        body = names if "headers" in query else _pattern(int(query.get("size", "2")))
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _websocket(self, receive: Any, send: Any, size: int) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "bytes": _pattern(size)})
        for _ in at_most(10):
            if (await receive())["type"] == "websocket.disconnect":
                break


def _pattern(size: int) -> bytes:
    return (b"0123456789" * (size // 10 + 1))[:size]


class _Server(BoundedServer):
    def __init__(self, config: uvicorn.Config, settings: Settings, clients: Clients, started: threading.Event) -> None:
        super().__init__(config, settings, clients, first_request_seconds=30.0)
        self._on_started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_started.set()


class Bounded:
    """The running server. Clients choose the loopback address that they connect from."""

    def __init__(self, port: int, application: Application, certificate: Path | None, server: uvicorn.Server) -> None:
        self.port = port
        self._server = server
        self.application = application
        self._tls = None if certificate is None else ssl.create_default_context(cafile=str(certificate))

    @contextmanager
    def connect(self, address: str = "127.0.0.1", receive_buffer: int = 0) -> Iterator[socket.socket]:
        """A connection from `address`, with a kernel buffer of `receive_buffer` bytes if it is not 0."""
        with self.connect_without_tls(address, receive_buffer) as connection:
            if self._tls is None:
                yield connection
            else:
                with self._tls.wrap_socket(connection, server_hostname="localhost") as secure:
                    yield secure

    @contextmanager
    def connect_without_tls(self, address: str = "127.0.0.1", receive_buffer: int = 0) -> Iterator[socket.socket]:
        """The same before any TLS handshake."""
        with socket.socket() as connection:
            connection.settimeout(20)
            if receive_buffer:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            connection.bind((address, 0))
            connection.connect(("127.0.0.1", self.port))
            yield connection

    def stop(self) -> None:
        """Makes the server stop. Returns when it has begun to: it accepts no further connections then."""
        self._server.should_exit = True

        def refuses() -> bool:
            with socket.socket() as connection:
                return connection.connect_ex(("127.0.0.1", self.port)) != 0

        until(refuses)

    def get(self, target: str, address: str = "127.0.0.1", head: str = "") -> bytes:
        """The whole response to a request with more lines in its `head`, on a connection of its own."""
        with self.connect(address) as connection:
            connection.sendall(get(target, f"connection: close\r\n{head}"))
            return read_all(connection)


def get(target: str, head: str = "") -> bytes:
    """A GET request."""
    return f"GET {target} HTTP/1.1\r\nhost: localhost\r\n{head}\r\n".encode()


def read_all(connection: socket.socket) -> bytes:
    """All bytes up to the end of the connection."""
    return b"".join(iter(lambda: connection.recv(_READ_SIZE), b""))


def body_of(answer: bytes) -> bytes:
    """The body of a response with status 200, which must have the length that its head states."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert f"content-length: {len(body)}".encode() in head
    return body


@contextmanager
def bounded(
    clients: Clients | None = None,
    settings: Settings | None = None,
    *,
    proxies: list[str] | None = None,
    certificate: tuple[Path, Path] | None = None,
) -> Iterator[Bounded]:
    """Serves while the block runs. `proxies` are the trusted ones. With a certificate and its key, serves TLS."""
    settings, application, started = settings or Settings(), Application(), threading.Event()
    listening = socket.socket(proto=socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    listening.listen(100)
    config = uvicorn.Config(
        ClientLimits(application),
        interface="asgi3",
        ws=BoundedWebSocketProtocol,
        ws_per_message_deflate=False,
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=5,
        proxy_headers=bool(proxies),
        forwarded_allow_ips=proxies,
        ssl_certfile=certificate[0] if certificate else None,
        ssl_keyfile=certificate[1] if certificate else None,
    )
    server = _Server(config, settings, clients or Clients(settings.max_connections), started)

    def run() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
            loop.run(server.serve(sockets=[listening]))

    thread = threading.Thread(target=run, name="bounded server")
    with listening:
        thread.start()
        assert started.wait(30), "The server did not start"
        try:
            yield Bounded(listening.getsockname()[1], application, certificate[0] if certificate else None, server)
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()
