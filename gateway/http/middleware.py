"""What every request passes before a route sees it, outermost first. GraphQL over HTTP is its end."""

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.config import Settings
from gateway.http.browser_safety import GRAPHQL_PATHS, BrowserSafetyMiddleware
from gateway.http.load_shedding import LoadSheddingMiddleware
from gateway.http.origins import configured_origins
from gateway.http.request_id import RequestIdMiddleware

_ASKED = ("Accept", "Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID", "X-Auth-Token", "X-Request-Id")
_TOLD = ("RateLimit", "RateLimit-Policy", "Retry-After", "X-Request-Id")


class GraphQLMiddleware:
    """Hands GraphQL's requests to `graphql`: as a route, a request would cost a tenth more."""

    def __init__(self, app: ASGIApp, graphql: ASGIApp) -> None:
        self._app = app
        self._graphql = graphql

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].removesuffix("/") in GRAPHQL_PATHS:
            await self._graphql(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def middleware(settings: Settings, graphql: ASGIApp) -> list[Middleware]:
    """For `Starlette(middleware=...)`. Raises StartupError for an origin in `settings` that is none."""
    stack = [Middleware(RequestIdMiddleware), Middleware(BrowserSafetyMiddleware, settings)]
    origins = [str(origin) for origin in configured_origins(settings.cors_origins)]
    if origins:
        # Inside, for it only tells browsers what they may read; a foreign page is refused before.
        stack.append(
            Middleware(
                CORSMiddleware,
                allow_origins=origins,
                allow_methods=("GET", "POST", "DELETE"),
                allow_headers=_ASKED,
                expose_headers=_TOLD,
                max_age=600,
            )
        )
    return [*stack, Middleware(LoadSheddingMiddleware, settings.longest_wait), Middleware(GraphQLMiddleware, graphql)]
