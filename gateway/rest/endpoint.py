"""The REST API as an ASGI application: authenticates, reads the request, and sends the response or the error."""

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from gateway.access.admission import Admission
from gateway.access.caller import Caller
from gateway.access.opaque_tokens import SESSION_PREFIX, WEBSOCKET_PREFIX
from gateway.access.origin import origin_of
from gateway.access.sessions import IDLE_TIMEOUT
from gateway.columns import now
from gateway.deadlines import Deadline
from gateway.errors import ErrorCode, GatewayError, RequestTooLarge
from gateway.http.body import ClientDisconnected, read_body, sends_body
from gateway.http.errors import HttpError
from gateway.http.load_shedding import LoopTurns
from gateway.http.request_id import request_id
from gateway.http.scope import headers_of, path_of
from gateway.models import Surface
from gateway.operations.operation_records import OperationRecords
from gateway.operations.service import Operations
from gateway.rest import responses
from gateway.rest.bodies import parse_body, shown
from gateway.rest.entry_point import product_info
from gateway.rest.errors import RestError, bad_request, error_body, no_route
from gateway.rest.parameters import Query, parameters_of
from gateway.rest.reader import Reader, Requester
from gateway.rest.requests import MAX_QUERY_BYTES, PREFIX, Request, api_root, split_path
from gateway.rest.responses import RestResponse
from gateway.rest.routes import Routes
from gateway.rest.writer import Writer
from gateway.store.database import Database

log = logging.getLogger(__name__)

_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
# By `requester_type` of `/api/auth`. All have the same lifetime; one of `ws` is valid for WebSockets only.
_TOKEN_PREFIXES = {"api": SESSION_PREFIX, "ui": SESSION_PREFIX, "ws": WEBSOCKET_PREFIX}


class Authenticator(Protocol):
    """Authenticates requests, and issues session tokens that replace the caller's credentials."""

    async def authenticate(self, scope: Scope, payload: Mapping[str, Any]) -> Caller:
        """The caller, from the request's headers. `payload` is empty. Raises Unauthenticated or Forbidden."""

    async def create_session(self, caller: Caller, prefix: str) -> str:
        """Issues a token for the caller, of the kind that `prefix` names. Raises Unauthenticated."""

    async def end_session(self, scope: Scope, caller: Caller) -> bool:
        """Revokes the token that authenticated the request. False if the request used other credentials."""


def rest_routes(
    database: Database,
    operations: Operations,
    authenticator: Authenticator,
    admission: Admission,
    *,
    public_url: str | None,
    max_body_bytes: int,
    body_timeout: float,
    max_cost: int,
    turns: LoopTurns,
    middleware: Sequence[Middleware] = (),
) -> list[BaseRoute]:
    """Routes for a Starlette application.

    Links begin with `public_url` or, if that is None, with the scheme and the Host of the request.
    """
    reader = Reader(database, operations, max_cost)
    writer = Writer(operations, OperationRecords(database, operations.refusals), reader)
    routes = Routes(reader, writer, operations.refusals, turns)
    endpoint = RestEndpoint(
        routes,
        authenticator,
        admission,
        public_url=public_url,
        max_body_bytes=max_body_bytes,
        body_timeout=body_timeout,
        turns=turns,
    )
    return [Route(path, admission.wrap(endpoint), middleware=middleware) for path in (PREFIX, PREFIX + "/{path:path}")]


