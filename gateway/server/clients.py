"""What each client uses: its connections, and the bytes of responses that it has not read yet.

A client is an IPv4 address, or the /64 network of an IPv6 address, because a host commonly has a whole one. Behind
trusted proxies a request belongs to the client that they name, and the connections of a proxy have no limit of their
own. All bounds are per process.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from time import perf_counter
from typing import Protocol
from weakref import WeakValueDictionary

_CONNECTION_SHARE = 4  # a client may have a quarter of GATEWAY_MAX_CONNECTIONS
_PARSE_SHARE = 0.5  # of the time, for parsing what a client sends
_PARSE_BURST = 0.01  # seconds of parsing that do not have to wait
_SHORTEST_TIMER = 0.001  # seconds; uvloop's timers have this resolution
_MIB = 1_048_576
REFUSED_ABOVE = 64 * _MIB  # unread bytes of a client above which its further requests are refused
MAX_UNREAD_PER_CLIENT = 128 * _MIB  # above this, its oldest unread responses are dropped
MAX_UNREAD = 256 * _MIB  # of all clients; above this, those of the client with the most are dropped

log = logging.getLogger(__name__)


class SendingConnection(Protocol):
    """A connection with unread bytes."""

    def abort(self) -> None:
        """Closes the connection and drops its unread bytes."""


class Client:
    """The usage of one client."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.connections = 0
        self.unread = 0  # bytes
        self.parse_seconds = 0.0  # spent on parsing what the client sends, less its share of the time since then
        self._counted_at = 0.0
        self.waits_to_parse: deque[Callable[[], None]] = deque()  # what parses the input of each connection that waits
        self._has_timer = False
        self.sending: dict[SendingConnection, None] = {}  # connections with unread bytes, oldest first

    def parse_delay(self, now: float) -> float:
        """Returns the seconds until more of what the client sends may be parsed; 0 if it may now."""
        spent = self.parse_seconds - (now - self._counted_at) * _PARSE_SHARE
        self.parse_seconds, self._counted_at = max(spent, 0.0), now
        return max(spent - _PARSE_BURST, 0.0) / _PARSE_SHARE

    def parse_later(self, parse: Callable[[], None]) -> None:
        """Calls `parse` once this client may parse more. Its connections take turns."""
        self.waits_to_parse.append(parse)
        self._schedule_turns()

    def _schedule_turns(self) -> None:
        if self.waits_to_parse and not self._has_timer:
            self._has_timer = True
            delay = max(self.parse_delay(perf_counter()), _SHORTEST_TIMER)
            asyncio.get_running_loop().call_later(delay, self._take_turns)

    def _take_turns(self) -> None:
        self._has_timer = False
        try:
            for _ in range(len(self.waits_to_parse)):
                if self.parse_delay(perf_counter()):
                    break
                self.waits_to_parse.popleft()()
        finally:
            self._schedule_turns()


class Clients:
    """The clients that have connections or unread bytes."""

    def __init__(
        self,
        max_connections: int,
        proxies: Sequence[str] = (),
        *,
        refused_above: int = REFUSED_ABOVE,
        max_unread_per_client: int = MAX_UNREAD_PER_CLIENT,
        max_unread: int = MAX_UNREAD,
    ) -> None:
        """`proxies` are the addresses and networks of trusted proxies. The last three are in bytes."""
        self.max_connections = max_connections  # of all clients
        self.refused_above = refused_above
        self._max_unread_per_client = max_unread_per_client
        self._max_unread = max_unread
        self._share = max(1, max_connections // _CONNECTION_SHARE)
        self._proxies = [ip_network(proxy) for proxy in proxies]
        self._known: WeakValueDictionary[str, Client] = WeakValueDictionary()
        self._sending: dict[Client, None] = {}  # clients with unread bytes
        self.unread = 0  # bytes, of all clients
        self.handshakes = 0  # TLS handshakes that have not ended, of all clients

    def find(self, address: str) -> Client:
        """Returns the client with this address, creating it if it is not known."""
        name = _client_name(address)
        client = self._known.get(name)
        if client is None:
            client = self._known[name] = Client(name)
        return client

    def share(self, address: str) -> int:
        """The number of connections that the client with this address may have; for a trusted proxy, that of all."""
        return self.max_connections if self._is_proxy(address) else self._share

    def add_unread(self, client: Client, connection: SendingConnection, size: int) -> None:
        """Counts `size` bytes that `connection` must still send, and closes connections if a bound is exceeded.

        Of a client, the oldest are closed; of all clients, the oldest of the one with the most unread bytes, which may
        be `connection`. A response that is larger than a bound is sent if there is no other.
        """
        client.sending.setdefault(connection)
        self._sending.setdefault(client)
        client.unread += size
        self.unread += size
        while client.unread > self._max_unread_per_client and len(client.sending) > 1:
            _close_oldest(client)
        while self.unread > self._max_unread and (len(self._sending) > 1 or len(client.sending) > 1):
            _close_oldest(max(self._sending, key=lambda one: one.unread))

    def remove_unread(self, client: Client, connection: SendingConnection, size: int, *, last: bool) -> None:
        """Counts `size` bytes as sent or dropped. `last`: the connection has no other unread bytes."""
        client.unread -= size
        self.unread -= size
        if last:
            client.sending.pop(connection, None)
            if not client.sending:
                self._sending.pop(client, None)

    def _is_proxy(self, address: str) -> bool:
        parsed = _parse(address)
        return parsed is not None and any(parsed in network for network in self._proxies)


def _close_oldest(client: Client) -> None:
    log.warning("Closed a connection because its client has too many unread bytes client=%s", client.name)
    next(iter(client.sending)).abort()


@lru_cache(maxsize=4_096)
def _client_name(address: str) -> str:
    """The address, or the /64 network of an IPv6 address. A text that is no address is returned unchanged."""
    parsed = _parse(address)
    if isinstance(parsed, IPv6Address):
        return str(ip_network((int(parsed) >> 64 << 64, 64)))
    return address if parsed is None else str(parsed)


def _parse(address: str) -> IPv4Address | IPv6Address | None:
    """The address, or None if the text is none. An IPv4 client of a socket for IPv6 has an IPv4-mapped address."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return None
    return (parsed.ipv4_mapped or parsed) if isinstance(parsed, IPv6Address) else parsed
