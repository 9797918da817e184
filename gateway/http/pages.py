"""Plain pages: the list of endpoints, the schema as a file, and the health checks."""

import asyncio
import hashlib
from collections.abc import Mapping
from types import MappingProxyType

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from gateway.http.health import Health, all_ok

_SCHEMA = "/schema.graphql"

ENDPOINTS = {
    "/graphiql": "GraphiQL: explore the API in a browser",
    "/graphql": "GraphQL API over HTTP, WebSocket and server-sent events",
    _SCHEMA: "GraphQL schema (SDL)",
    "/api": "ManageIQ-compatible REST API for snapshots",
    "/healthz": "liveness check",
    "/readyz": "readiness check",
}


def page_routes(health: Health, sdl: str | None) -> list[BaseRoute]:
    """Returns the routes `/`, `/healthz`, `/readyz` and, unless `sdl` is None, `/schema.graphql`."""
    endpoints = {path: text for path, text in ENDPOINTS.items() if sdl is not None or path != _SCHEMA}

    async def index(_request: Request) -> Response:
        lines = (f"{path:<17}{text}\n" for path, text in endpoints.items())
        return PlainTextResponse("Snapshot gateway\n\n" + "".join(lines))

    async def healthz(_request: Request) -> Response:
        return _health_response(health.liveness())

    async def readyz(_request: Request) -> Response:
        return _health_response(*await asyncio.gather(health.readiness(), health.job_problems()))

    return [
        Route("/", index),
        *([] if sdl is None else [_schema_route(sdl)]),
        Route("/healthz", healthz),
        Route("/readyz", readyz),
    ]


def _health_response(states: Mapping[str, str], warnings: Mapping[str, str] = MappingProxyType({})) -> Response:
    """Warnings are shown and change the status in the body, not the one of the response."""
    status, code = ("degraded" if warnings else "ok", 200) if all_ok(states) else ("unavailable", 503)
    return JSONResponse({"status": status, **states, **warnings}, code, {"cache-control": "no-store"})


def _schema_route(sdl: str) -> Route:
    body = sdl.encode()
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'

    async def schema(request: Request) -> Response:
        headers = {"etag": etag, "cache-control": "no-cache"}
        known = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
        if known & {etag, "*"}:  # a weak comparison, because proxies that compress weaken the tag (RFC 9110, 13.1.2)
            return Response(status_code=304, headers=headers)
        return Response(body, media_type="application/graphql; charset=utf-8", headers=headers)

    return Route(_SCHEMA, schema)
