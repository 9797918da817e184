"""Servers that a client of libvirt connects to, and that do not speak its protocol as they should."""

import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.drivers.hostile.listening import Listening

Serve = Callable[[socket.socket], None]

_PROGRAM, _VERSION = 0x20008086, 1
_LONGEST = 30.0  # seconds until the server gives up
_PACE = 0.05  # seconds between two bytes that trickle


def _silence(sock: socket.socket) -> None:
    for _ in range(1_000):
        if not sock.recv(2**16):
            return


def _http(sock: socket.socket) -> None:
    sock.sendall(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.2/\r\n\r\n")


def _huge_packet(sock: socket.socket) -> None:
    sock.sendall(struct.pack(">I", 2**31))
    for _ in range(2**15):
        sock.sendall(b" " * 2**16)


def _trickling_packet(sock: socket.socket) -> None:
    sock.sendall(struct.pack(">I", 2**20))
    end = time.monotonic() + _LONGEST
    while time.monotonic() < end:
        sock.sendall(b" ")
        time.sleep(_PACE)


def _endless_packets(sock: socket.socket) -> None:
    packet = struct.pack(">7I", 28, _PROGRAM, _VERSION, 1, 1, 999, 0)
    for _ in range(100_000):
        sock.sendall(packet * 1_000)


def _long_error(sock: socket.socket) -> None:
    """Answers each call with an error of 16 MiB."""
    while len(head := sock.recv(2**16)) >= 28:
        procedure, _, serial = struct.unpack(">3I", head[12:24])
        body = struct.pack(">4I", 1, 7, 1, 2**24) + b"x" * 2**24
        sock.sendall(struct.pack(">7I", 28 + len(body), _PROGRAM, _VERSION, procedure, 1, serial, 1) + body)


ATTACKS: dict[str, Serve] = {
    "connection closed": lambda sock: None,
    "another protocol": _http,
    "packet of 2 GB": _huge_packet,
    "packets without end": _endless_packets,
    "error of 16 MB": _long_error,
    "packet that trickles": _trickling_packet,
    "no response": _silence,
}


@contextmanager
def server(serve: Serve) -> Iterator[int]:
    """Serves each connection with `serve`, on a free port of loopback, which is the value."""

    def handle(sock: socket.socket) -> None:
        sock.settimeout(_LONGEST)
        if serve is not _silence:
            sock.recv(2**16, socket.MSG_PEEK)
        serve(sock)

    listening = Listening(handle)
    try:
        yield listening.port
    finally:
        listening.close()
