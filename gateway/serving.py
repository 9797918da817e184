"""Runs the ASGI application on uvicorn: the socket, the signals, and the words that greet a person."""

import asyncio
import contextlib
import ipaddress
import signal
import socket
from collections.abc import Callable, Iterator, Sequence

import uvicorn
import uvloop

from gateway.app import Gateway, running
from gateway.config import Settings
from gateway.connections import BoundedServer
from gateway.errors import StartupError
from gateway.pages import PLACES
from gateway.tls import renew, server_context

_GREETING_QUERY = "{ machines(first: 3) { nodes { id name snapshots(first: 3) { totalCount nodes { name state } } } } }"


def serve(settings: Settings, *, demo: bool, say: Callable[[str], None]) -> None:
    """Serves until a signal says stop. The database must be migrated. Raises StartupError."""
    check_loopback(settings.host)
    with _bound(settings.host, settings.port) as listening, asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        loop.run(_serve(settings, listening, demo, say))


async def _serve(settings: Settings, listening: socket.socket, demo: bool, say: Callable[[str], None]) -> None:
    tls = server_context(settings)
    proxies = trusted(settings.trusted_proxies)
    async with running(settings, demo=demo) as gateway:
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
        await _Server(config, settings, gateway, say).serve(sockets=[listening])
    say("stopped")


class _Server(BoundedServer):
    """Greets when it listens, and ends streams before their connections. Signals are not raised again at the end."""

    def __init__(
        self, config: uvicorn.Config, settings: Settings, gateway: Gateway, say: Callable[[str], None]
    ) -> None:
        super().__init__(config, settings)
        self._gateway = gateway
        self._say = say

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        if self.config.ssl is not None:
            loop.add_signal_handler(signal.SIGHUP, renew, self.config.ssl, self._settings)
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if sockets and not self.should_exit:
            self._say(greeting(sockets[0], "https" if self.config.ssl else "http"))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._gateway.streams.close()
        await super().shutdown(sockets)


def greeting(listening: socket.socket, scheme: str) -> str:
    """Where to go, and something to try."""
    host, port = listening.getsockname()[:2]
    base = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
    places = "".join(f"  {base}{path:<17}{what}\n" for path, what in PLACES.items())
    return (
        f"The snapshot gateway listens on {base}\n\n{places}\nTry:\n\n"
        f"  curl -s {base}/graphql -H 'content-type: application/json' -d '{{\"query\": \"{_GREETING_QUERY}\"}}'\n\n"
        "Anybody on this machine may do anything with it: no identities are configured. Ctrl-C stops it."
    )


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


def check_loopback(host: str) -> None:
    """Raises StartupError for an address that others can reach: nobody is asked who they are yet."""
    if host == "localhost":
        return
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        raise StartupError(f"GATEWAY_HOST must be an address such as 127.0.0.1, not {host!r}") from None
    if not loopback:
        raise StartupError(
            f"{host} can be reached from other machines, and no identities are configured to say who may do what:"
            " listen on 127.0.0.1 or ::1"
        )


def _bound(host: str, port: int) -> socket.socket:
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
            " stop what uses it, or choose another with --port"
        ) from None
    return listening
