"""Plain pages: the list of endpoints, the schema as a file, and the health checks."""

import asyncio
import hashlib
from base64 import b64encode
from collections.abc import Mapping
from html import escape
from types import MappingProxyType

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from gateway.http.health import Health, all_ok
from gateway.http.negotiation import accepted
from gateway.http.scope import headers_of
from gateway.web.memory_file import MemoryFile

_SCHEMA = "/schema.graphql"

ENDPOINTS = {
    "/graphiql": "GraphiQL: explore the API in a browser",
    "/graphql": "GraphQL API over HTTP, WebSocket and server-sent events",
    _SCHEMA: "GraphQL schema (SDL)",
    "/api": "ManageIQ-compatible REST API for snapshots",
    "/healthz": "liveness check",
    "/readyz": "readiness check",
}

# Files of the source repository.
_DOCUMENTS = {
    "README.md": "overview and installation",
    "docs/identity.md": "authentication: tokens and where to send them",
    "docs/graphql.md": "GraphQL: mutations, subscriptions and limits",
    "docs/clients.md": "GraphQL clients and their configuration",
    "docs/manageiq.md": "the REST API",
    "docs/errors.md": "error codes",
    "docs/operating.md": "health checks, metrics and logs",
}

# The system's colors, which have a dark variant and enough contrast in both.
_STYLE = """
:root { color-scheme: light dark; }
body { max-width: 44rem; margin: 2rem auto; padding: 0 1rem; font: 1rem/1.5 system-ui, sans-serif; }
dt { font-family: ui-monospace, monospace; }
dd { margin: 0 0 .5rem 1.5rem; }
"""
_INDEX = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Snapshot gateway</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<main>
<h1>Snapshot gateway</h1>
<p>A GraphQL API for snapshots of virtual machines and cloud instances.</p>
<h2>Endpoints</h2>
<dl>
{endpoints}
</dl>
<p>If users are configured, requests to the APIs require the header <code>Authorization: Bearer TOKEN</code>.
GraphiQL sends the headers that are entered in its editor Headers.</p>
<h2>Documentation</h2>
<p>These files are in the source repository.</p>
<dl>
{documents}
</dl>
</main>
</body>
</html>
"""
_INDEX_POLICY = (
    f"default-src 'none'; style-src 'sha256-{b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def page_routes(health: Health, sdl: str | None) -> list[BaseRoute]:
    """Returns the routes `/`, `/healthz`, `/readyz` and, unless `sdl` is None, `/schema.graphql`."""

    async def healthz(_request: Request) -> Response:
        return _health_response(health.liveness())

    async def readyz(_request: Request) -> Response:
        return _health_response(*await asyncio.gather(health.readiness(), health.job_problems()))

    return [
        _index_route({path: text for path, text in ENDPOINTS.items() if sdl is not None or path != _SCHEMA}),
        *([] if sdl is None else [_schema_route(sdl)]),
        Route("/healthz", healthz),
        Route("/readyz", readyz),
    ]


def _index_route(endpoints: Mapping[str, str]) -> Route:
    """The list of endpoints: a page for browsers, plain text for all other clients."""
    text = "Snapshot gateway\n\n" + "".join(f"{path:<17}{about}\n" for path, about in endpoints.items())
    # Relative links work behind a proxy that serves the gateway below a path.
    links = {f'<a href="{escape(path[1:])}">{escape(path)}</a>': about for path, about in endpoints.items()}
    documents = {escape(name): about for name, about in _DOCUMENTS.items()}
    html = _INDEX.format(style=_STYLE, endpoints=_terms(links), documents=_terms(documents))

    async def index(request: Request) -> Response:
        headers = {"vary": "Accept"}
        if accepted(headers_of(request.scope).get(b"accept", b"")).page:
            return HTMLResponse(html, headers={**headers, "content-security-policy": _INDEX_POLICY})
        return PlainTextResponse(text, headers=headers)

    return Route("/", index)


def _terms(terms: Mapping[str, str]) -> str:
    """Returns the items of a `<dl>`. The keys are HTML, the values text."""
    return "\n".join(f"<dt>{term}</dt><dd>{escape(about)}</dd>" for term, about in terms.items())


def _health_response(states: Mapping[str, str], warnings: Mapping[str, str] = MappingProxyType({})) -> Response:
    """Warnings are shown and change the status in the body, not the one of the response."""
    status, code = ("degraded" if warnings else "ok", 200) if all_ok(states) else ("unavailable", 503)
    return JSONResponse({"status": status, **states, **warnings}, code, {"cache-control": "no-store"})


def _schema_route(sdl: str) -> Route:
    # Browsers display `text/plain`, but download `application/graphql`. Code generators parse the body of any type.
    shown = {"content-disposition": 'inline; filename="schema.graphql"'}
    file = MemoryFile(sdl.encode(), "text/plain", {"cache-control": "no-cache"}, shown)

    async def schema(request: Request) -> Response:
        return file.response(request)

    return Route(_SCHEMA, schema)
