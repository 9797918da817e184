"""Starlette routes of GraphiQL: a page and its assets, which `make setup` builds into `static/`."""

from collections.abc import Mapping
from functools import cache
from mimetypes import guess_type
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route

from gateway.web.memory_file import MemoryFile

STATIC = Path(__file__).parent / "static"

# Allows only the gateway's own files and endpoint; 'self' covers its WebSocket. Monaco needs inline styles.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "font-src 'self' data:; connect-src 'self'; worker-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

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
    """The routes `/graphiql` and `/graphiql/assets`. Each file is read when it is first requested."""

    @cache
    def read_page() -> MemoryFile:
        return MemoryFile((STATIC / "index.html").read_bytes(), "text/html", _PAGE_HEADERS)

    @cache
    def assets() -> Mapping[str, Path]:
        return {file.name: file for file in (STATIC / "assets").glob("*")}

    @cache
    def read_asset(name: str) -> MemoryFile:
        kind, _ = guess_type(name)
        return MemoryFile(assets()[name].read_bytes(), kind or "application/octet-stream", _ASSET_HEADERS)

    async def page(request: Request) -> Response:
        """The GraphiQL page. It uses relative URLs only, so it can also be served at `/graphql`."""
        try:
            return read_page().response(request)
        except FileNotFoundError:
            return PlainTextResponse(
                "GraphiQL is not built. Run `make setup` to build it.\n", 503, headers=_SECURITY_HEADERS
            )

    async def asset(request: Request) -> Response:
        name: str = request.path_params["name"]
        if name not in assets():
            raise HTTPException(404)
        return read_asset(name).response(request)

    return [Route("/graphiql", page), Mount("/graphiql/assets", routes=[Route("/{name}", asset)])]
