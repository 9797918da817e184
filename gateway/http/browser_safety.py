"""Protects browser users: checks the `Host` and `Origin` of requests, and sets security headers. Pure ASGI.

Without these checks, a page of another origin could use its visitor's browser to call a gateway that only this browser
reaches (cross-site request forgery, DNS rebinding). For the same reason a gateway without users refuses requests that
a proxy has forwarded: it listens on loopback only, but the clients of a proxy may be anywhere. Health checks are always
answered.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.access.caller import Caller
from gateway.access.credentials import Headers
from gateway.config import Settings
from gateway.errors import ErrorCode, GatewayError, Unavailable
from gateway.http.errors import ErrorFormats, HttpError
from gateway.http.health import HEALTH_PATHS
from gateway.http.load_shedding import LoopTurns, address_claim
from gateway.http.origins import configured_hosts, configured_origins, host_and_port, parse_origin
from gateway.http.rejection_log import RejectionLog
from gateway.http.scope import path_of

GRAPHQL_PATHS = frozenset({"/graphql"})
_SESSION_PATH = "/auth"  # the end of `/api/auth` and `/api/v…/auth`

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
_SECURITY_HEADERS: Headers = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
_STRICT_TRANSPORT = (b"strict-transport-security", b"max-age=31536000")
_NO_STORE = (b"cache-control", b"no-store")
_CHECKED_HEADERS = frozenset({b"host", b"origin", b"sec-fetch-site", b"sec-fetch-mode", b"sec-fetch-dest"})
_DOCUMENT = [b"document"]
_PREFLIGHT_HEADER = b"access-control-request-method"
_PROXY_HEADERS = frozenset({b"forwarded", b"via", b"x-real-ip"})
_PROXY_HEADER_PREFIX = b"x-forwarded-"
_HTTP_SCHEMES = {"ws": "http", "wss": "https"}


class Authentication(Protocol):
    """What the middleware asks the authenticator (`gateway.access.authentication`)."""

    @property
    def requires_authentication(self) -> bool:
        """Whether requests without valid credentials are refused."""

    async def is_open(self) -> bool:
        """Whether requests need no credentials, as the database says now."""

    def known_caller(self, scope: Mapping[str, Any]) -> Caller | None:
        """The caller of the request if its credential was verified before."""


class BrowserSafetyMiddleware:
    """Rejects unknown hosts (421) and foreign origins (403), and adds security headers to every response.

    While `authentication` does not require authentication, it also rejects requests that a proxy has forwarded (403).
    It is None for a listener without users, such as that of the metrics.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        formats: ErrorFormats,
        authentication: Authentication | None,
        turns: LoopTurns,
    ) -> None:
        """A rejection takes one of the `turns` under the address of its client, and so does a CORS preflight request,
        which the next middleware answers.

        Raises StartupError for a malformed origin in `settings.cors_origins` or host in `settings.allowed_hosts`.
        """
        self._app = app
        self._formats = formats
        self._authentication = authentication
        self._turns = turns
        named = {host_and_port(settings.host), *configured_hosts(settings.allowed_hosts)}
        self._hosts = frozenset(host for host in named if host is not None)
        # Behind a proxy, the gateway's own origin is that of the proxy.
        public = parse_origin("/".join(settings.public_url.split("/")[:3]))
        self._origins = frozenset([*configured_origins(settings.cors_origins), *([public] if public else [])])
        if public is not None:
            self._hosts |= {(public.host, None)}
        secure = settings.tls_certificate or (public is not None and public.scheme == "https")
        self._headers = [*_SECURITY_HEADERS, *([_STRICT_TRANSPORT] if secure else [])]
        # Most requests have one of a few hosts and origins. The bound keeps invented values from filling memory.
        # These are pure functions of one header, for which lru_cache is faster than BoundedCache.
        self._host_is_known = lru_cache(maxsize=64)(self._check_host)
        self._origin_is_allowed = lru_cache(maxsize=64)(self._check_origin)
        self._rejected_hosts, self._rejected_origins, self._rejected_proxies = (RejectionLog() for _ in range(3))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        error = self._check(scope)
        authentication = self._authentication
        if authentication and not authentication.requires_authentication and (sign := _sign_of_proxy(scope)):
            error = await _refuse_proxy(authentication, sign, self._rejected_proxies) or error
        if error is not None or _is_preflight(scope):
            error = await self._await_turn(scope, error)
        if scope["type"] == "websocket":
            if error is None:
                await self._app(scope, receive, send)
            else:
                await self._deny(scope, receive, send, error)
            return
        is_post = scope["method"] == "POST"

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = self._add_headers(message.get("headers", ()), no_store=is_post)
            await send(message)

        if error is None:
            await self._app(scope, receive, send_with_headers)
        else:
            await self._formats.response(scope, error)(scope, receive, send_with_headers)

    async def _await_turn(self, scope: Scope, error: HttpError | None) -> HttpError | None:
        """Returns `error`, or another one if there would be too many before it, when it is the turn of the client."""
        try:
            await self._turns.take(address_claim(scope))
        except Unavailable as unavailable:
            return HttpError.of(unavailable)
        return error

    async def _deny(self, scope: Scope, receive: Receive, send: Send, error: HttpError) -> None:
        """Rejects a WebSocket handshake, with a body if the server supports it (ASGI, "WebSocket Denial Response")."""
        await receive()
        if "websocket.http.response" in scope.get("extensions", ()):
            await self._formats.response(scope, error)(scope, receive, send)
        else:
            await send({"type": "websocket.close"})

    def _add_headers(self, headers: Iterable[tuple[bytes, bytes]], *, no_store: bool) -> Headers:
        """Returns `headers` with the security headers added that the response does not set itself."""
        found = list(headers)
        if no_store and _NO_STORE in found:  # a response of the API, which sets no other security header itself
            return found + self._headers
        names = {name.lower() for name, _ in found}
        found += [header for header in self._headers if header[0] not in names]
        if no_store and _NO_STORE[0] not in names:
            found.append(_NO_STORE)
        return found

    def _check(self, scope: Scope) -> HttpError | None:
        """Returns the error to reject the request with, or None if it is allowed."""
        found: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            if name in _CHECKED_HEADERS:
                found.setdefault(name, []).append(value)
        hosts = found.get(b"host", [])
        if _is_health_check(scope) and len(hosts) <= 1 and (hosts or scope["http_version"] == "1.0"):
            return None
        if len(hosts) != 1:
            return HttpError(400, "The request must have exactly one `Host` header.")
        if not self._host_is_known(hosts[0]):
            host = hosts[0].decode("latin-1")
            setting = None if host_and_port(host) is None else "GATEWAY_ALLOWED_HOSTS"
            self._rejected_hosts.write("Rejected a request to an unknown host", "host", host, setting)
            return HttpError(421, "The `Host` header names an unknown host. Add the host to GATEWAY_ALLOWED_HOSTS.")
        if self._is_permitted(scope, found, hosts[0]):
            return None
        for origin in found.get(b"origin", ()):
            text = origin.decode("latin-1")
            setting = None if parse_origin(text) is None else "GATEWAY_CORS_ORIGINS"
            self._rejected_origins.write("Rejected a request of another origin", "origin", text, setting)
        message = "Pages of this origin must not call the gateway. Add the origin to GATEWAY_CORS_ORIGINS."
        return HttpError(403, message, ErrorCode.FORBIDDEN)

    def _is_permitted(self, scope: Scope, found: dict[bytes, list[bytes]], host: bytes) -> bool:
        """Checks the origin of a request that can change something, and of every GraphQL request.

        Other reads pass: CORS keeps foreign pages from reading their responses.
        """
        changes = scope["type"] == "websocket" or scope["method"] not in _SAFE_METHODS
        # Any method but OPTIONS creates a session here, and the hundredth ends the first.
        creates_session = path_of(scope).endswith(_SESSION_PATH) and scope["method"] != "OPTIONS"
        writes = changes or creates_session
        if not writes and (scope["method"] == "OPTIONS" or path_of(scope) not in GRAPHQL_PATHS):
            return True
        origins = found.get(b"origin")
        if origins:
            return len(origins) == 1 and self._origin_is_allowed(origins[0], host, scope["scheme"])
        # Programs, same-origin GETs, and images and scripts of any page send no `Origin`. `Sec-Fetch-Site`, which
        # only browsers send, distinguishes the last two.
        if found.get(b"sec-fetch-site", [b"none"])[0] in {b"same-origin", b"none"}:
            return True
        # A link from any page may be followed: it runs no query, because a browser is redirected to GraphiQL.
        navigates = found.get(b"sec-fetch-mode") == [b"navigate"] and found.get(b"sec-fetch-dest") == _DOCUMENT
        return not writes and navigates

    def _check_host(self, header: bytes) -> bool:
        found = host_and_port(header.decode("latin-1"))
        if found is None:
            return False
        host, _ = found
        # Loopback names are always allowed: DNS rebinding cannot make a browser send them to another machine.
        return host in _LOOPBACK or (host, None) in self._hosts or found in self._hosts

    def _check_origin(self, header: bytes, host: bytes, scheme: str) -> bool:
        origin = parse_origin(header.decode("latin-1"))
        if origin is None:
            return False
        own = parse_origin(f"{_HTTP_SCHEMES.get(scheme, scheme)}://{host.decode('latin-1')}")
        return origin == own or origin in self._origins


