"""Serves a hostile provider over HTTP or HTTPS, and counts what clients send to a host to which it redirects."""

import socket
import ssl
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache

from tests.drivers.hostile.listening import Listening
from tests.drivers.hostile.services import Answer, Odd, Request, Service

Attack = Callable[["Connection", Request], None]

_BLANKS = b" " * 2**16
_PACE = 0.05  # seconds between two bytes that trickle
_LONGEST = 30.0  # seconds until the server gives up
_MUCH = 2**30  # bytes that an endless response has in the end
_BOMB = 4_096  # blocks of 64 KiB


class Connection:
    """A connection of a client. `elsewhere`: the URL of the host to which the provider redirects."""

    def __init__(self, server: "HostileServer", sock: socket.socket) -> None:
        self.elsewhere = server.elsewhere
        self.media_type = server.service.media_type
        self.send = sock.sendall
        self.socket = sock

    def head(self, status: str = "200 OK", *headers: str) -> None:
        self.send("\r\n".join((f"HTTP/1.1 {status}", f"Content-Type: {self.media_type}", *headers, "", "")).encode())

    def whole(self, body: bytes, *headers: str) -> None:
        self.head("200 OK", f"Content-Length: {len(body)}", *headers)
        self.send(body)


def _endless(connection: Connection, chunk: bytes) -> None:
    for _ in range(_MUCH // len(chunk)):
        connection.send(chunk)


def _endless_chunks(connection: Connection, _: Request) -> None:
    connection.head("200 OK", "Transfer-Encoding: chunked")
    _endless(connection, b"%x\r\n%b\r\n" % (len(_BLANKS), _BLANKS))


def _endless_body(connection: Connection, _: Request) -> None:
    connection.head("200 OK", "Connection: close")
    _endless(connection, _BLANKS)


def _huge_length(connection: Connection, _: Request) -> None:
    connection.head("200 OK", f"Content-Length: {10**15}")
    _endless(connection, _BLANKS)


def _huge_chunk(connection: Connection, _: Request) -> None:
    connection.head("200 OK", "Transfer-Encoding: chunked")
    connection.send(b"fffffffffffffff\r\n")
    _endless(connection, _BLANKS)


def _endless_heads(connection: Connection, _: Request) -> None:
    _endless(connection, b"HTTP/1.1 100 Continue\r\n\r\n" * 1_000)


def _trickle(connection: Connection) -> None:
    end = time.monotonic() + _LONGEST
    while time.monotonic() < end:
        connection.send(b" ")
        time.sleep(_PACE)


def _trickling_body(connection: Connection, _: Request) -> None:
    connection.head("200 OK", "Content-Length: 100000")
    _trickle(connection)


def _trickling_head(connection: Connection, _: Request) -> None:
    connection.send(b"HTTP/1.1 200 OK\r\nX-Slow:")
    _trickle(connection)


def _silence(connection: Connection, _: Request) -> None:
    connection.socket.settimeout(_LONGEST)
    with suppress(TimeoutError):
        connection.socket.recv(1)


def _close_midway(connection: Connection, _: Request) -> None:
    connection.head("200 OK", "Content-Length: 1000")
    connection.send(b"{")


def _no_http(connection: Connection, _: Request) -> None:
    connection.send(b"SSH-2.0-OpenSSH_9.2\r\n" * 10)


def _redirect(status: str) -> Attack:
    def attack(connection: Connection, request: Request) -> None:
        connection.head(status, f"Location: {connection.elsewhere}{request.path}", "Content-Length: 0")

    return attack


@cache
def _bomb() -> bytes:
    """256 MB of blanks as gzip: one compressed block, repeated, which takes less time than compressing each."""
    compressor = zlib.compressobj(wbits=-15)
    block, crc = compressor.compress(_BLANKS) + compressor.flush(zlib.Z_FULL_FLUSH), 0
    for _ in range(_BOMB):
        crc = zlib.crc32(_BLANKS, crc)
    head, last = b"\x1f\x8b\x08" + bytes(6) + b"\xff", b"\x03\x00"
    return head + block * _BOMB + last + struct.pack("<II", crc, _BOMB * len(_BLANKS))


def _compressed(connection: Connection, _: Request) -> None:
    connection.whole(_bomb(), "Content-Encoding: gzip")


def _body(json: bytes, xml: bytes) -> Attack:
    return lambda connection, _: connection.whole(json if connection.media_type.endswith("json") else xml)


_DEPTH = 1_000_000
_ENTITIES = b"".join(
    b'<!ENTITY e%d "%b">' % (level, b"&e%d;" % (level - 1) * 10 if level else b"x" * 1_000) for level in range(10)
)

FAST_ATTACKS: dict[str, Attack] = {
    "redirects (307) to another host": _redirect("307 Temporary Redirect"),
    "redirects (302) to another host": _redirect("302 Found"),
    "body without end, in chunks": _endless_chunks,
    "body without end or length": _endless_body,
    "body of 10^15 bytes": _huge_length,
    "chunk of 10^18 bytes": _huge_chunk,
    "100 Continue without end": _endless_heads,
    "256 MB, compressed to 340 kB": _compressed,
    "depth of 1,000,000": _body(b"[" * _DEPTH, b"<a>" * _DEPTH),
    "depth of 900": _body(b"[" * 900 + b"]" * 900, b"<a>" * 900 + b"</a>" * 900),
    "5,000,000 values": _body(b"[%b{}]" % (b"{}," * 5_000_000), b"<a>%b</a>" % (b"<a/>" * 3_000_000)),
    "as many values as the limit": _body(b"[%b{}]" % (b"{}," * 450_000), b"<a>%b</a>" % (b"<a/>" * 249_000)),
    "entities that expand": _body(b"{}", b"<!DOCTYPE a [%b]><a>&e9;</a>" % _ENTITIES),
    "a number of 1,000,000 digits": _body(b'{"data": %b}' % (b"7" * 1_000_000), b"<a>%b</a>" % (b"7" * 1_000_000)),
    "connection closed midway": _close_midway,
    "another protocol": _no_http,
}
SLOW_ATTACKS: dict[str, Attack] = {
    "body that trickles": _trickling_body,
    "head that trickles": _trickling_head,
    "no response": _silence,
}
ATTACKS = FAST_ATTACKS | SLOW_ATTACKS


class Elsewhere:
    """A host that no client is configured for. `received` is what clients have sent to it."""

    def __init__(self) -> None:
        self.received = b""
        self._listening = Listening(self._serve, "127.0.0.2")
        self.url = f"http://127.0.0.2:{self._listening.port}"
        self.close = self._listening.close

    def _serve(self, sock: socket.socket) -> None:
        sock.settimeout(1)
        self.received += sock.recv(2**16) or b"(connected)"


class HostileServer:
    """Serves `service`. `attack` answers the requests that log in, or those for data; None answers as usual."""

    def __init__(self, service: Service, elsewhere: str, tls: ssl.SSLContext | None) -> None:
        self.service = service
        self.elsewhere = elsewhere
        self.attack: Attack | None = None
        self.at_login = False
        self.closes = True  # whether an attack ends the connection
        self._tls = tls
        self._listening = Listening(self._serve)
        port = self._listening.port
        self.url = f"https://localhost:{port}" if tls else f"http://127.0.0.1:{port}"
        self.close = self._listening.close

    def serve_odd(self, answer: Odd, *, at_login: bool) -> None:
        """Answers requests that log in, or those for data, with `answer`, and as usual where it returns None."""

        def attack(connection: Connection, request: Request) -> None:
            _respond(connection, answer(request) or self.service.answer(request))

        self.attack, self.at_login, self.closes = attack, at_login, False

    def start(self, attack: Attack | None, *, at_login: bool = False) -> None:
        """Answers requests that log in, or those for data, with an attack. None: answers as usual."""
        self.attack, self.at_login, self.closes = attack, at_login, True

    def _serve(self, accepted: socket.socket) -> None:
        accepted.settimeout(_LONGEST)
        with self._tls.wrap_socket(accepted, server_side=True) if self._tls else accepted as sock:
            while (request := self._receive(sock)) is not None:
                connection = Connection(self, sock)
                if self.attack is None or self.service.is_login(request) != self.at_login:
                    _respond(connection, self.service.answer(request))
                else:
                    self.attack(connection, request)
                    if self.closes:
                        return

    def _receive(self, sock: socket.socket) -> Request | None:
        received = b""
        while b"\r\n\r\n" not in received:
            if not (more := sock.recv(2**16)):
                return None
            received += more
        head, _, body = received.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = {
            name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])
        }
        while len(body) < int(headers.get("content-length", 0)):
            if not (more := sock.recv(2**16)):
                return None
            body += more
        method, path, _ = lines[0].split(" ", 2)
        return Request(method, path, body.decode(), self.url, self.elsewhere)


def _respond(connection: Connection, answer: Answer) -> None:
    body = answer.body.encode()
    headers = [f"{name}: {value}" for name, value in answer.headers]
    connection.head(f"{answer.status} Answer", f"Content-Length: {len(body)}", *headers)
    connection.send(body)


@contextmanager
def hostile_server(service: Service, tls: ssl.SSLContext | None) -> Iterator[tuple[HostileServer, Elsewhere]]:
    """A server of `service` on a free port of loopback, and the host to which it redirects."""
    elsewhere = Elsewhere()
    server = HostileServer(service, elsewhere.url, tls)
    try:
        yield server, elsewhere
    finally:
        server.close()
        elsewhere.close()
