"""GraphiQL as Starlette routes: one page and its files, built by `make setup` into `static/`. Knows no schema."""

from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

STATIC = Path(__file__).parent / "static"

# Nothing but the gateway's own files and endpoint; 'self' covers its WebSocket. Monaco writes its styles inline.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "font-src 'self' data:; connect-src 'self'; worker-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_SAFETY = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
# The page names its files, so it is asked for again each time.
_PAGE_HEADERS = {
    **_SAFETY,
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
# Their names carry a hash of their content, so they never change.
_ASSET_HEADERS = {**_SAFETY, "Cache-Control": "public, max-age=31536000, immutable"}


def routes() -> list[BaseRoute]:
    """`/graphiql` and the files it loads."""
    return [
        Route("/graphiql", page),
        Mount("/graphiql/assets", _Assets(directory=STATIC / "assets", check_dir=False)),
    ]


async def page(request: Request) -> Response:
    """The GraphiQL page. Also fit to answer a browser at `/graphql`: it addresses everything relative to itself."""
    index = STATIC / "index.html"
    if not index.is_file():
        return PlainTextResponse("GraphiQL is not built yet: `make setup` builds it.\n", 503, headers=_SAFETY)
    return FileResponse(index, headers=_PAGE_HEADERS)


class _Assets(StaticFiles):
    """Files that may be cached for good."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers.update(_ASSET_HEADERS)
        return response

    async def check_config(self) -> None:
        """Without a build every file is plainly not found; the page says why."""
