"""Runs the ASGI application on uvicorn: the socket, the signals, and the words that greet a person."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator

import uvicorn
import uvloop

from gateway.app import Gateway, running
from gateway.config import Settings
from gateway.errors import StartupError
from gateway.pages import PLACES

_GREETING_QUERY = "{ machines(first: 3) { nodes { id name snapshots(first: 3) { totalCount nodes { name state } } } } }"


def serve(settings: Settings, *, demo: bool, say: Callable[[str], None]) -> None:
    """Serves until a signal says stop. The database must be migrated. Raises StartupError."""
    with _bound(settings.host, settings.port) as listening, asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        loop.run(_serve(settings, listening, demo, say))


async def _serve(settings: Settings, listening: socket.socket, demo: bool, say: Callable[[str], None]) -> None:
    async with running(settings, demo=demo) as gateway:
        config = uvicorn.Config(
            gateway.app,
            http="httptools",
            ws="websockets-sansio",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            ws_max_size=settings.max_body_bytes,
            ws_per_message_deflate=False,  # repetitive data compresses so well that a flood is never seen as one
            timeout_graceful_shutdown=5,
        )
        await _Server(config, gateway, say).serve(sockets=[listening])
    say("stopped")


class _Server(uvicorn.Server):
    """Greets when it listens, and ends streams before their connections. Signals are not raised again at the end."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway, say: Callable[[str], None]) -> None:
        super().__init__(config)
        self._gateway = gateway
        self._say = say

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if sockets and not self.should_exit:
            self._say(greeting(sockets[0], asks=self._gateway.authenticator.asks))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._gateway.streams.close()
        await super().shutdown(sockets)


def greeting(listening: socket.socket, *, asks: bool) -> str:
    """Where to go, something to try, and whether everybody is asked who they are."""
    host, port = listening.getsockname()[:2]
    base = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    places = "".join(f"  {base}{path:<17}{what}\n" for path, what in PLACES.items())
    token = " -H 'authorization: Bearer TOKEN'" if asks else ""
    who = (
        "Everybody is asked for a token: `gateway token create` makes one."
        if asks
        else "Anybody on this machine may do anything with it: no identities are configured."
    )
    return (
        f"The snapshot gateway listens on {base}\n\n{places}\nTry:\n\n"
        f"  curl -s {base}/graphql{token} -H 'content-type: application/json'"
        f' -d \'{{"query": "{_GREETING_QUERY}"}}\'\n\n'
        f"{who} Ctrl-C stops it."
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
