"""Accepts connections on a free port of loopback, each of which is served in a thread of its own."""

import socket
import threading
from collections.abc import Callable
from contextlib import suppress

_MAX_CONNECTIONS = 10_000


class Listening:
    """Serves each connection with `handle`, until it is closed. Errors of the connection end it."""

    def __init__(self, handle: Callable[[socket.socket], object], host: str = "127.0.0.1") -> None:
        self._handle = handle
        self._socket = socket.create_server((host, 0))
        self.port: int = self._socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._socket.close()

    def _accept(self) -> None:
        with suppress(OSError):
            for _ in range(_MAX_CONNECTIONS):
                threading.Thread(target=self._serve, args=(self._socket.accept()[0],), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with suppress(OSError, ValueError), sock:
            self._handle(sock)
