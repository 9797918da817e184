"""Runs the ASGI application on uvicorn: the listening socket, signals, the startup banner and the metrics endpoint."""

import asyncio
import contextlib
import gc
import ipaddress
import logging
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import uvicorn
import uvloop

from gateway.app import Gateway, running_gateway
from gateway.config import Settings
from gateway.errors import StartupError
from gateway.http.pages import ENDPOINTS
from gateway.server.clients import Clients
from gateway.server.connections import BoundedServer, BoundedWebSocketProtocol, ClientLimits
from gateway.server.tls import reload_certificate, server_context
from gateway.store.database_url import scheme
from gateway.telemetry.exposition import Collect, metrics_app
from gateway.telemetry.gauges import database_gauges
from gateway.telemetry.metrics import Sample
from gateway.version import VERSION

_BACKLOG = 4_096  # connections that the kernel queues until they are accepted; a further client tries again after 1 s

_METRICS_CONNECTIONS = 64  # of which a client may have a quarter

_EXAMPLE_QUERY = "{ machines(first: 3) { nodes { id name snapshots(first: 3) { totalCount nodes { name state } } } } }"

log = logging.getLogger(__name__)

# Called once the server listens, with the gateway and a function that stops the server.
OnStarted = Callable[[Gateway, Callable[[], None]], Awaitable[None]]


def serve(settings: Settings, *, demo: bool, echo: Callable[[str], None]) -> None:
    """Serves until SIGINT or SIGTERM. The database must be migrated. Raises StartupError.

    `echo` receives the banner once the server listens, and "stopped" at the end, unless the log format is `json`.
    """

    async def run() -> None:
        with listen(settings.host, settings.port) as listening, listen_for_metrics(settings) as metrics_socket:
            async with AsyncExitStack() as stack:

                async def on_started(gateway: Gateway, _stop: Callable[[], None]) -> None:
                    if metrics_socket is not None:
                        collect = partial(_samples, gateway)
                        await stack.enter_async_context(serving_metrics(settings, metrics_socket, collect))
                    requires_authentication = gateway.authenticator.requires_authentication
                    announce_start(settings, listening, metrics_socket, echo, authentication=requires_authentication)

                await serve_on(settings, listening, demo=demo, on_started=on_started)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        loop.run(run())
    announce_stop(settings, echo)


async def _samples(gateway: Gateway) -> list[Sample]:
    return [*gateway.metrics.samples(), *await database_gauges(gateway.database)]


async def serve_on(
    settings: Settings,
    listening: socket.socket,
    *,
    demo: bool = False,
    on_started: OnStarted,
) -> None:
    """Serves on a listening socket until SIGINT, SIGTERM or a call of `stop`. Raises StartupError."""
    tls = server_context(settings)
    proxies = trusted_proxies(settings.trusted_proxies)
    async with running_gateway(settings, demo=demo) as gateway:
        # The modules and the schema are 170,000 objects that live as long as the process. A full collection,
        # which a large response causes, would traverse them, and hold the event loop for about 0.1 s.
        gc.collect()
        gc.freeze()
        config = uvicorn.Config(
            ClientLimits(gateway.app),
            interface="asgi3",
            ws=BoundedWebSocketProtocol,
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            ws_max_size=settings.max_body_bytes,
            # With compression, repetitive messages are so short that a client that reads too slowly is not detected.
            ws_per_message_deflate=False,
            timeout_graceful_shutdown=5,
            proxy_headers=bool(proxies),
            forwarded_allow_ips=proxies,
            ssl_context_factory=None if tls is None else lambda _config, _default: tls,
        )
        await _Server(config, settings, gateway, on_started).serve(sockets=[listening])


class _Server(BoundedServer):
    """Calls `on_started` once it listens, and ends streams before it closes connections.

    On the first signal `/readyz` returns 503, and the server stops GATEWAY_STOP_DELAY seconds later, so that load
    balancers remove it first. A second signal stops it immediately. Unlike uvicorn's server, it does not raise the
    signal again at the end.
    """

    def __init__(self, config: uvicorn.Config, settings: Settings, gateway: Gateway, on_started: OnStarted) -> None:
        super().__init__(config, settings)
        self._gateway = gateway
        self._stop_delay = settings.stop_delay
        self._on_started = on_started

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop, number)
        if self.config.ssl is not None:
            loop.add_signal_handler(signal.SIGHUP, reload_certificate, self.config.ssl, self._settings)
        yield

    def _stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        already_stopping = self._gateway.health.stopping
        self._gateway.health.stopping = True
        if already_stopping or not self._stop_delay:
            self.handle_exit(number, None)
        else:
            asyncio.get_running_loop().call_later(self._stop_delay, self.handle_exit, signal.SIGTERM, None)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.should_exit:
            await self._on_started(self._gateway, self._stop)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._gateway.streams.close()
        await super().shutdown(sockets)


