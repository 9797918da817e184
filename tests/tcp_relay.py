"""A TCP relay in front of a database that can cut, hang or refuse connections, in a process of its own.

The process keeps the relaying out of the interpreter lock of a test that sends load. It runs this file as a program
with nothing but the standard library, and executes one command per line of its standard input: a JSON list of the
command and its arguments. It answers each with a line: the number of connections that `cut_at` has cut.
"""

import contextlib
import json
import selectors
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

_CHUNK = 1 << 18
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # the value of SO_LINGER with which close sends RST instead of FIN


class TcpRelay:
    """Listens on `port` of the loopback interface and relays all connections to the port `to`.

    Each method returns when the fault is in effect. They may be called from any thread, one at a time.
    """

    def __init__(self, to: int) -> None:
        program = [sys.executable, "-I", "-S", __file__, str(to)]
        self._process = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.port = self._answer()

    def url(self, database: str) -> str:
        """The URL of a database of the PostgreSQL server behind the relay."""
        return f"postgresql://gateway@127.0.0.1:{self.port}/{database}"

    def cut(self) -> None:
        """Resets all connections. New connections are relayed."""
        self._send("cut")

    def swallow(self) -> None:
        """Loses the next response of each open connection: the connection is reset when the response arrives."""
        self._send("swallow")

    def refuse(self) -> None:
        """Closes the listening socket and resets all connections, until `heal`."""
        self._send("refuse")

    def hang(self) -> None:
        """Keeps and accepts connections, but passes no bytes until `heal`, like a host that is unreachable."""
        self._send("hang")

    def cut_at(self, sent: bytes, *, after: bytes, passed_on: bool, then_refuse: bool = False) -> None:
        """Cuts one connection when the client sends `sent` on it after `after`, so that no other transaction is hit.

        `passed_on`: when the response of the server arrives, otherwise before the server receives `sent`.
        `then_refuse`: the server is absent from the cut on, as after `refuse`.
        """
        self._send("cut_at", sent.decode("latin-1"), after.decode("latin-1"), passed_on, then_refuse)

    @property
    def cuts(self) -> int:
        """The number of connections that `cut_at` has cut."""
        return self._send("count")

    def heal(self) -> None:
        """Ends `refuse` and `hang`."""
        self._send("heal")

    def close(self) -> None:
        """Ends the relay and all its connections."""
        self._process.kill()
        self._process.communicate()

    def _send(self, command: str, *arguments: str | bool) -> int:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([command, *arguments]).encode() + b"\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())


@contextlib.contextmanager
def running_relay(to: int) -> Iterator[TcpRelay]:
    """A relay to the port `to` while the block runs."""
    relay = TcpRelay(to)
    try:
        yield relay
    finally:
        relay.close()


class _CutPoint(NamedTuple):
    sent: bytes
    after: bytes
    passed_on: bool
    then_refuse: bool


class _Pair:
    """A connection from a client, and the one to the server."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client = client
        self.server = server
        self.swallows = False
        self.armed = False  # `after` of the cut point has been sent
        self.then_refuse = False

    def other(self, one: socket.socket) -> socket.socket:
        return self.server if one is self.client else self.client

    def close(self) -> None:
        for end in (self.client, self.server):
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            end.close()


class _RelayProcess:
    """Relays until standard input ends. Its public methods are the commands, and do what those of `TcpRelay` do."""

    def __init__(self, to: int) -> None:
        self._to = to
        self._pairs: dict[socket.socket, _Pair] = {}
        self._selector = selectors.DefaultSelector()
        self._cut_at: _CutPoint | None = None
        self._cuts = 0
        self._hangs = False
        self._ended = False
        self._listening: socket.socket | None = None
        # Keeps the port during `refuse`. Both sockets have SO_REUSEADDR, so that the other one can listen on it.
        self._reserved = socket.socket()
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reserved.bind(("127.0.0.1", 0))
        self._port = self._reserved.getsockname()[1]

    def run(self) -> None:
        self._listen()
        self._selector.register(sys.stdin.buffer, selectors.EVENT_READ)
        print(self._port, flush=True)
        while not self._ended:
            if self._hangs:  # the kernel accepts connections and their first bytes
                self._execute()
                continue
            for ready in [key.fileobj for key, _ in self._selector.select()]:
                if ready is sys.stdin.buffer:
                    self._execute()
                elif ready is self._listening:
                    self._accept(self._listening.accept()[0])
                elif ready in self._pairs:  # otherwise dropped because of an event before this one
                    self._pass(ready)

    def _listen(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", self._port))
        self._selector.register(self._listening, selectors.EVENT_READ)

    def _execute(self) -> None:
        line = sys.stdin.buffer.readline()
        self._ended = not line
        if line:
            command, *arguments = json.loads(line)
            getattr(self, command)(*arguments)
            print(self._cuts, flush=True)

    # ---- commands

    def cut(self) -> None:
        for pair in set(self._pairs.values()):
            self._drop(pair)

    def swallow(self) -> None:
        for pair in self._pairs.values():
            pair.swallows = True

    def refuse(self) -> None:
        if self._listening is not None:
            self._selector.unregister(self._listening)
            self._listening.close()
            self._listening = None
        self.cut()

    def hang(self) -> None:
        self._hangs = True

    def cut_at(self, sent: str, after: str, passed_on: bool, then_refuse: bool) -> None:
        self._cut_at = _CutPoint(sent.encode("latin-1"), after.encode("latin-1"), passed_on, then_refuse)
        for pair in self._pairs.values():
            pair.armed = False

    def count(self) -> None:
        """The answer to every command is the number of cuts."""

    def heal(self) -> None:
        self._hangs = False
        if self._listening is None:
            self._listen()

    # ---- relaying

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

    def _pass(self, one: socket.socket) -> None:
        pair = self._pairs[one]
        try:
            data = one.recv(_CHUNK)
            if not data or self._is_lost(pair, data, from_client=one is pair.client):
                self._drop(pair)
                if pair.then_refuse:
                    self.refuse()
            else:
                pair.other(one).sendall(data)
        except OSError:
            self._drop(pair)

    def _is_lost(self, pair: _Pair, data: bytes, *, from_client: bool) -> bool:
        """Whether a fault loses the data, and with it the connection."""
        if not from_client:
            return pair.swallows
        cut = self._cut_at
        if cut is None:
            return False
        pair.armed = pair.armed or cut.after in data
        if not pair.armed or cut.sent not in data:
            return False
        self._cut_at = None
        self._cuts += 1
        pair.swallows, pair.then_refuse = cut.passed_on, cut.then_refuse
        return not cut.passed_on

    def _drop(self, pair: _Pair) -> None:
        for end in (pair.client, pair.server):
            del self._pairs[end]
            self._selector.unregister(end)
        pair.close()


if __name__ == "__main__":
    _RelayProcess(int(sys.argv[1])).run()