async def _refuse_proxy(authentication: Authentication, sign: str, rejected: RejectionLog) -> HttpError | None:
    """Returns the error for a request through a proxy, or None if authentication is required by now.

    The database is read again, because an operator may have created the first token after an earlier refusal.
    """
    try:
        if not await authentication.is_open():
            return None
    except GatewayError as error:
        return HttpError.of(error)
    rejected.write("Rejected a request through a proxy", "reason", sign, None)
    message = (
        f"Requests through a proxy ({sign}) are refused, because no users are configured and every client of the proxy"
        " would have full access. Create a token with `gateway token create`, or name a JWT issuer with"
        " GATEWAY_JWT_ISSUER."
    )
    return HttpError(403, message, ErrorCode.FORBIDDEN)


def _is_preflight(scope: Scope) -> bool:
    return scope.get("method") == "OPTIONS" and any(name == _PREFLIGHT_HEADER for name, _ in scope["headers"])


def _is_health_check(scope: Scope) -> bool:
    """Balancers and kubelets name any host, or none by HTTP/1.0. The response has nothing that a page must not read."""
    return scope["type"] == "http" and scope["path"] in HEALTH_PATHS and scope["method"] in ("GET", "HEAD")


def _sign_of_proxy(scope: Scope) -> str | None:
    """What shows that a proxy has forwarded the request, or None. Health checks pass, as balancers send them.

    nginx forwards by HTTP/1.0 without a header of its own, unless it is configured otherwise.
    """
    found = None if scope["http_version"] == "1.1" else f"it uses HTTP/{scope['http_version']}"
    for name, _ in scope["headers"]:
        # The comparison is faster than the method, and false for most names.
        if name in _PROXY_HEADERS or (name > _PROXY_HEADER_PREFIX and name.startswith(_PROXY_HEADER_PREFIX)):
            found = f"it has the header `{name.decode('latin-1')}`"
    return None if scope["path"] in HEALTH_PATHS else found
