"""Starlette routes of GraphiQL: a page and its assets, which `make setup` builds into `static/`."""

from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

STATIC = Path(__file__).parent / "static"

# Allows only the gateway's own files and endpoint; 'self' covers its WebSocket. Monaco needs inline styles.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "font-src 'self' data:; connect-src 'self'; worker-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_MAX_NAME = 255  # characters of the name of an asset

_SECURITY_HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
# Revalidated at every load, because the page names the current assets.
_PAGE_HEADERS = {
    **_SECURITY_HEADERS,
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
# Immutable, because the names of assets contain a hash of their content.
_ASSET_HEADERS = {**_SECURITY_HEADERS, "Cache-Control": "public, max-age=31536000, immutable"}


def routes() -> list[BaseRoute]:
    """The routes `/graphiql` and `/graphiql/assets`."""
    return [
        Route("/graphiql", page),
        Mount("/graphiql/assets", _Assets(directory=STATIC / "assets", check_dir=False)),
    ]


async def page(request: Request) -> Response:
    """The GraphiQL page. It uses relative URLs only, so it can also be served at `/graphql`."""
    index = STATIC / "index.html"
    if not index.is_file():
        return PlainTextResponse(
            "GraphiQL is not built. Run `make setup` to build it.\n", 503, headers=_SECURITY_HEADERS
        )
    return FileResponse(index, headers=_PAGE_HEADERS)


class _Assets(StaticFiles):
    """Files that may be cached without limit."""

    def get_path(self, scope: Scope) -> str:
        """Returns the name of the asset, or an empty string, which names none.

        The files are in one directory. Resolving a path of thousands of segments would take seconds, and delay all
        other requests meanwhile.
        """
        name: str = scope["path"].removeprefix(scope["root_path"]).removeprefix("/")
        return "" if "/" in name or len(name) > _MAX_NAME else name

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers.update(_ASSET_HEADERS)
        return response

    async def check_config(self) -> None:
        """Skips the check that the directory exists: without a build, assets are 404 and the page says why."""