class _MetricsServer(BoundedServer):
    """A server without signal handlers, because the main server has them."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def serving_metrics(settings: Settings, listening: socket.socket, collect: Collect) -> AsyncIterator[None]:
    """Serves the samples of `collect` to Prometheus. On loopback, requests of pages of other origins are rejected."""
    app = metrics_app(collect, settings if ipaddress.ip_address(listening.getsockname()[0]).is_loopback else None)
    config = uvicorn.Config(
        ClientLimits(app),
        interface="asgi3",
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
    )
    server = _MetricsServer(config, settings, Clients(_METRICS_CONNECTIONS))
    task = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        yield
    finally:
        server.should_exit = True
        await task


def announce_start(
    settings: Settings,
    listening: socket.socket,
    metrics_socket: socket.socket | None,
    echo: Callable[[str], None],
    *,
    authentication: bool,
) -> None:
    """Prints the banner, or with the log format `json` writes a line. `authentication`: whether it is required."""
    tls = bool(settings.tls_certificate)
    if settings.log_format != "json":
        echo(banner(listening, metrics_socket, requires_authentication=authentication, tls=tls))
        return
    fields = {
        "version": VERSION,
        "address": _url(listening, "https" if tls else "http"),
        "metricsAddress": None if metrics_socket is None else _url(metrics_socket),
        "database": scheme(settings.database_url),
        "processes": settings.workers,
        "authentication": authentication,
    }
    log.info("Gateway started", extra={"fields": fields})


def announce_stop(settings: Settings, echo: Callable[[str], None]) -> None:
    """Prints "stopped", or with the log format `json` writes a line."""
    if settings.log_format == "json":
        log.info("Gateway stopped")
    else:
        echo("stopped")


def banner(
    listening: socket.socket, metrics_socket: socket.socket | None, *, requires_authentication: bool, tls: bool
) -> str:
    """The startup banner: the URLs of all endpoints, an example request, and whether authentication is required."""
    base = _url(listening, "https" if tls else "http")
    endpoints = "".join(f"  {base}{path:<17}{text}\n" for path, text in ENDPOINTS.items())
    metrics = ""
    if metrics_socket is not None:
        metrics = f"  {_url(metrics_socket) + '/metrics':<{len(base) + 17}}Prometheus metrics\n"
    token = " -H 'authorization: Bearer TOKEN'" if requires_authentication else ""
    access = (
        "Every request needs a token: create one with `gateway token create`."
        if requires_authentication
        else "Authentication is off, because no users are configured: every client on this machine has full access."
    )
    return (
        f"The snapshot gateway listens on {base}\n\n{endpoints}{metrics}\nTry:\n\n"
        f"  curl -s {base}/graphql{token} -H 'content-type: application/json'"
        f' -d \'{{"query": "{_EXAMPLE_QUERY}"}}\'\n\n'
        f"{access} Press Ctrl-C to stop."
    )


def _url(listening: socket.socket, scheme: str = "http") -> str:
    host, port = listening.getsockname()[:2]
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def trusted_proxies(proxies: Sequence[str]) -> list[str]:
    """The proxies whose `X-Forwarded-*` headers are used. Raises StartupError for a malformed address, `*` included."""
    for proxy in proxies:
        try:
            ipaddress.ip_network(proxy)
        except ValueError:
            raise StartupError(
                f"GATEWAY_TRUSTED_PROXIES must list addresses and networks such as 10.0.0.0/8, not {proxy!r}."
            ) from None
    return [*proxies]


def listen_for_metrics(settings: Settings) -> contextlib.AbstractContextManager[socket.socket | None]:
    """A socket that listens on GATEWAY_METRICS_ADDRESS; None if that is not set. Raises StartupError."""
    if not settings.metrics_address:
        return contextlib.nullcontext()
    host, _, port = settings.metrics_address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        ipaddress.ip_address(host)
        number = int(port)
    except ValueError:
        number = -1
    if not 0 <= number <= 65_535:
        raise StartupError(
            f"GATEWAY_METRICS_ADDRESS must be ADDRESS:PORT, such as 127.0.0.1:9464, not {settings.metrics_address!r}."
        )
    return listen(host, number, "GATEWAY_METRICS_ADDRESS")


def listen(host: str, port: int, setting: str = "--port") -> socket.socket:
    """A socket that listens on the address. `setting` is named in the error. Raises StartupError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is given explicitly, because asyncio sets TCP_NODELAY only on sockets with IPPROTO_TCP.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise StartupError(
            f"Cannot listen on {host} port {port} ({(error.strerror or 'permission denied').lower()})."
            f" Stop the process that uses the port, or choose another one with {setting}."
        ) from None
    return listening
