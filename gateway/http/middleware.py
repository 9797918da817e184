"""The middleware that requests pass before they reach a route, outermost first. GraphQL over HTTP is the innermost."""

import re
from collections.abc import Callable

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.config import Settings
from gateway.http.browser_safety import GRAPHQL_PATHS, Authentication, BrowserSafetyMiddleware
from gateway.http.errors import ErrorFormats
from gateway.http.load_shedding import LoadSheddingMiddleware, LoopTurns
from gateway.http.origins import configured_hosts, configured_origins
from gateway.http.request_id import RequestIdMiddleware

_EXTRA_SLASHES = re.compile("//+api(?:/|$)")
_REQUEST_HEADERS = (
    "Accept",
    "Authorization",
    "Content-Type",
    "Idempotency-Key",
    "Last-Event-ID",
    "X-Auth-Token",
    "X-Request-Id",
)
_RESPONSE_HEADERS = ("RateLimit", "RateLimit-Policy", "Retry-After", "X-Request-Id")


class LeadingSlashMiddleware:
    """Serves `//api` as `/api`. ManageIQ's clients append `/api` to a URL that may end with a slash.

    It precedes every middleware and route that looks at the path, so that both paths have the same rules.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and _EXTRA_SLASHES.match(scope["path"]):
            scope = {**scope, "path": "/" + scope["path"].lstrip("/")}
        await self._app(scope, receive, send)


class GraphQLMiddleware:
    """Passes GraphQL's HTTP requests to `graphql`. Dispatch through Starlette's router would cost 10 % more."""

    def __init__(self, app: ASGIApp, graphql: ASGIApp) -> None:
        self._app = app
        self._graphql = graphql

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].removesuffix("/") in GRAPHQL_PATHS:
            await self._graphql(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def middleware(
    settings: Settings,
    formats: ErrorFormats,
    graphql: ASGIApp,
    authentication: Authentication,
    turns: LoopTurns,
    on_shed: Callable[[Scope], None] = lambda _scope: None,
) -> list[Middleware]:
    """Returns the list for `Starlette(middleware=...)`. Raises StartupError for a malformed origin or host.

    `turns`: those that the surfaces take too. `on_shed` is called for each request that is rejected by its turn.
    """
    configured_hosts(settings.allowed_hosts)  # Starlette creates the middleware, which needs them, only later
    stack = [
        Middleware(RequestIdMiddleware),
        Middleware(LeadingSlashMiddleware),
        Middleware(BrowserSafetyMiddleware, settings, formats, authentication, turns),
    ]
    origins = [str(origin) for origin in configured_origins(settings.cors_origins)]
    if origins:
        # CORS only lets browsers read responses; BrowserSafetyMiddleware has rejected foreign origins before.
        stack.append(
            Middleware(
                CORSMiddleware,
                allow_origins=origins,
                allow_methods=("GET", "POST", "DELETE"),
                allow_headers=_REQUEST_HEADERS,
                expose_headers=_RESPONSE_HEADERS,
                max_age=600,
            )
        )
    return [
        *stack,
        Middleware(LoadSheddingMiddleware, turns, formats, authentication.known_caller, on_shed),
        Middleware(GraphQLMiddleware, graphql),
    ]
