"""Assembles responses: data, errors and extensions as JSON."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from graphql import GraphQLError

from gateway.graphql.error_format import RequestError, format_error, format_request_error
from gateway.graphql.execution.root_fields import RootField
from gateway.graphql.requests import GraphQLResponse
from gateway.reads.selection import Field


def compiled_response(
    roots: Sequence[RootField], values: dict[str, Any], extensions: Mapping[str, Any] | None
) -> GraphQLResponse:
    """The response that graphql-core would return: a failed root field is null, or `data` is if it is non-null."""
    errors: list[GraphQLError] = []
    data: dict[str, Any] | None = values
    for root in roots:
        value = values[root.field.key]
        if isinstance(value, Exception):
            errors.append(error_at_root(value, root.field))
            values[root.field.key] = None
            if root.required:
                data = None
                break  # errors of later root fields are not reported
    return response(data, errors, extensions)


def response(
    data: Any, errors: Sequence[GraphQLError], extensions: Mapping[str, Any] | None, *, event: str | None = None
) -> GraphQLResponse:
    """The response of an operation that was executed. `event`: see GraphQLResponse."""
    body = {"errors": [format_error(error) for error in errors], "data": data} if errors else {"data": data}
    if extensions:
        body["extensions"] = extensions
    return GraphQLResponse(orjson.dumps(body, option=orjson.OPT_UTC_Z), ran=True, event=event)


def error_at_root(error: Exception, field: Field) -> GraphQLError:
    """The error with the path of the root field, and with its location unless it has one."""
    if isinstance(error, GraphQLError):
        nodes = error.nodes or [field.ast_node]
        return GraphQLError(error.message, nodes=nodes, path=[field.key], original_error=error.original_error)
    return GraphQLError(str(error), nodes=[field.ast_node], path=[field.key], original_error=error)


def request_error_response(error: RequestError | GraphQLError, *, method_not_allowed: bool = False) -> GraphQLResponse:
    """The response without `data`, to a request that cannot be executed."""
    errors = error.formatted if isinstance(error, RequestError) else [format_request_error(error)]
    return errors_response(errors, method_not_allowed=method_not_allowed)


def errors_response(
    errors: Sequence[Mapping[str, Any]], *, event: str | None = None, method_not_allowed: bool = False
) -> GraphQLResponse:
    """The response that consists of these formatted errors, without `data`."""
    body = orjson.dumps({"errors": list(errors)})
    return GraphQLResponse(body, ran=False, event=event, method_not_allowed=method_not_allowed)
