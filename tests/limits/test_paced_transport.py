"""`PacedTransport` on a transport and a clock that the test controls."""

import asyncio
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.server.clients import Clients
from gateway.server.paced_transport import MIN_PACE, PacedTransport

MIB = 1_048_576
HIGH_WATER = 65_536
WINDOW = 30.0  # seconds


class Wire(asyncio.Transport):
    """A transport whose buffer the test empties. It pauses its writer above 64 KiB."""

    def __init__(self, *, keeps_sending: bool = False) -> None:
        super().__init__()
        self.writes: list[int] = []  # their sizes
        self.sent = bytearray()
        self.buffer = bytearray()
        self.closed = False
        self.ended = False  # half-closed
        self.reads = True
        self.paced = PacedTransport(self, Clients(100), "192.0.2.1", lambda: keeps_sending)

    def write(self, data: Any) -> None:
        self.writes.append(len(data))
        self.buffer += data
        if len(self.buffer) > HIGH_WATER:
            self.paced.pause()

    def read(self, size: int) -> None:
        """The client reads."""
        self.sent += self.buffer[:size]
        del self.buffer[:size]
        if len(self.buffer) <= HIGH_WATER // 4:
            self.paced.resume()

    def get_write_buffer_size(self) -> int:
        return len(self.buffer)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return _NO_SOCKET if name == "socket" else default

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def close(self) -> None:
        self.closed = True


class _NoSocket:
    def fileno(self) -> int:
        return -1


_NO_SOCKET = _NoSocket()


@given(writes=st.lists(st.integers(1, 700_000), max_size=6), reads=st.lists(st.integers(1, 300_000), max_size=60))
def test_writes_arrive_in_order_and_are_counted_until_they_are_sent(writes: list[int], reads: list[int]) -> None:
    wire = Wire()
    expected = b""
    for number, size in enumerate(writes):
        data = bytes([number]) * size
        expected += data
        wire.paced.write(data)
    wire.paced.close()
    for size in reads:
        wire.read(size)
        assert wire.closed == (wire.paced.queued == 0)
        assert (wire.paced.client.unread > 0) == (wire.paced.queued > 0)
        assert wire.paced.client.unread >= wire.paced.queued
    while wire.buffer:
        wire.read(1_000_000)
    assert bytes(wire.sent) == expected
    assert wire.closed
    assert (wire.paced.client.unread, len(wire.paced.client.sending)) == (0, 0)


@given(rates=st.lists(st.integers(0, 3 * MIN_PACE), min_size=1, max_size=20))
def test_a_client_is_too_slow_when_a_window_is_below_the_pace(rates: list[int]) -> None:
    """`rates`: the bytes per second that the client reads in each of the following windows."""
    wire = Wire()
    wire.paced.write(bytes(8 * MIB))
    assert not wire.paced.is_too_slow(0.0, WINDOW)
    for number, rate in enumerate(rates, 1):
        for second in range(int(WINDOW)):
            wire.read(rate)
            now = (number - 1) * WINDOW + second + 1
            last = second + 1 == WINDOW
            assert wire.paced.is_too_slow(now, WINDOW) == (last and rate < MIN_PACE)
        if rate < MIN_PACE:
            break


def test_a_client_with_nothing_to_read_is_not_too_slow() -> None:
    wire = Wire()
    for now in range(0, 300, 10):
        wire.paced.write(b"x" * 100)
        assert not wire.paced.is_too_slow(now, WINDOW)
        wire.read(100)
        assert not wire.paced.is_too_slow(now + 1, WINDOW)


HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


@given(sizes=st.lists(st.sampled_from([None, 0, 1, 16_384, 16_385, 300_000]), max_size=6))
def test_a_head_and_its_small_body_are_one_write(sizes: list[int | None]) -> None:
    """None: the body does not follow at once."""

    async def run() -> None:
        wire, expected, writes = Wire(), b"", 0
        for size in sizes:
            wire.paced.write(HEAD)
            assert wire.paced.get_write_buffer_size() >= len(HEAD)
            await asyncio.sleep(0) if size is None else wire.paced.write(b"x" * size)
            wire.read(1_000_000)
            wire.read(1_000_000)
            expected += HEAD + b"x" * (size or 0)
            writes += 1 if size is None or size <= 16_384 else 2 if size < 262_144 else 3
            assert (bytes(wire.sent), len(wire.writes)) == (expected, writes)
        wire.paced.write(HEAD)
        wire.paced.close()
        assert (bytes(wire.buffer), wire.closed) == (HEAD, True)

    asyncio.run(run())


def test_what_a_client_still_sends_is_read_once_everything_is_sent() -> None:
    """Closing the connection with unread bytes would reset it."""
    wire = Wire(keeps_sending=True)
    wire.paced.write(bytes(MIB))
    wire.paced.close()
    assert (wire.reads, wire.ended) == (False, False)
    while wire.buffer:
        wire.read(MIB)
    assert (wire.reads, wire.ended, wire.closed) == (True, True, False)


def test_a_lost_connection_has_nothing_unread() -> None:
    wire = Wire()
    client = wire.paced.client
    wire.paced.write(bytes(MIB))
    wire.paced.hold(1_000)
    assert client.unread == MIB + 1_000
    wire.paced.hold(-400)
    assert client.unread == MIB + 600
    wire.paced.lost()
    wire.paced.hold(-600)
    wire.paced.lost()
    assert (client.unread, client.connections, len(client.sending)) == (0, 0, 0)


def test_an_address_of_a_network_belongs_to_its_client() -> None:
    clients = Clients(40, ["192.0.2.0/24", "2001:db8:1::5"])
    assert clients.find("2001:db8::1") is clients.find("2001:db8::ffff")
    assert clients.find("2001:db8::1") is not clients.find("2001:db8:0:1::1")
    assert clients.find("::ffff:198.51.100.7") is clients.find("198.51.100.7")
    assert clients.find("198.51.100.7") is not clients.find("198.51.100.8")
    assert [clients.share(address) for address in ("192.0.2.9", "::ffff:192.0.2.9", "2001:db8:1::5")] == [40] * 3
    assert [clients.share(address) for address in ("198.51.100.7", "2001:db8:1::6", "", "unknown")] == [10] * 4
