"""GraphQL over HTTP (draft of 2026-08) at one URL: JSON by POST, queries by GET, events where a client asks for them.

A raw ASGI application: every request passes here, and what Starlette's Request would add is not needed.
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
from gateway.graphql.requests import (
    Authenticate,
    Executor,
    GraphQLRequest,
    may_change,
    may_subscribe,
    request_from_json,
    request_from_url,
)
from gateway.graphql.transports.credentials_expiry import credentials_end
from gateway.graphql.transports.sse import EventStreams, one
from gateway.http.body import ClientGone, read_json_body
from gateway.http.client_disconnect import Reads
from gateway.http.errors import HttpError
from gateway.http.negotiation import JSON_TYPE, RESPONSE_TYPE, Accepted, accepted
from gateway.http.request_id import request_id
from gateway.models import Surface

URL_LIMIT = 32_768  # bytes of a URL's query; what is longer belongs in a body

_METHODS = b"GET, HEAD, POST, OPTIONS"
_CONTENT_TYPES = {name: f"{name}; charset=utf-8".encode() for name in (JSON_TYPE, RESPONSE_TYPE)}
_VARY = (b"vary", b"Accept")
_NO_STORE = (b"cache-control", b"no-store")  # what one caller may see now, another may not, or not any more

log = logging.getLogger(__name__)


class GraphQLEndpoint:
    """An ASGI application for HTTP scopes; `middleware` hands it every request to `/graphql`."""

    def __init__(
        self,
        executor: Executor,
        authenticate: Authenticate,
        admission: Admission,
        events: EventStreams,
        *,
        max_body_bytes: int,
        body_timeout: float,
        page: str = "/graphiql",
        refused: Callable[[int], None] = lambda _status: None,
    ) -> None:
        """`refused` is told the status of what never was GraphQL."""
        self._executor = executor
        self._authenticate = authenticate
        self._admission = admission
        self._reads = Reads()
        self._events = events
        self._max_body_bytes = max_body_bytes
        self._body = Deadline(body_timeout)
        self._page = page
        self._refused = refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = _headers(scope)
        wants = accepted(headers.get(b"accept", b""))
        try:
            await self._serve(scope, headers, wants, receive, send)
        except ClientGone:
            return
        except HttpError as fault:
            await self._refuse(send, wants, fault)
        except GatewayError as error:
            await self._refuse(send, wants, HttpError.of(error))
        except Exception:
            name = request_id(scope)
            log.exception("a request failed, request id %s", name)
            await self._refuse(send, wants, HttpError.internal(name))

    async def _serve(
        self, scope: Scope, headers: dict[bytes, bytes], wants: Accepted, receive: Receive, send: Send
    ) -> None:
        method = scope["method"]
        if method == "POST":
            caller = await self._admit(scope, wants)
            body = await read_json_body(headers, receive, self._max_body_bytes, self._body)
            request = request_from_json(body)
        elif method in {"GET", "HEAD"}:
            query_string: bytes = scope["query_string"]
            if wants.page:
                await self._show_page(scope, query_string, send)
                return
            if len(query_string) > URL_LIMIT:
                raise HttpError(414, f"The URL's query is longer than {URL_LIMIT} bytes: send it by POST.")
            caller = await self._admit(scope, wants)
            request = request_from_url(query_string)
        elif method == "OPTIONS":
            await _reply(send, 204, None, b"", [(b"allow", _METHODS), (b"accept-post", b"application/json")])
            return
        else:
            raise HttpError(405, f"{method} is not served here.", headers=[(b"allow", _METHODS)])
        if b"last-event-id" in headers:
            known = {"lastEventId": headers[b"last-event-id"].decode("latin-1"), **request.extensions}
            request = replace(request, extensions=known)
        await self._run(request, caller, wants, scope, receive, send)

    async def _admit(self, scope: Scope, wants: Accepted) -> Caller:
        """Who is asking, before anything of theirs is read.

        Raises HttpError 406, Unauthenticated, Forbidden and LimitExceeded.
        """
        if wants.media_type is None and not wants.events:
            offered = f"`{RESPONSE_TYPE}`, `{JSON_TYPE}` or, for subscriptions, `text/event-stream`"
            raise HttpError(406, f"Nothing in `Accept` can be served: ask for {offered}.")
        caller = await self._authenticate(scope, {})
        self._admission.admit(scope, caller)
        return caller

    async def _run(
        self, request: GraphQLRequest, caller: Caller, wants: Accepted, scope: Scope, receive: Receive, send: Send
    ) -> None:
        if may_subscribe(request) and self._executor.kind(request) == "subscription":
            if not wants.events or scope["method"] == "HEAD":
                raise HttpError(
                    406,
                    "A subscription needs a stream: WebSocket with the subprotocol `graphql-transport-ws`, "
                    "or server-sent events with `Accept: text/event-stream`.",
                )
            # urql accepts events with every request, so that alone does not ask for a stream.
            reads_json = wants.media_type is not None
            with self._admission.subscribed(scope):
                ends = credentials_end(lambda: self._authenticate(scope, {}), caller, self._events.recheck_after)
                answers = self._executor.subscribe(request, caller)
                refused = await self._events.serve(
                    answers, request_id(scope), receive, send, reads_json=reads_json, ends=ends
                )
            if refused is not None:
                await _reply(send, 400, wants.media_type, refused.body)
            return
        origin = origin_of(scope, Surface.GRAPHQL)
        running = self._executor.execute(request, caller, origin, queries_only=scope["method"] != "POST")
        # What a mutation has begun it ends, whoever is there to hear of it.
        answer = await (running if may_change(request) else self._reads.unless_gone(running, receive))
        if answer.refused_method:
            await _reply(send, 405, wants.media_type, answer.body, [(b"allow", b"POST")])
        elif wants.media_type is None:
            await self._events.serve(one(answer), request_id(scope), receive, send, reads_json=False)
        else:
            # Clients that know only `application/json` take any other status for a failure of the network.
            status = 200 if answer.ran or not wants.strict else 400
            await _reply(send, status, wants.media_type, answer.body)

    async def _refuse(self, send: Send, wants: Accepted, fault: HttpError) -> None:
        self._refused(fault.status)
        await _reply(send, fault.status, wants.media_type, fault.body(), fault.headers)

    async def _show_page(self, scope: Scope, query_string: bytes, send: Send) -> None:
        location = (scope.get("root_path", "") + self._page).encode("latin-1")
        if query_string:
            location += b"?" + query_string
        await _reply(send, 303, None, b"", [(b"location", location), _VARY])


def _headers(scope: Scope) -> dict[bytes, bytes]:
    """The headers by name; a repeated one is a list (RFC 9110, 5.3)."""
    found: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        found[name] = found[name] + b", " + value if name in found else value
    return found


async def _reply(
    send: Send, status: int, media_type: str | None, body: bytes, more: Sequence[tuple[bytes, bytes]] = ()
) -> None:
    headers = [*more]
    if body:
        headers.append((b"content-type", _CONTENT_TYPES[media_type or JSON_TYPE]))
        headers.append((b"content-length", str(len(body)).encode()))
        headers += (_VARY, _NO_STORE)
    elif status != 204:
        headers.append((b"content-length", b"0"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
