"""From a PostgreSQL URL to a connection: one host after the other, the one that answered last first.

asyncpg has one time limit for all hosts of a URL, so that one that is gone without a word hides those behind it; and
what only libpq knows it takes for a setting of the server. So it is given URLs of one host each, without that.
"""

import asyncio
import logging
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import asyncpg

from gateway.errors import Unavailable
from gateway.store.postgres_errors import unreachable

log = logging.getLogger(__name__)

_ROUNDS = 2  # tries of each host: the first may have met what just went away
_PAUSE = 0.25  # seconds after a failure in which nobody tries again

_LIBPQ_ONLY = {
    *("channel_binding", "client_encoding", "connect_timeout", "fallback_application_name", "gssdelegation"),
    *("gssencmode", "keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval", "load_balance_hosts"),
    *("require_auth", "requirepeer", "sslcompression", "sslsni", "tcp_user_timeout"),
}


def single_hosts(url: str) -> list[str]:
    """The URL once for each of its hosts, in their order, as asyncpg reads it."""
    parts = urlsplit(url)
    query = parse_qsl(parts.query, keep_blank_values=True)
    given = dict(query)
    login, at, netloc = parts.netloc.rpartition("@")
    hosts, ports = (netloc or given.get("host", "")).split(","), given.get("port", "").split(",")
    kept = [(name, value) for name, value in query if name not in _LIBPQ_ONLY | {"host", "port"}]
    urls = []
    for number, host in enumerate(hosts):
        port = ports[number] if number < len(ports) else ports[-1]
        place = [("host", host)] if host.startswith("/") else []  # a socket's directory
        named = "" if place else host
        more = place + ([("port", port)] if port else [])
        urls.append(urlunsplit(parts._replace(netloc=f"{login}{at}{named}", query=urlencode([*kept, *more]))))
    return urls


class Hosts:
    """Opens connections, each try bounded by `patience` seconds a host."""

    def __init__(self, url: str, patience: float) -> None:
        self._urls = single_hosts(url)
        self._patience = patience
        self._failure: str | None = None
        self._quiet_until = 0.0
        self._reached_at = 0.0

    async def connect(self, **settings: str) -> Any:
        """A connection with these settings of the server's. Raises Unavailable, without a try soon after a failure."""
        loop = asyncio.get_running_loop()
        if self._failure is not None and loop.time() < self._quiet_until:
            raise Unavailable(self._failure)
        cause: Exception | None = None
        begun = loop.time()
        for _ in range(_ROUNDS):
            for url in list(self._urls):
                try:
                    connection = await self._open(url, settings)
                except Exception as error:  # noqa: BLE001 - told below, whatever it is: no connection was opened
                    cause = error
                else:
                    self._reached(url)
                    return connection
            if isinstance(cause, TimeoutError):
                break
        assert cause is not None
        told = unreachable(cause)
        if self._reached_at < begun:  # else somebody else was lucky meanwhile
            if self._failure is None:  # said once, not by each of thousands of requests
                log.warning("the database cannot be reached: %s", str(cause) or type(cause).__name__)
            self._failure, self._quiet_until = told.message, loop.time() + _PAUSE
        raise told from cause

    def _reached(self, url: str) -> None:
        self._reached_at = asyncio.get_running_loop().time()
        if self._urls[0] != url:
            self._urls.sort(key=lambda other: other != url)
        if self._failure is not None:
            self._failure = None
            log.warning("the database can be reached again")

    async def _open(self, url: str, settings: dict[str, str]) -> Any:
        connection = await asyncpg.connect(
            url,
            timeout=self._patience,
            statement_cache_size=1_024,
            max_cached_statement_lifetime=0,
            server_settings={"application_name": "snapshot-gateway", **settings},
        )
        # The server looks every second whether somebody still waits for a statement, be it a gateway that was killed.
        # It would otherwise notice at the statement's end. Servers on some systems cannot, and those before 14.
        try:
            with suppress(asyncpg.PostgresError):
                await connection.execute("SET client_connection_check_interval = '1s'")
        except BaseException:
            connection.terminate()
            raise
        return connection
