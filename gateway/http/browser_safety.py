"""A browser's safety: which hosts the gateway answers to, and which pages may use it. Pure ASGI.

A page of another origin could otherwise make its reader's browser call a gateway that only that browser reaches.
"""

from collections.abc import Iterable
from functools import lru_cache

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.access.credentials import Headers
from gateway.config import Settings
from gateway.errors import ErrorCode
from gateway.http.errors import HttpError
from gateway.http.origins import configured_origins, host_and_port, parse_origin

GRAPHQL_PATHS = frozenset({"/graphql"})

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
_ON_EVERY_ANSWER: Headers = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
_ONLY_TLS = (b"strict-transport-security", b"max-age=31536000")
_NO_STORE = (b"cache-control", b"no-store")
_TELLING = frozenset({b"host", b"origin", b"sec-fetch-site", b"sec-fetch-mode", b"sec-fetch-dest"})
_PAGE = [b"document"]
_HTTP_SCHEMES = {"ws": "http", "wss": "https"}


class BrowserSafetyMiddleware:
    """Refuses unknown hosts and foreign pages; puts the headers on every answer that keep browsers from guessing."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        """Raises StartupError for an origin in `settings` that is none."""
        self._app = app
        named = {host_and_port(name) for name in (settings.host, *settings.allowed_hosts)}
        self._hosts = frozenset(host for host in named if host is not None)
        # Behind a proxy the gateway's own address is the one that the proxy has.
        public = parse_origin("/".join(settings.public_url.split("/")[:3]))
        self._origins = frozenset([*configured_origins(settings.cors_origins), *([public] if public else [])])
        if public is not None:
            self._hosts |= {(public.host, None)}
        secure = settings.tls_certificate or (public is not None and public.scheme == "https")
        self._headers = [*_ON_EVERY_ANSWER, *([_ONLY_TLS] if secure else [])]
        # The same few values come again and again; what a stranger invents pushes out only its like.
        self._knows_host = lru_cache(maxsize=64)(self._is_known)
        self._allows_origin = lru_cache(maxsize=64)(self._is_allowed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        fault = self._check(scope)
        if scope["type"] == "websocket":
            if fault is None:
                await self._app(scope, receive, send)
            else:
                await receive()
                await _deny(scope, send, fault)
            return
        posts = scope["method"] == "POST"

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = self._with_safety(message.get("headers", ()), no_store=posts)
            await send(message)

        if fault is None:
            await self._app(scope, receive, send_safely)
        else:
            await fault.answer(send_safely)

    def _with_safety(self, headers: Iterable[tuple[bytes, bytes]], *, no_store: bool) -> Headers:
        """The answer's own headers win."""
        found = list(headers)
        if no_store and _NO_STORE in found:  # an answer of the API, which has none of the others
            return found + self._headers
        names = {name.lower() for name, _ in found}
        found += [header for header in self._headers if header[0] not in names]
        if no_store and _NO_STORE[0] not in names:
            found.append(_NO_STORE)
        return found

    def _check(self, scope: Scope) -> HttpError | None:
        found: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            if name in _TELLING:
                found.setdefault(name, []).append(value)
        hosts = found.get(b"host", [])
        if len(hosts) != 1:
            return HttpError(400, "A request needs exactly one `Host`.")
        if not self._knows_host(hosts[0]):
            return HttpError(421, "This gateway does not answer to that `Host`. GATEWAY_ALLOWED_HOSTS can name more.")
        if self._may_use(scope, found, hosts[0]):
            return None
        advice = "Pages of this origin may not use the gateway. GATEWAY_CORS_ORIGINS can name it."
        return HttpError(403, advice, ErrorCode.FORBIDDEN)

    def _may_use(self, scope: Scope, found: dict[bytes, list[bytes]], host: bytes) -> bool:
        """Whether the page that sends this, if it is a page, may: what changes something, and GraphQL altogether."""
        writes = scope["type"] == "websocket" or scope["method"] not in _SAFE_METHODS
        if not writes and (scope["method"] == "OPTIONS" or _path(scope) not in GRAPHQL_PATHS):
            return True
        origins = found.get(b"origin")
        if origins:
            return len(origins) == 1 and self._allows_origin(origins[0], host, scope["scheme"])
        # No `Origin` comes from programs, from the gateway's own pages, and from images and scripts of any page.
        if found.get(b"sec-fetch-site", [b"none"])[0] in {b"same-origin", b"none"}:
            return True
        # A link that a person follows, from any page: it runs nothing, for a browser is shown GraphiQL.
        return not writes and found.get(b"sec-fetch-mode") == [b"navigate"] and found.get(b"sec-fetch-dest") == _PAGE

    def _is_known(self, header: bytes) -> bool:
        found = host_and_port(header.decode("latin-1"))
        if found is None:
            return False
        host, _ = found
        # Loopback always: a page cannot make a browser send that name to another machine.
        return host in _LOOPBACK or (host, None) in self._hosts or found in self._hosts

    def _is_allowed(self, header: bytes, host: bytes, scheme: str) -> bool:
        origin = parse_origin(header.decode("latin-1"))
        if origin is None:
            return False
        own = parse_origin(f"{_HTTP_SCHEMES.get(scheme, scheme)}://{host.decode('latin-1')}")
        return origin == own or origin in self._origins


def _path(scope: Scope) -> str:
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", "")).rstrip("/")


async def _deny(scope: Scope, send: Send, fault: HttpError) -> None:
    """Refuses a handshake, with the reason where the server can carry one (ASGI, "WebSocket Denial Response")."""
    if "websocket.http.response" in scope.get("extensions", ()):
        await fault.answer(send, "websocket.http.response")
    else:
        await send({"type": "websocket.close"})
