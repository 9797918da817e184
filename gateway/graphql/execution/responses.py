"""Assembles responses: data, errors and extensions as JSON."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from graphql import GraphQLError

from gateway.graphql.error_format import RequestError, format_error, format_request_error
from gateway.graphql.execution.field_errors import error_at, place_errors
from gateway.graphql.requests import GraphQLResponse
from gateway.reads.selection import Field
from gateway.reads.serialization import dump_in_slices

_OPTIONS = orjson.OPT_UTC_Z | orjson.OPT_PASSTHROUGH_DATACLASS  # an exception may be a dataclass, and is no value


def compiled_response(
    fields: Sequence[Field],
    values: dict[str, Any],
    extensions: Mapping[str, Any] | None,
    *,
    event: str | None = None,
) -> GraphQLResponse:
    """The response that graphql-core would return for root `fields` with these values."""
    try:
        return response(values, (), extensions, event=event)
    except orjson.JSONEncodeError:  # the value of a field that failed is an exception, which only then is searched for
        data, errors = place_errors(fields, values)
        return response(data, errors, extensions, event=event)


async def sliced_response(
    fields: Sequence[Field], values: dict[str, Any], extensions: Mapping[str, Any] | None
) -> GraphQLResponse:
    """The same as `compiled_response`, for values that may be large: other tasks run in between."""
    body = {"data": values} | ({"extensions": extensions} if extensions else {})
    try:
        return GraphQLResponse(await dump_in_slices(body, _OPTIONS), ran=True)
    except orjson.JSONEncodeError:
        return compiled_response(fields, values, extensions)


def response(
    data: Any, errors: Sequence[GraphQLError], extensions: Mapping[str, Any] | None, *, event: str | None = None
) -> GraphQLResponse:
    """The response of an operation that was executed. `event`: see GraphQLResponse."""
    body = {"errors": [format_error(error) for error in errors], "data": data} if errors else {"data": data}
    if extensions:
        body["extensions"] = extensions
    return GraphQLResponse(orjson.dumps(body, option=_OPTIONS), ran=True, event=event)


def error_at_root(error: Exception, field: Field) -> GraphQLError:
    """The error with the path of the root field, and with its location unless it has one."""
    return error_at(error, field, (field.key,))


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
