"""The small pages: where to go, the schema as a file, and whether the gateway is well."""

import hashlib
from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from gateway.http.health import Health, well

_SCHEMA = "/schema.graphql"

PLACES = {
    "/graphiql": "explore the API in a browser",
    "/graphql": "the API: GraphQL by HTTP, WebSocket and server-sent events",
    _SCHEMA: "the schema",
    "/api": "ManageIQ's REST routes for snapshots",
    "/healthz": "whether the process runs",
    "/readyz": "whether it can serve",
}


def page_routes(health: Health, sdl: str | None) -> list[BaseRoute]:
    """`/`, `/healthz`, `/readyz` and, unless `sdl` is None, `/schema.graphql`."""
    places = {path: what for path, what in PLACES.items() if sdl is not None or path != _SCHEMA}

    async def start(_request: Request) -> Response:
        return PlainTextResponse(
            "Snapshot gateway\n\n" + "".join(f"{path:<17}{what}\n" for path, what in places.items())
        )

    async def healthy(_request: Request) -> Response:
        return _told(health.alive())

    async def ready(_request: Request) -> Response:
        return _told(await health.ready())

    return [
        Route("/", start),
        *([] if sdl is None else [_schema_route(sdl)]),
        Route("/healthz", healthy),
        Route("/readyz", ready),
    ]


def _told(found: Mapping[str, str]) -> Response:
    status = ("ok", 200) if well(found) else ("unavailable", 503)
    return JSONResponse({"status": status[0], **found}, status[1], {"cache-control": "no-store"})


def _schema_route(sdl: str) -> Route:
    body = sdl.encode()
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'

    async def schema(request: Request) -> Response:
        headers = {"etag": tag, "cache-control": "no-cache"}
        known = {one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")}
        if known & {tag, "*"}:  # the comparison is weak, for proxies that compress (RFC 9110, 13.1.2)
            return Response(status_code=304, headers=headers)
        return Response(body, media_type="application/graphql; charset=utf-8", headers=headers)

    return Route(_SCHEMA, schema)
