"""The REST API as an ASGI application: who is asking, what they sent, and what is sent back, faults included."""

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from gateway.access.admission import Admission
from gateway.access.caller import Caller
from gateway.access.origin import origin_of
from gateway.access.sessions import TTL
from gateway.columns import now
from gateway.deadlines import Deadline
from gateway.errors import GatewayError
from gateway.models import Surface
from gateway.operations.service import Operations
from gateway.rest import responses
from gateway.rest.bodies import parse_body
from gateway.rest.errors import RestError, bad_request, internal, no_route
from gateway.rest.query import Query
from gateway.rest.reading import Asker, Reader
from gateway.rest.requests import (
    PREFIX,
    QUERY_LIMIT,
    ClientGone,
    Request,
    headers_of,
    path_of,
    read_body,
    root_of,
    split_path,
)
from gateway.rest.responses import Answer
from gateway.rest.routes import Routes
from gateway.rest.writing import Writer
from gateway.store.database import Database

log = logging.getLogger(__name__)


class Authenticator(Protocol):
    """Who sends a request, and tokens that they may use instead of their credentials."""

    async def authenticate(self, scope: Scope, payload: Mapping[str, Any]) -> Caller:
        """By its headers; the payload is empty. Raises Unauthenticated or Forbidden."""

    async def begin_session(self, caller: Caller) -> str:
        """A token for them. Raises Unauthenticated."""

    async def end_session(self, scope: Scope, caller: Caller) -> bool:
        """Takes the token back that their request came with; False when it came with something else."""


def rest_routes(
    database: Database,
    operations: Operations,
    authenticator: Authenticator,
    admission: Admission,
    *,
    public_url: str | None,
    max_body_bytes: int,
    body_timeout: float,
    middleware: Sequence[Middleware] = (),
) -> list[BaseRoute]:
    """For a Starlette application. `public_url` begins every link; None: the address that a request came in at."""
    reader = Reader(database, operations)
    routes = Routes(reader, Writer(operations, reader), operations.refusals)
    endpoint = admission.guarded(
        RestEndpoint(routes, authenticator, admission, public_url, max_body_bytes, body_timeout)
    )
    return [Route(path, endpoint, middleware=middleware) for path in (PREFIX, PREFIX + "/{path:path}")]


class RestEndpoint:
    """An ASGI application for HTTP scopes."""

    def __init__(
        self,
        routes: Routes,
        authenticator: Authenticator,
        admission: Admission,
        public_url: str | None,
        max_body_bytes: int,
        body_timeout: float,
    ) -> None:
        self._routes = routes
        self._authenticator = authenticator
        self._admission = admission
        self._public_url = public_url
        self._max_body_bytes = max_body_bytes
        self._body = Deadline(body_timeout)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            answer = await self._serve(scope, receive)
        except ClientGone:
            return
        except RestError as fault:
            answer = _refusal(fault)
        except GatewayError as error:
            answer = _refusal(RestError.of(error))
        except Exception:
            request_id = str(scope.get("state", {}).get("request_id", "-"))
            log.exception("a request failed, request id %s", request_id)
            answer = _refusal(internal(request_id))
        await responses.reply(send, answer)

    async def _serve(self, scope: Scope, receive: Receive) -> Answer:
        headers = headers_of(scope)
        caller = await self._authenticator.authenticate(scope, {})
        self._admission.admit(scope, caller)
        request = await self._request(scope, receive, headers, caller)
        if request.segments == ("auth",):
            return await self._auth(request, scope)
        return await self._routes.serve(request)

    async def _request(self, scope: Scope, receive: Receive, headers: dict[bytes, bytes], caller: Caller) -> Request:
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        members: dict[str, Any] = {}
        if method in ("POST", "PUT", "PATCH"):
            members = parse_body(await read_body(headers, receive, self._max_body_bytes, self._body))
        query_string: bytes = scope["query_string"]
        if len(query_string) > QUERY_LIMIT:
            raise RestError(
                414, "uri_too_long", f"The query is longer than {QUERY_LIMIT} bytes", "Api::BadRequestError"
            )
        path = path_of(scope)
        version, segments = split_path(path)
        root = root_of(scope, self._public_url)
        base = root if version is None else f"{root}/v{version}"
        asker = Asker(caller, origin_of(scope, Surface.REST), base)
        return Request(method, path, segments, Query(query_string), members, headers, asker, root)

    async def _auth(self, request: Request, scope: Scope) -> Answer:
        """Gives a token to use instead of credentials, or takes the one back that the request came with."""
        caller = request.asker.caller
        match request.method:
            case "GET" | "POST":
                expires = now() + TTL
                if caller.expires_at is not None:
                    expires = min(expires, datetime.fromtimestamp(caller.expires_at, UTC))
                return responses.json(
                    {
                        "auth_token": await self._authenticator.begin_session(caller),
                        "token_ttl": int(TTL.total_seconds()),
                        "expires_on": f"{expires:%Y-%m-%dT%H:%M:%SZ}",
                    }
                )
            case "DELETE":
                if not await self._authenticator.end_session(scope, caller):
                    raise bad_request("Only a token that /api/auth has given can be taken back here")
                return Answer(status=204)
            case _:
                raise no_route(request.method, request.path)


def _refusal(fault: RestError) -> Answer:
    return Answer(fault.body(), fault.status, fault.headers)
