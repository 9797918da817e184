"""GraphQL over HTTP (draft of 2026-08) at one URL: queries and mutations by POST, queries by GET, subscriptions by SSE.

A raw ASGI application, because every request passes here and Starlette's `Request` is not needed.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from starlette.types import Receive, Scope, Send

from gateway.access.admission import Admission
from gateway.access.caller import Caller
from gateway.access.origin import origin_of
from gateway.deadlines import Deadline
from gateway.errors import GatewayError
from gateway.graphql.error_format import error_body
from gateway.graphql.requests import (
    Authenticate,
    Executor,
    GraphQLRequest,
    may_hold_mutation,
    may_hold_subscription,
    parse_json_request,
    parse_url_request,
)
from gateway.graphql.transports.sse import EventStreams, single_response
from gateway.graphql.transports.streams import wait_for_expiry
from gateway.http.body import ClientDisconnected, read_body
from gateway.http.client_disconnect import DisconnectWatcher
from gateway.http.errors import HttpError
from gateway.http.load_shedding import LoopTurns
from gateway.http.negotiation import JSON_TYPE, RESPONSE_TYPE, Accepted, accepted
from gateway.http.request_id import request_id
from gateway.http.scope import headers_of
from gateway.models import Surface

MAX_QUERY_STRING = 32_768  # bytes; longer requests must be sent by POST

_METHODS = b"GET, HEAD, POST, OPTIONS"
_CONTENT_TYPES = {name: f"{name}; charset=utf-8".encode() for name in (JSON_TYPE, RESPONSE_TYPE)}
_VARY = (b"vary", b"Accept")
_NO_STORE = (b"cache-control", b"no-store")  # the response depends on the caller's rights, which can change

log = logging.getLogger(__name__)


class GraphQLEndpoint:
    """An ASGI application for HTTP scopes. `gateway.http.middleware` passes it every request to `/graphql`."""

    def __init__(
        self,
        executor: Executor,
        authenticate: Authenticate,
        admission: Admission,
        events: EventStreams,
        *,
        max_body_bytes: int,
        body_timeout: float,
        turns: LoopTurns,
        page: str = "/graphiql",
        on_rejection: Callable[[int], None] = lambda _status: None,
    ) -> None:
        """`on_rejection` is called with the HTTP status of each request that is rejected before GraphQL sees it."""
        self._executor = executor
        self._authenticate = authenticate
        self._admission = admission
        self._disconnects = DisconnectWatcher()
        self._events = events
        self._max_body_bytes = max_body_bytes
        self._body_deadline = Deadline(body_timeout)
        self._turns = turns
        self._page = page
        self._on_rejection = on_rejection

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = headers_of(scope)
        accepts = accepted(headers.get(b"accept", b""))
        try:
            await self._serve(scope, headers, accepts, receive, send)
        except ClientDisconnected:
            return
        except HttpError as error:
            await self._reject(send, accepts, error)
        except GatewayError as error:
            await self._reject(send, accepts, HttpError.of(error))
        except Exception:
            id_ = request_id(scope)
            log.exception("Request failed request_id=%s", id_)
            await self._reject(send, accepts, HttpError.internal(id_))

    async def _serve(
        self, scope: Scope, headers: dict[bytes, bytes], accepts: Accepted, receive: Receive, send: Send
    ) -> None:
        method = scope["method"]
        if method == "POST":
            caller = await self._admit(scope, accepts)
            body = await read_body(headers, receive, self._max_body_bytes, self._body_deadline, json_only=True)
            await self._turns.take()
            request = parse_json_request(body)
        elif method in {"GET", "HEAD"}:
            query_string: bytes = scope["query_string"]
            if accepts.page:
                await self._redirect_to_page(scope, query_string, send)
                return
            if len(query_string) > MAX_QUERY_STRING:
                message = f"The query string of the URL is longer than {MAX_QUERY_STRING} bytes. Use POST."
                raise HttpError(414, message)
            caller = await self._admit(scope, accepts)
            await self._turns.take()
            request = parse_url_request(query_string)
        elif method == "OPTIONS":
            await _respond(send, 204, None, b"", [(b"allow", _METHODS), (b"accept-post", b"application/json")])
            return
        else:
            message = f"The method {method} is not supported. Use POST, or GET for queries."
            raise HttpError(405, message, headers=[(b"allow", _METHODS)])
        if b"last-event-id" in headers:
            extensions = {"lastEventId": headers[b"last-event-id"].decode("latin-1"), **request.extensions}
            request = replace(request, extensions=extensions)
        await self._execute(scope, receive, send, request=request, caller=caller, accepts=accepts)

    async def _admit(self, scope: Scope, accepts: Accepted) -> Caller:
        """Authenticates the caller and applies its quota, before the body is read.

        Raises HttpError 406, Unauthenticated, Forbidden and LimitExceeded.
        """
        if accepts.media_type is None and not accepts.events:
            supported = f"`{RESPONSE_TYPE}`, `{JSON_TYPE}` or, for subscriptions, `text/event-stream`"
            raise HttpError(406, f"`Accept` has no supported media type. Accept {supported}.")
        caller = await self._authenticate(scope, {})
        self._admission.admit(scope, caller)
        return caller

    async def _execute(
        self, scope: Scope, receive: Receive, send: Send, *, request: GraphQLRequest, caller: Caller, accepts: Accepted
    ) -> None:
        if may_hold_subscription(request) and await self._executor.kind(request) == "subscription":
            if not accepts.events or scope["method"] == "HEAD":
                raise HttpError(
                    406,
                    "A subscription requires a streaming transport: WebSocket with the subprotocol"
                    " `graphql-transport-ws`, or server-sent events with `Accept: text/event-stream`.",
                )
            # urql accepts events at every request, so this alone does not mean that the client only reads events.
            accepts_json = accepts.media_type is not None
            with self._admission.event_stream(scope):
                expiry = wait_for_expiry(lambda: self._authenticate(scope, {}), caller, self._events.recheck_interval)
                responses = self._executor.subscribe(request, caller)
                error = await self._events.serve(
                    responses, request_id(scope), receive, send, accepts_json=accepts_json, expiry=expiry
                )
            if error is not None:
                await _respond(send, 400, accepts.media_type, error.body)
            return
        origin = origin_of(scope, Surface.GRAPHQL)
        execution = self._executor.execute(request, caller, origin, queries_only=scope["method"] != "POST")
        # A mutation that has started runs to its end, also if the client disconnects.
        response = await (execution if may_hold_mutation(request) else self._disconnects.run(execution, receive))
        if response.method_not_allowed:
            await _respond(send, 405, accepts.media_type, response.body, [(b"allow", b"POST")])
        elif accepts.media_type is None:
            await self._events.serve(single_response(response), request_id(scope), receive, send, accepts_json=False)
        else:
            # Clients that accept only `application/json` take any status but 200 for a network error.
            status = 200 if response.ran or not accepts.strict else 400
            await _respond(send, status, accepts.media_type, response.body)

    async def _reject(self, send: Send, accepts: Accepted, error: HttpError) -> None:
        self._on_rejection(error.status)
        await _respond(send, error.status, accepts.media_type, error_body(error), error.headers)

    async def _redirect_to_page(self, scope: Scope, query_string: bytes, send: Send) -> None:
        location = (scope.get("root_path", "") + self._page).encode("latin-1")
        if query_string:
            location += b"?" + query_string
        await _respond(send, 303, None, b"", [(b"location", location), _VARY])


async def _respond(
    send: Send,
    status: int,
    media_type: str | None,
    body: bytes,
    extra_headers: Sequence[tuple[bytes, bytes]] = (),
) -> None:
    """Sends a whole response. A body without a `media_type` is sent as `application/json`."""
    headers = [*extra_headers]
    if body:
        headers.append((b"content-type", _CONTENT_TYPES[media_type or JSON_TYPE]))
        headers.append((b"content-length", str(len(body)).encode()))
        headers += (_VARY, _NO_STORE)
    elif status != 204:
        headers.append((b"content-length", b"0"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
