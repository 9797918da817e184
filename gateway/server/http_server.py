"""Runs the ASGI application on uvicorn: the socket, the signals, and the words that greet a person."""

import asyncio
import contextlib
import ipaddress
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import uvicorn
import uvloop

from gateway.app import Gateway, running
from gateway.config import Settings
from gateway.errors import StartupError
from gateway.http.pages import PLACES
from gateway.server.connections import BoundedServer
from gateway.server.tls import renew, server_context
from gateway.telemetry.exposition import Collect, metrics_app
from gateway.telemetry.gauges import stored
from gateway.telemetry.metrics import Sample

_GREETING_QUERY = "{ machines(first: 3) { nodes { id name snapshots(first: 3) { totalCount nodes { name state } } } } }"


Began = Callable[[Gateway, Callable[[], None]], Awaitable[None]]  # is told when it listens, and how to make it stop


def serve(settings: Settings, *, demo: bool, say: Callable[[str], None]) -> None:
    """Serves until a signal says stop. The database must be migrated. Raises StartupError."""

    async def run() -> None:
        with bound(settings.host, settings.port) as listening, bound_for_metrics(settings) as measuring:
            async with AsyncExitStack() as stack:

                async def began(gateway: Gateway, _stop: Callable[[], None]) -> None:
                    if measuring is not None:
                        collect = partial(_samples, gateway)
                        await stack.enter_async_context(serving_metrics(settings, measuring, collect))
                    say(
                        greeting(
                            listening, measuring, asks=gateway.authenticator.asks, tls=bool(settings.tls_certificate)
                        )
                    )

                await serve_on(settings, listening, demo=demo, began=began)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        loop.run(run())
    say("stopped")


async def _samples(gateway: Gateway) -> list[Sample]:
    return [*gateway.measures.samples(), *await stored(gateway.database)]


async def serve_on(
    settings: Settings, listening: socket.socket, *, demo: bool = False, refreshes: bool = True, began: Began
) -> None:
    """Serves on that socket until SIGINT, SIGTERM or `stop` says stop. Raises StartupError."""
    tls = server_context(settings)
    proxies = trusted(settings.trusted_proxies)
    async with running(settings, demo=demo, refreshes=refreshes) as gateway:
        config = uvicorn.Config(
            gateway.app,
            ws="websockets-sansio",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            ws_max_size=settings.max_body_bytes,
            ws_per_message_deflate=False,  # repetitive data compresses so well that a flood is never seen as one
            timeout_graceful_shutdown=5,
            proxy_headers=bool(proxies),
            forwarded_allow_ips=proxies,
            ssl_context_factory=None if tls is None else lambda _config, _default: tls,
        )
        await _Server(config, settings, gateway, began).serve(sockets=[listening])


class _Server(BoundedServer):
    """Tells when it listens, and ends streams before their connections. Signals are not raised again at the end.

    Told to stop, it is not ready any more, but serves for `stop_delay` more: who sends requests has to see that.
    """

    def __init__(self, config: uvicorn.Config, settings: Settings, gateway: Gateway, began: Began) -> None:
        super().__init__(config, settings)
        self._gateway = gateway
        self._delay = settings.stop_delay
        self._began = began

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop, number)
        if self.config.ssl is not None:
            loop.add_signal_handler(signal.SIGHUP, renew, self.config.ssl, self._settings)
        yield

    def _stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        again = self._gateway.health.stopping
        self._gateway.health.stopping = True
        if again or not self._delay:
            self.handle_exit(number, None)
        else:
            asyncio.get_running_loop().call_later(self._delay, self.handle_exit, signal.SIGTERM, None)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.should_exit:
            await self._began(self._gateway, self._stop)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._gateway.streams.close()
        await super().shutdown(sockets)


class _Quiet(uvicorn.Server):
    """Leaves the signals to others."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def serving_metrics(settings: Settings, listening: socket.socket, collect: Collect) -> AsyncIterator[None]:
    """Serves what `collect` finds to Prometheus; on loopback not to pages of other origins."""
    app = metrics_app(collect, settings if ipaddress.ip_address(listening.getsockname()[0]).is_loopback else None)
    config = uvicorn.Config(app, http="httptools", ws="none", lifespan="off", access_log=False, log_config=None)
    server = _Quiet(config)
    task = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        yield
    finally:
        server.should_exit = True
        await task


def greeting(listening: socket.socket, measuring: socket.socket | None, *, asks: bool, tls: bool) -> str:
    """Where to go, something to try, and whether everybody is asked who they are."""
    base = _url(listening, "https" if tls else "http")
    places = "".join(f"  {base}{path:<17}{what}\n" for path, what in PLACES.items())
    metrics = "" if measuring is None else f"  {_url(measuring) + '/metrics':<{len(base) + 17}}what Prometheus reads\n"
    token = " -H 'authorization: Bearer TOKEN'" if asks else ""
    who = (
        "Everybody is asked for a token: `gateway token create` makes one."
        if asks
        else "Anybody on this machine may do anything with it: no identities are configured."
    )
    return (
        f"The snapshot gateway listens on {base}\n\n{places}{metrics}\nTry:\n\n"
        f"  curl -s {base}/graphql{token} -H 'content-type: application/json'"
        f' -d \'{{"query": "{_GREETING_QUERY}"}}\'\n\n'
        f"{who} Ctrl-C stops it."
    )


def _url(listening: socket.socket, scheme: str = "http") -> str:
    host, port = listening.getsockname()[:2]
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def trusted(proxies: Sequence[str]) -> list[str]:
    """The proxies whose word counts. Raises StartupError for what is no address or network, as `*` is none."""
    for proxy in proxies:
        try:
            ipaddress.ip_network(proxy)
        except ValueError:
            raise StartupError(
                f"GATEWAY_TRUSTED_PROXIES must list addresses and networks such as 10.0.0.0/8, not {proxy!r}"
            ) from None
    return [*proxies]


def bound_for_metrics(settings: Settings) -> contextlib.AbstractContextManager[socket.socket | None]:
    """The socket at which metrics are wanted, if they are. Raises StartupError."""
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
            f"GATEWAY_METRICS_ADDRESS must be ADDRESS:PORT, such as 127.0.0.1:9464, not {settings.metrics_address!r}"
        )
    return bound(host, number, "GATEWAY_METRICS_ADDRESS")


def bound(host: str, port: int, setting: str = "--port") -> socket.socket:
    """A socket that listens there; `setting` is what could choose another. Raises StartupError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named in full, for asyncio turns Nagle off only on sockets that say they are TCP.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(2_048)
    except OSError as error:
        listening.close()
        raise StartupError(
            f"cannot listen on {host} port {port} ({(error.strerror or 'refused').lower()}):"
            f" stop what uses it, or choose another with {setting}"
        ) from None
    return listening
