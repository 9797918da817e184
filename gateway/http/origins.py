"""Hosts and origins as values that can be compared (RFC 9110, 7.2; RFC 6454)."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from gateway.errors import StartupError

_AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]{1,5}))?")
_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://(.+)")
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class WebOrigin:
    """A scheme, a host and a port; the port is None for a scheme that has no usual one and names none."""

    scheme: str
    host: str
    port: int | None

    def __str__(self) -> str:
        """As a browser writes it: without the usual port."""
        shown = self.port is not None and self.port != _DEFAULT_PORTS.get(self.scheme)
        return f"{self.scheme}://{self.host}" + (f":{self.port}" if shown else "")


def host_and_port(text: str) -> tuple[str, int | None] | None:
    """The parts of a `Host` header, or of a host in the settings, where IPv6 needs no brackets; None if it is none."""
    text = text.strip().lower()
    if text.count(":") > 1 and not text.startswith("["):
        text = f"[{text}]"
    match = _AUTHORITY.fullmatch(text)
    if match is None:
        return None
    host, port = match.groups()
    return host.removesuffix("."), int(port) if port else None


def parse_origin(text: str) -> WebOrigin | None:
    """The origin in `text`; None if it is none, as `null` is none."""
    match = _ORIGIN.fullmatch(text.strip().lower())
    parts = host_and_port(match[2]) if match else None
    if match is None or parts is None:
        return None
    host, port = parts
    return WebOrigin(match[1], host, port or _DEFAULT_PORTS.get(match[1]))


def configured_origins(texts: Iterable[str]) -> list[WebOrigin]:
    """The origins that the settings name. Raises StartupError for a text that is none, as `*` is none."""
    found = []
    for text in texts:
        origin = parse_origin(text.removesuffix("/"))
        if origin is None:
            raise StartupError(f"GATEWAY_CORS_ORIGINS must list origins such as http://localhost:5173, not {text!r}")
        found.append(origin)
    return found
