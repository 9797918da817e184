"""Hosts and web origins, parsed so that they can be compared (RFC 9110, 7.2; RFC 6454)."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from gateway.errors import StartupError

_AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]{1,5}))?")
_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://(.+)")
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class WebOrigin:
    """A scheme, a host and a port. The port is None if the text has none and the scheme has no default port."""

    scheme: str
    host: str
    port: int | None

    def __str__(self) -> str:
        """Returns the form that browsers send: without the default port."""
        shown = self.port is not None and self.port != _DEFAULT_PORTS.get(self.scheme)
        return f"{self.scheme}://{self.host}" + (f":{self.port}" if shown else "")


def host_and_port(text: str) -> tuple[str, int | None] | None:
    """Parses a `Host` header, or a host in the settings, where IPv6 needs no brackets. None if it is malformed."""
    text = text.strip().lower()
    if text.count(":") > 1 and not text.startswith("["):
        text = f"[{text}]"
    match = _AUTHORITY.fullmatch(text)
    if match is None:
        return None
    host, port = match.groups()
    return host.removesuffix("."), int(port) if port else None


def parse_origin(text: str) -> WebOrigin | None:
    """Parses an origin. Returns None if it is malformed or opaque (`null`)."""
    match = _ORIGIN.fullmatch(text.strip().lower())
    parts = host_and_port(match[2]) if match else None
    if match is None or parts is None:
        return None
    host, port = parts
    return WebOrigin(match[1], host, port or _DEFAULT_PORTS.get(match[1]))


def configured_hosts(texts: Iterable[str]) -> list[tuple[str, int | None]]:
    """Parses the hosts of GATEWAY_ALLOWED_HOSTS. Raises StartupError for a malformed one; `*` is not supported."""
    found = []
    for text in texts:
        host = host_and_port(text)
        if host is None:
            raise StartupError(f"GATEWAY_ALLOWED_HOSTS must list hosts such as gateway.example.org, not {text!r}.")
        found.append(host)
    return found


def configured_origins(texts: Iterable[str]) -> list[WebOrigin]:
    """Parses the origins of GATEWAY_CORS_ORIGINS. Raises StartupError for a malformed one; `*` is not supported."""
    found = []
    for text in texts:
        origin = parse_origin(text.removesuffix("/"))
        if origin is None:
            raise StartupError(f"GATEWAY_CORS_ORIGINS must list origins such as http://localhost:5173, not {text!r}.")
        found.append(origin)
    return found