class RestEndpoint:
    """An ASGI application for HTTP scopes."""

    def __init__(
        self,
        routes: Routes,
        authenticator: Authenticator,
        admission: Admission,
        *,
        public_url: str | None,
        max_body_bytes: int,
        body_timeout: float,
        turns: LoopTurns,
    ) -> None:
        self._turns = turns
        self._routes = routes
        self._authenticator = authenticator
        self._admission = admission
        self._public_url = public_url
        self._max_body_bytes = max_body_bytes
        self._body = Deadline(body_timeout)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response = await self._serve(scope, receive)
        except ClientDisconnected:
            return
        except HttpError as error:
            response = _error_response(error)
        except RequestTooLarge as error:  # as every invalid request: it fails again, and a 429 would be retried
            response = _error_response(RestError(400, error.message, ErrorCode.LIMIT_EXCEEDED))
        except GatewayError as error:
            response = _error_response(HttpError.of(error, basic=True))
        except Exception:
            id_ = request_id(scope)
            log.exception("Request failed request_id=%s", id_)
            response = _error_response(HttpError.internal(id_))
        await responses.send_response(send, response)

    async def _serve(self, scope: Scope, receive: Receive) -> RestResponse:
        if (public := _public_response(scope)) is not None:
            return public
        headers = headers_of(scope)
        caller = await self._authenticator.authenticate(scope, {})
        self._admission.admit(scope, caller)
        request = await self._request(scope, receive, headers, caller)
        if request.segments == ("auth",):
            return await self._auth(request, scope)
        return await self._routes.serve(request)

    async def _request(self, scope: Scope, receive: Receive, headers: dict[bytes, bytes], caller: Caller) -> Request:
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        body = b""
        if method in _WITH_BODY or sends_body(headers):
            # As in ManageIQ, the body is JSON whatever its `Content-Type` says.
            body = await read_body(headers, receive, self._max_body_bytes, self._body, json_only=False)
        await self._turns.take()
        members = parse_body(body)
        if members and method not in _WITH_BODY:  # clients send `{}` with DELETE
            raise bad_request(f"The body of a {method} request must be empty. Send parameters in the URL.")
        query_string: bytes = scope["query_string"]
        if len(query_string) > MAX_QUERY_BYTES:
            raise RestError(414, f"The URL's query is longer than {MAX_QUERY_BYTES} bytes.")
        path = path_of(scope)
        version, segments = split_path(path)
        root = api_root(scope, headers, self._public_url)
        base = root if version is None else f"{root}/v{version}"
        return Request(
            method=method,
            path=path,
            segments=segments,
            query=Query(query_string, parameters_of(method, segments)),
            members=members,
            headers=headers,
            requester=Requester(caller, origin_of(scope, Surface.REST), base),
            root=root,
        )

    async def _auth(self, request: Request, scope: Scope) -> RestResponse:
        """Issues a token that replaces the caller's credentials, or revokes the one that authenticated the request."""
        caller = request.requester.caller
        match request.method:
            case "GET" | "POST":
                return await self._create_session(request)
            case "DELETE":
                if not await self._authenticator.end_session(scope, caller):
                    raise bad_request("Only a token that /api/auth issued can be revoked here.")
                return RestResponse(status=204)
            case _:
                raise no_route(request.method, request.path)

    async def _create_session(self, request: Request) -> RestResponse:
        caller, requester_type = request.requester.caller, _requester_type(request)
        expires = now() + IDLE_TIMEOUT
        if caller.expires_at is not None:
            expires = min(expires, datetime.fromtimestamp(caller.expires_at, UTC))
        body = {
            "auth_token": await self._authenticator.create_session(caller, _TOKEN_PREFIXES[requester_type]),
            "token_ttl": int(IDLE_TIMEOUT.total_seconds()),
            "expires_on": f"{expires:%Y-%m-%dT%H:%M:%SZ}",
        }
        return responses.json(body if requester_type == "api" else body | {"requester_type": requester_type})


def _public_response(scope: Scope) -> RestResponse | None:
    """The response to a request that needs no credentials and reads nothing, as in ManageIQ; None for any other one."""
    if scope["method"] not in ("GET", "HEAD"):
        return None
    try:
        _, segments = split_path(path_of(scope))
    except RestError:  # such as an unknown version, which is reported to callers only
        return None
    match segments:
        case ("ping",):
            return responses.plain_text("pong")
        case ("product_info",):
            return responses.json(product_info())
        case _:
            return None


def _requester_type(request: Request) -> str:
    """The kind of token that a request to `/api/auth` asks for. Raises RestError for an unknown one."""
    query = request.query
    given = query.get("requester_type") if query.has("requester_type") else request.members.get("requester_type", "api")
    if not isinstance(given, str) or given not in _TOKEN_PREFIXES:
        valid = ", ".join(_TOKEN_PREFIXES)
        raise bad_request(f"Invalid requester_type {shown(given)} specified, valid types are: {valid}")
    return given


def _error_response(error: HttpError) -> RestResponse:
    return RestResponse(error_body(error), error.status, error.headers)
