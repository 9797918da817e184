"""Opens PostgreSQL connections, with failover over the hosts of the URL; the host that answered last is tried first.

Each host gets its own URL and its own timeout, for two reasons. asyncpg applies one time limit to all hosts of a URL,
so a host that silently drops packets would use up the time of the hosts after it. And asyncpg sends parameters that
only libpq understands to the server as settings, so they are removed.
"""

import asyncio
import logging
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import asyncpg

from gateway.errors import Unavailable
from gateway.store.postgres_errors import translate_connect_error
from gateway.version import VERSION

log = logging.getLogger(__name__)

_ROUNDS = 2  # attempts per host; the second one covers a connection that was closed during a failover
_FAILURE_CACHED = 0.25  # seconds after a failure in which further calls fail without an attempt

_LIBPQ_ONLY = {
    *("channel_binding", "client_encoding", "connect_timeout", "fallback_application_name", "gssdelegation"),
    *("gssencmode", "keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval", "load_balance_hosts"),
    *("require_auth", "requirepeer", "sslcompression", "sslsni", "tcp_user_timeout"),
}


def single_host_urls(url: str) -> list[str]:
    """One URL per host of `url`, in the same order, with the parameters that asyncpg understands."""
    parts = urlsplit(url)
    query = parse_qsl(parts.query, keep_blank_values=True)
    parameters = dict(query)
    login, at, netloc = parts.netloc.rpartition("@")
    hosts, ports = (netloc or parameters.get("host", "")).split(","), parameters.get("port", "").split(",")
    kept = [(name, value) for name, value in query if name not in _LIBPQ_ONLY | {"host", "port"}]
    urls = []
    for number, host in enumerate(hosts):
        port = ports[number] if number < len(ports) else ports[-1]
        socket = [("host", host)] if host.startswith("/") else []  # the directory of a Unix domain socket
        name = "" if socket else host
        more = socket + ([("port", port)] if port else [])
        urls.append(urlunsplit(parts._replace(netloc=f"{login}{at}{name}", query=urlencode([*kept, *more]))))
    return urls


class Connector:
    """Opens connections. Each attempt is limited to `timeout` seconds per host."""

    def __init__(self, url: str, timeout: float) -> None:
        self._urls = single_host_urls(url)
        self._timeout = timeout
        self._failure: str | None = None
        self._retry_at = 0.0  # before this time of the loop's clock, calls fail without an attempt
        self._connected_at = 0.0

    async def connect(self, **settings: str) -> Any:
        """Opens a connection with these server settings.

        Raises Unavailable when no host can be reached, and without an attempt for 0.25 s after such a failure.
        """
        loop = asyncio.get_running_loop()
        if self._failure is not None and loop.time() < self._retry_at:
            raise Unavailable(self._failure)
        cause: Exception | None = None
        started_at = loop.time()
        for _ in range(_ROUNDS):
            for url in list(self._urls):
                try:
                    connection = await self._open(url, settings)
                except Exception as error:  # noqa: BLE001 - any error means that no connection was opened; raised below
                    cause = error
                else:
                    self._record_success(url)
                    return connection
            if isinstance(cause, TimeoutError):
                break
        assert cause is not None
        translated = translate_connect_error(cause)
        if self._connected_at < started_at:  # otherwise a concurrent call connected in the meantime
            if self._failure is None:  # logged once per outage, not once per request
                log.warning("Database became unreachable error=%s", str(cause) or type(cause).__name__)
            self._failure, self._retry_at = translated.message, loop.time() + _FAILURE_CACHED
        raise translated from cause

    def _record_success(self, url: str) -> None:
        self._connected_at = asyncio.get_running_loop().time()
        if self._urls[0] != url:
            self._urls.sort(key=lambda other: other != url)
        if self._failure is not None:
            self._failure = None
            log.warning("Database became reachable again")

    async def _open(self, url: str, settings: dict[str, str]) -> Any:
        connection = await asyncpg.connect(
            url,
            timeout=self._timeout,
            statement_cache_size=1_024,
            max_cached_statement_lifetime=0,
            server_settings={"application_name": f"snapshot-gateway {VERSION}", **settings},
        )
        # The server checks every second whether the client of a running statement is still connected, so that the
        # statements of a killed gateway are canceled. Without it the server notices at the end of the statement.
        # PostgreSQL before 14, and servers on some operating systems, do not support the setting.
        try:
            with suppress(asyncpg.PostgresError):
                await connection.execute("SET client_connection_check_interval = '1s'")
        except BaseException:
            connection.terminate()
            raise
        return connection
