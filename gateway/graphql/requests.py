"""The GraphQL request and response that all transports share, and the executor interface. Independent of the schema."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol
from urllib.parse import parse_qsl

import orjson
from starlette.types import Scope

from gateway.access.caller import Caller
from gateway.access.origin import RequestOrigin
from gateway.http.errors import HttpError

OperationType = Literal["query", "mutation", "subscription"]

# Returns the caller. Arguments: the ASGI scope of the request or of the WebSocket handshake, and the payload of
# `connection_init` (empty over HTTP). Raises Unauthenticated or Forbidden.
Authenticate = Callable[[Scope, Mapping[str, Any]], Awaitable[Caller]]

_PARAMETERS = frozenset({"query", "documentId", "operationName", "variables", "extensions"})


@dataclass(frozen=True, slots=True)
class GraphQLRequest:
    """The parameters of one request. A null or absent parameter is empty; `query` is also empty for a document id."""

    query: str
    operation_name: str | None = None
    variables: dict[str, Any] = field(default_factory=dict)
    extensions: dict[str, Any] = field(default_factory=dict)
    document_id: str | None = None  # id of a persisted document, instead of `query`


@dataclass(frozen=True, slots=True)
class GraphQLResponse:
    """One GraphQL response. `ran` is False for a request error, which has no `data`.

    `event` is the id of the event after which a subscription can be resumed. None leaves the last id unchanged, and
    an empty string means that the subscription cannot be resumed. A response with an empty body carries only `event`.
    """

    body: bytes
    ran: bool
    method_not_allowed: bool = False  # a GET request may only contain a query
    event: str | None = None


class Executor(Protocol):
    """Executes requests. Client errors are returned as responses, never raised, except those named below."""

    async def execute(
        self, request: GraphQLRequest, caller: Caller, origin: RequestOrigin, *, queries_only: bool = False
    ) -> GraphQLResponse:
        """The response to a query or mutation. If `queries_only` is set, any other operation type is refused.

        Raises Throttled when the request is refused because the caller uses its share of the database or of the slots
        for new documents, and Unavailable when it waited too long for such a slot. In both cases nothing was done.
        """

    def subscribe(self, request: GraphQLRequest, caller: Caller) -> AsyncIterator[GraphQLResponse]:
        """The responses of a subscription. If the first is a request error, it is also the last."""

    async def kind(self, request: GraphQLRequest) -> OperationType | None:
        """The type of the operation; None if the request is invalid, in which case `execute` returns the error."""


def parse_json_request(body: bytes) -> GraphQLRequest:
    """Parses a JSON request body. Raises HttpError 400 (GraphQL over HTTP, "JSON Encoding")."""
    try:
        members = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        # Also raised for bytes that are not UTF-8 and for lone surrogates.
        raise HttpError(400, f"The request body is not valid UTF-8 JSON: {error}.") from None
    if isinstance(members, list):
        raise HttpError(400, "The request body is a list. Batching is not supported: send one request per operation.")
    if not isinstance(members, dict):
        raise HttpError(400, "The request body must be a JSON object with the GraphQL document in `query`.")
    return parse_request(members)


def parse_url_request(query_string: bytes) -> GraphQLRequest:
    """Parses the query string of a GET request. Raises HttpError 400 (GraphQL over HTTP, "GET")."""
    try:
        pairs = parse_qsl(query_string.decode("ascii"), keep_blank_values=True, errors="strict")
    except ValueError:
        raise HttpError(400, "The query string of the URL must be percent-encoded UTF-8.") from None
    members: dict[str, Any] = {}
    for name, text in pairs:
        if name not in _PARAMETERS:
            continue
        if name in members:
            raise HttpError(400, f"The URL parameter `{name}` must not be repeated.")
        members[name] = text
    for name in ("variables", "extensions"):
        json = members.pop(name, "")
        if json:
            try:
                members[name] = orjson.loads(json)
            except orjson.JSONDecodeError as error:
                raise HttpError(400, f"The URL parameter `{name}` is not valid JSON: {error}.") from None
    return parse_request(members)


def parse_request(members: Mapping[str, Any]) -> GraphQLRequest:
    """Builds a request from its parameters. Unknown parameters are ignored. Raises HttpError 400 for a wrong type."""
    query, document_id, name = (_text(members, name) for name in ("query", "documentId", "operationName"))
    variables, extensions = _map(members, "variables"), _map(members, "extensions")
    if query is None and document_id is None and "persistedQuery" not in extensions:
        raise HttpError(400, "The parameter `query` is required: it contains the GraphQL document.")
    if document_id is not None and not query:
        query = None  # the npm client graphql-ws always sends `query`
    if query is not None and document_id is not None:
        raise HttpError(400, "Send either `query` or `documentId`, not both.")
    # An operation name is never empty, and over GET an empty parameter means that it is absent.
    return GraphQLRequest(query or "", name or None, variables, extensions, document_id)


def _text(members: Mapping[str, Any], name: str) -> str | None:
    value = members.get(name)
    if value is not None and not isinstance(value, str):
        raise HttpError(
            400, f"The parameter `{name}` must be a string" + (" or null." if name == "operationName" else ".")
        )
    return value


def _map(members: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = members.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise HttpError(400, f"The parameter `{name}` must be an object or null.")
    return value


def may_hold_subscription(request: GraphQLRequest) -> bool:
    """False if the document certainly contains no subscription.

    The keyword cannot be escaped, so that a text search is sufficient and the document need not be parsed.
    """
    return "subscription" in request.query or not request.query


def may_hold_mutation(request: GraphQLRequest) -> bool:
    """False if the document certainly contains no mutation; see `may_hold_subscription`."""
    return "mutation" in request.query or not request.query
