"""The load: raw sockets and epoll in one thread, so that it uses little of the core that it shares with PostgreSQL.

Each connection sends a request, waits for the whole answer and sends the next (a closed loop, as wrk's). A response
that is not 200, or that has errors, ends the benchmark.
"""

import gc
import re
import select
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from tests.bench.processes import Failed

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_ERRORS = re.compile(rb'"errors": ?\[\{')
_CHUNK = 1 << 18
_PATIENCE = 30.0  # seconds until a response times out


@dataclass(slots=True)
class Sample:
    """A measurement: `seconds` in total, a latency per response, CPU used by the load generator."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    own_cpu: float = 0.0
    answer: bytes = b""  # the last complete response

    def add(self, other: "Sample") -> None:
        self.seconds += other.seconds
        self.latencies += other.latencies
        self.own_cpu += other.own_cpu
        self.answer = other.answer or self.answer

    @property
    def rate(self) -> float:
        return len(self.latencies) / self.seconds if self.seconds else 0.0

    def percentile(self, percent: float) -> float:
        """Seconds."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] if ordered else 0.0


class _Connection:
    """One connection and its pending response."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sent = 0.0
        self._received = bytearray()
        self._whole = 0  # bytes of the response, head included; 0 while unknown
        self._head = 0

    def send(self, request: bytes) -> None:
        self._received.clear()
        self._whole = 0
        self.sent = time.perf_counter()
        self.socket.sendall(request)

    def receive(self) -> bytes | None:
        """The body of the response, or None while it is incomplete. Raises Failed unless it is a success."""
        piece = self.socket.recv(_CHUNK)
        if not piece:
            raise Failed("the server closed a connection")
        received = self._received
        received += piece
        if not self._whole:
            self._head = received.find(b"\r\n\r\n") + 4
            if self._head < 4:
                return None
            length = _LENGTH.search(received, 0, self._head)
            if length is None or not received.startswith(b"HTTP/1.1 200"):
                raise Failed(f"unexpected answer: {bytes(received[:600])!r}")
            self._whole = self._head + int(length[1])
        if len(received) < self._whole:
            return None
        return bytes(received[self._head : self._whole])


def http(port: int, path: str, body: bytes, token: str = "") -> bytes:
    """The bytes of a request as GraphQL clients send it."""
    authorization = f"Authorization: Bearer {token}\r\n" if token else ""
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"Accept: application/json\r\n{authorization}Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def run(
    port: int, requests: Iterable[bytes], connections: int, seconds: float, check: Callable[[bytes], bool]
) -> Sample:
    """Sends `requests` until they or the time run out; pending responses are awaited and count."""
    waiting = iter(requests)
    sample = Sample()
    open_connections = [_Connection(port) for _ in range(connections)]
    gc.disable()
    try:
        cpu, begun = time.thread_time(), time.perf_counter()
        ended = _drive(waiting, open_connections, begun + seconds, check, sample)
        sample.seconds = ended - begun
        sample.own_cpu = time.thread_time() - cpu
    finally:
        gc.enable()
        for connection in open_connections:
            connection.socket.close()
    return sample


def _drive(
    requests: Iterator[bytes],
    connections: list[_Connection],
    deadline: float,
    check: Callable[[bytes], bool],
    sample: Sample,
) -> float:
    """The time of the last response. Raises Failed."""
    poll = select.epoll()
    by_number = {connection.socket.fileno(): connection for connection in connections}
    busy = 0
    for number, connection in by_number.items():
        request = next(requests, None)
        if request is not None:
            poll.register(number, select.EPOLLIN)
            connection.send(request)
            busy += 1
    clock = time.perf_counter
    ended = clock()
    with poll:
        while busy:
            events = poll.poll(_PATIENCE)
            if not events:
                raise Failed(f"no answer within {_PATIENCE:g} seconds")
            for number, _ in events:
                connection = by_number[number]
                body = connection.receive()
                if body is None:
                    continue
                ended = clock()
                sample.latencies.append(ended - connection.sent)
                if not check(body):
                    raise Failed(f"an answer is not good: {body[:600]!r}")
                request = next(requests, None) if ended < deadline else None
                if request is None:
                    busy -= 1
                    sample.answer = body
                else:
                    connection.send(request)
    return ended


def without_errors(body: bytes) -> bool:
    return _ERRORS.search(body) is None


def ask(port: int, path: str, body: bytes, token: str = "") -> bytes:
    """Sends one request on its own connection; the body of the response."""
    sample = run(port, [http(port, path, body, token)], 1, 0.0, without_errors)
    return sample.answer
