"""What every request passes before a route sees it, outermost first."""

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from gateway.api.origins import configured_origins
from gateway.api.request_id import RequestIdMiddleware
from gateway.api.safety import SafetyMiddleware
from gateway.config import Settings

_ASKED = ("Accept", "Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID", "X-Auth-Token", "X-Request-Id")
_TOLD = ("RateLimit", "RateLimit-Policy", "Retry-After", "X-Request-Id")


def middleware(settings: Settings) -> list[Middleware]:
    """For `Starlette(middleware=...)`. Raises StartupError for an origin in `settings` that is none."""
    stack = [Middleware(RequestIdMiddleware), Middleware(SafetyMiddleware, settings)]
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
    return stack
