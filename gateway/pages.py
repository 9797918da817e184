"""The small pages: where to go, the schema as a file, and whether the gateway is well."""

import hashlib
import logging

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from gateway.api.schema import print_sdl
from gateway.store.database import Database

log = logging.getLogger(__name__)

PLACES = {
    "/graphiql": "explore the API in a browser",
    "/graphql": "the API: GraphQL by HTTP, WebSocket and server-sent events",
    "/schema.graphql": "the schema",
    "/api": "ManageIQ's REST routes for snapshots",
    "/healthz": "whether the process runs",
    "/readyz": "whether it can serve",
}


def page_routes(database: Database) -> list[BaseRoute]:
    """`/`, `/schema.graphql`, `/healthz` and `/readyz`."""
    sdl = print_sdl().encode()
    tag = f'"{hashlib.sha256(sdl).hexdigest()[:32]}"'

    async def start(_request: Request) -> Response:
        return PlainTextResponse(
            "Snapshot gateway\n\n" + "".join(f"{path:<17}{what}\n" for path, what in PLACES.items())
        )

    async def schema(request: Request) -> Response:
        headers = {"etag": tag, "cache-control": "no-cache"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(sdl, media_type="application/graphql; charset=utf-8", headers=headers)

    async def healthy(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(_request: Request) -> Response:
        try:
            await database.check()
        except Exception:
            log.warning("the database does not answer", exc_info=True)
            return JSONResponse({"status": "unavailable", "database": "does not answer"}, status_code=503)
        return JSONResponse({"status": "ok", "database": "ok"})

    return [
        Route("/", start),
        Route("/schema.graphql", schema),
        Route("/healthz", healthy),
        Route("/readyz", ready),
    ]
