"""A GraphQL request as every transport reads it, and the executor that all of them talk to. Knows no schema."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol
from urllib.parse import parse_qsl

import orjson
from starlette.types import Scope

from gateway.access.caller import Caller
from gateway.access.origin import RequestOrigin
from gateway.http.errors import HttpError

OperationKind = Literal["query", "mutation", "subscription"]

# Who is asking: the scope of the request or of the handshake, and what `connection_init` carried (nothing over HTTP).
# Raises Unauthenticated or Forbidden.
Authenticate = Callable[[Scope, Mapping[str, Any]], Awaitable[Caller]]

_PARAMETERS = frozenset({"query", "documentId", "operationName", "variables", "extensions"})


@dataclass(frozen=True, slots=True)
class GraphQLRequest:
    """The parameters of one request; what was null or absent is empty, the query also where another names it."""

    query: str
    operation_name: str | None = None
    variables: dict[str, Any] = field(default_factory=dict)
    extensions: dict[str, Any] = field(default_factory=dict)
    document_id: str | None = None  # of a persisted document, instead of the query


@dataclass(frozen=True, slots=True)
class Answer:
    """One GraphQL response. `ran` is False for a request error, which has no `data`.

    Of a subscription, `event` is where it can be taken up again: None changes nothing, an empty one means nowhere. An
    answer without a body tells only that.
    """

    body: bytes
    ran: bool
    refused_method: bool = False  # only a query may come by GET
    event: str | None = None


class Executor(Protocol):
    """Runs requests. Raises nothing that a client could cause."""

    async def execute(
        self, request: GraphQLRequest, caller: Caller, origin: RequestOrigin, *, queries_only: bool = False
    ) -> Answer:
        """The answer to a query or a mutation; with `queries_only` anything else is refused."""

    def subscribe(self, request: GraphQLRequest, caller: Caller) -> AsyncIterator[Answer]:
        """The answers of a subscription; the first may be a request error, and is then the last."""

    def kind(self, request: GraphQLRequest) -> OperationKind | None:
        """What would run; None if that cannot be told, for which `execute` gives the error."""


def request_from_json(body: bytes) -> GraphQLRequest:
    """The request in a JSON body. Raises HttpError (GraphQL-over-HTTP, "JSON Encoding")."""
    try:
        members = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        # Bytes that are not UTF-8 and lone surrogates end here too.
        raise HttpError(400, f"The body is not JSON in UTF-8: {error}.") from None
    if isinstance(members, list):
        raise HttpError(400, "The body is a list: batches are not served. Send one request per operation.")
    if not isinstance(members, dict):
        raise HttpError(400, "The body must be a JSON object with the GraphQL document in `query`.")
    return request_from(members)


def request_from_url(query_string: bytes) -> GraphQLRequest:
    """The request in a URL. Raises HttpError (GraphQL-over-HTTP, "GET")."""
    try:
        pairs = parse_qsl(query_string.decode("ascii"), keep_blank_values=True, errors="strict")
    except ValueError:
        raise HttpError(400, "The query of the URL must be percent-encoded UTF-8.") from None
    members: dict[str, Any] = {}
    for name, text in pairs:
        if name not in _PARAMETERS:
            continue
        if name in members:
            raise HttpError(400, f"`{name}` is in the URL more than once.")
        members[name] = text
    for name in ("variables", "extensions"):
        json = members.pop(name, "")
        if json:
            try:
                members[name] = orjson.loads(json)
            except orjson.JSONDecodeError as error:
                raise HttpError(400, f"`{name}` in the URL is not JSON: {error}.") from None
    return request_from(members)


def request_from(members: Mapping[str, Any]) -> GraphQLRequest:
    """The request that `members` describe; members it does not know are ignored. Raises HttpError for a wrong type."""
    query, document_id, name = (_text(members, name) for name in ("query", "documentId", "operationName"))
    variables, extensions = _map(members, "variables"), _map(members, "extensions")
    if query is None and document_id is None and "persistedQuery" not in extensions:
        raise HttpError(400, "`query` is missing: it holds the GraphQL document.")
    if document_id is not None and not query:
        query = None  # the npm client graphql-ws cannot leave it out
    if query is not None and document_id is not None:
        raise HttpError(400, "Send `query` or `documentId`, not both: they could be two documents.")
    # No operation has an empty name, and by GET an empty one means none.
    return GraphQLRequest(query or "", name or None, variables, extensions, document_id)


def _text(members: Mapping[str, Any], name: str) -> str | None:
    value = members.get(name)
    if value is not None and not isinstance(value, str):
        raise HttpError(400, f"`{name}` must be a string" + (" or null." if name == "operationName" else "."))
    return value


def _map(members: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = members.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise HttpError(400, f"`{name}` must be an object or null.")
    return value


def may_subscribe(request: GraphQLRequest) -> bool:
    """False if `request` holds no subscription: the keyword cannot be escaped, and looking for it needs no parser."""
    return "subscription" in request.query or not request.query


def may_change(request: GraphQLRequest) -> bool:
    """False if `request` holds no mutation, told in the same way."""
    return "mutation" in request.query or not request.query
