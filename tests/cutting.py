"""A TCP relay in front of a database that can cut what goes through it, in a process of its own."""

import contextlib
import selectors
import socket
import struct
from multiprocessing.connection import Connection

from tests.forked import CONTEXT

_CHUNK = 1 << 18
_AT_ONCE = struct.pack("ii", 1, 0)  # SO_LINGER: closing resets the connection instead of ending it in order


class Relay:
    """Listens on `port` of the loopback and passes everything to the port `to`. Leaving it ends it."""

    def __init__(self, to: int) -> None:
        self._control, there = CONTEXT.Pipe()
        self._process = CONTEXT.Process(target=_relay, args=(to, there), daemon=True)
        self._process.start()
        there.close()
        self.port: int = self._control.recv()

    def url(self, database: str) -> str:
        """Of a database of the PostgreSQL that is behind it."""
        return f"postgresql://gateway@127.0.0.1:{self.port}/{database}"

    def cut(self) -> None:
        """Resets every connection; new ones are welcome. Done when this returns."""
        self._tell("cut")

    def swallow(self) -> None:
        """From now on what the server answers is lost: its first bytes cut their connection instead of passing."""
        self._tell("swallow")

    def close(self) -> None:
        self._process.kill()
        self._process.join()

    def _tell(self, word: str) -> None:
        self._control.send(word)
        self._control.recv()


class _Pair:
    """A connection from a client and the one to the server."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client = client
        self.server = server
        self.swallows = False

    def other(self, one: socket.socket) -> socket.socket:
        return self.server if one is self.client else self.client

    def close(self) -> None:
        for end in (self.client, self.server):
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            end.close()


class _Relaying:
    def __init__(self, to: int, control: Connection) -> None:
        self._to = to
        self._control = control
        self._pairs: dict[socket.socket, _Pair] = {}
        self._selector = selectors.DefaultSelector()

    def run(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self._selector.register(listening, selectors.EVENT_READ)
            self._selector.register(self._control, selectors.EVENT_READ)
            self._control.send(listening.getsockname()[1])
            while True:
                for key, _ in self._selector.select():
                    if key.fileobj is listening:
                        self._accept(listening.accept()[0])
                    elif key.fileobj is self._control:
                        self._obey(self._control.recv())
                    elif key.fileobj in self._pairs:
                        self._pass(key.fileobj)

    def _accept(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self._to))
        except OSError:
            client.close()
            return
        pair = _Pair(client, server)
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._pairs[end] = pair
            self._selector.register(end, selectors.EVENT_READ)

    def _obey(self, word: str) -> None:
        for pair in set(self._pairs.values()):
            if word == "cut":
                self._drop(pair)
            else:
                pair.swallows = True
        self._control.send("done")

    def _pass(self, one: socket.socket) -> None:
        pair = self._pairs[one]
        try:
            data = one.recv(_CHUNK)
            if not data or (pair.swallows and one is pair.server):
                self._drop(pair)
            else:
                pair.other(one).sendall(data)
        except OSError:
            self._drop(pair)

    def _drop(self, pair: _Pair) -> None:
        for end in (pair.client, pair.server):
            del self._pairs[end]
            self._selector.unregister(end)
        pair.close()


def _relay(to: int, control: Connection) -> None:
    _Relaying(to, control).run()
