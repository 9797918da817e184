"""The REST API as an ASGI application: who is asking, what they sent, and what is sent back, faults included."""

import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from gateway.access.caller import Caller
from gateway.columns import now
from gateway.errors import RETRY_SECONDS, GatewayError
from gateway.operations.service import Operations
from gateway.rest import answers
from gateway.rest.answers import Answer
from gateway.rest.bodies import parse_body
from gateway.rest.faults import Fault, internal, no_route
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
from gateway.rest.routes import Routes
from gateway.rest.tokens import TTL, Tokens
from gateway.rest.writing import Writer
from gateway.store.database import Database

# Who sends a request, by its headers. Raises Unauthenticated or Forbidden.
Authenticate = Callable[[Scope], Awaitable[Caller]]

_TOKEN = b"x-auth-token"
RETRY_AFTER = (b"retry-after", b"%d" % RETRY_SECONDS)

log = logging.getLogger(__name__)


def rest_routes(
    database: Database,
    operations: Operations,
    authenticate: Authenticate,
    *,
    public_url: str | None,
    max_body_bytes: int,
) -> list[BaseRoute]:
    """For a Starlette application. `public_url` begins every link; None: the address that a request came in at."""
    reader = Reader(database, operations)
    routes = Routes(reader, Writer(operations, reader))
    endpoint = RestEndpoint(routes, authenticate, Tokens(), public_url, max_body_bytes)
    return [Route(PREFIX, endpoint), Route(PREFIX + "/{path:path}", endpoint)]


class RestEndpoint:
    """An ASGI application for HTTP scopes."""

    def __init__(
        self, routes: Routes, authenticate: Authenticate, tokens: Tokens, public_url: str | None, max_body_bytes: int
    ) -> None:
        self._routes = routes
        self._authenticate = authenticate
        self._tokens = tokens
        self._public_url = public_url
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            answer = await self._serve(scope, receive)
        except ClientGone:
            return
        except Fault as fault:
            answer = _refusal(fault)
        except GatewayError as error:
            answer = _refusal(Fault.of(error))
        except Exception:
            request_id = str(scope.get("state", {}).get("request_id", "-"))
            log.exception("a request failed, request id %s", request_id)
            answer = _refusal(internal(request_id))
        await answers.reply(send, answer)

    async def _serve(self, scope: Scope, receive: Receive) -> Answer:
        headers = headers_of(scope)
        token = headers.get(_TOKEN, b"").decode("latin-1")
        caller = self._tokens.caller(token) if token else None
        if caller is None:
            caller = await self._authenticate(scope)
        request = await self._request(scope, receive, headers, caller)
        if request.segments == ("auth",):
            return self._auth(request, token)
        return await self._routes.serve(request)

    async def _request(self, scope: Scope, receive: Receive, headers: dict[bytes, bytes], caller: Caller) -> Request:
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        members: dict[str, Any] = {}
        if method in ("POST", "PUT", "PATCH"):
            members = parse_body(await read_body(receive, self._max_body_bytes))
        query_string: bytes = scope["query_string"]
        if len(query_string) > QUERY_LIMIT:
            raise Fault(414, "uri_too_long", f"The query is longer than {QUERY_LIMIT} bytes", "Api::BadRequestError")
        path = path_of(scope)
        version, segments = split_path(path)
        root = root_of(scope, self._public_url)
        base = root if version is None else f"{root}/v{version}"
        return Request(method, path, segments, Query(query_string), members, headers, Asker(caller, base), root)

    def _auth(self, request: Request, token: str) -> Answer:
        """Gives a token to use instead of credentials, or takes the one back that the request came with."""
        match request.method:
            case "GET" | "POST":
                expires = now().replace(microsecond=0) + timedelta(seconds=TTL)
                issued = self._tokens.issue(request.asker.caller)
                return answers.json(
                    {"auth_token": issued, "token_ttl": TTL, "expires_on": f"{expires:%Y-%m-%dT%H:%M:%SZ}"}
                )
            case "DELETE":
                self._tokens.revoke(token)
                return Answer(status=204)
            case _:
                raise no_route(request.method, request.path)


def _refusal(fault: Fault) -> Answer:
    return Answer(fault.body(), fault.status, [RETRY_AFTER] if fault.retry else [])
