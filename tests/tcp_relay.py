"""A TCP relay in front of a database that can cut its connections, in a process of its own."""

import contextlib
import selectors
import socket
import struct
from multiprocessing.connection import Connection

from tests.forked_gateway import CONTEXT

_CHUNK = 1 << 18
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # the value of SO_LINGER with which close sends RST instead of FIN


class TcpRelay:
    """Listens on `port` of the loopback interface and relays all connections to the port `to`."""

    def __init__(self, to: int) -> None:
        self._control, process_end = CONTEXT.Pipe()
        self._process = CONTEXT.Process(target=_relay, args=(to, process_end), daemon=True)
        self._process.start()
        process_end.close()
        self.port: int = self._control.recv()

    def url(self, database: str) -> str:
        """The URL of a database of the PostgreSQL server behind the relay."""
        return f"postgresql://gateway@127.0.0.1:{self.port}/{database}"

    def cut(self) -> None:
        """Resets all connections. Returns when that is done; new connections are relayed."""
        self._send("cut")

    def swallow(self) -> None:
        """Loses the next response of each open connection: the connection is reset when the response arrives."""
        self._send("swallow")

    def close(self) -> None:
        """Ends the relay and all its connections."""
        self._process.kill()
        self._process.join()

    def _send(self, command: str) -> None:
        self._control.send(command)
        self._control.recv()


class _Pair:
    """A connection from a client, and the one to the server."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client = client
        self.server = server
        self.swallows = False

    def other(self, one: socket.socket) -> socket.socket:
        return self.server if one is self.client else self.client

    def close(self) -> None:
        for end in (self.client, self.server):
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            end.close()


class _RelayProcess:
    """Relays in the relay's own process, and executes the commands from the control pipe."""

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
                        self._execute(self._control.recv())
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

    def _execute(self, command: str) -> None:
        for pair in set(self._pairs.values()):
            if command == "cut":
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
    _RelayProcess(to, control).run()
