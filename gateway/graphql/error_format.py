"""Formats top-level GraphQL errors: what is returned to the client, and what is only logged.

An expected error (`GatewayError`) is returned with its message and code. Any other exception is a bug: it is logged
with its traceback, and the client receives a generic message with the request id.
"""

import logging
from collections.abc import Sequence
from typing import Any

import orjson
from graphql import GraphQLError, GraphQLSyntaxError

from gateway.errors import MEANINGS, ErrorCode, GatewayError, internal_message, shortened
from gateway.graphql.input_messages import with_json_null
from gateway.http.errors import ErrorFormat, HttpError
from gateway.http.request_id import REQUEST_ID
from gateway.reads.selection import FieldError

log = logging.getLogger(__name__)

MAX_LOCATIONS = 20  # of one error

VALIDATION_FAILED = "GRAPHQL_VALIDATION_FAILED"
PARSE_FAILED = "GRAPHQL_PARSE_FAILED"
BAD_USER_INPUT = MEANINGS[ErrorCode.INVALID].extensions_code
LIMIT_EXCEEDED = MEANINGS[ErrorCode.LIMIT_EXCEEDED].extensions_code


class RequestError(Exception):
    """The request cannot be executed. The response has `errors` and no `data`; `formatted` is `errors` as JSON."""

    def __init__(self, errors: Sequence[GraphQLError], code: str = BAD_USER_INPUT) -> None:
        super().__init__()
        self.formatted = [format_request_error(error, code) for error in errors]


def format_request_error(error: GraphQLError, code: str = BAD_USER_INPUT) -> dict[str, Any]:
    """An error that was found before execution, as JSON.

    It is always the client's error, also if it wraps an exception that a scalar raised.
    """
    return _with_location(error) | {
        "extensions": {"code": PARSE_FAILED if isinstance(error, GraphQLSyntaxError) else code}
    }


def format_error(error: GraphQLError) -> dict[str, Any]:
    """An error of a field, as JSON. An unexpected exception is logged and masked."""
    cause: BaseException | None = error.original_error
    if isinstance(cause, FieldError):
        cause = cause.error
    if cause is None or isinstance(cause, GraphQLError):
        return format_request_error(error)
    formatted = _with_location(error)
    if isinstance(cause, GatewayError):
        formatted["message"] = shortened(cause.message)
        formatted["extensions"] = {"code": MEANINGS[cause.code].extensions_code}
        if cause.retryable:
            formatted["extensions"]["retryable"] = True
    else:
        request_id = REQUEST_ID.get()
        log.error("Field execution failed request_id=%s", request_id, exc_info=cause)
        formatted["message"] = internal_message(request_id)
        formatted["extensions"] = {"code": MEANINGS[ErrorCode.INTERNAL].extensions_code}
    return formatted


def errors_json(error: HttpError) -> bytes:
    """An error of a request that is rejected before it is executed: the JSON list `errors`."""
    extensions: dict[str, str | bool] = {"code": MEANINGS[error.code].extensions_code}
    if error.retryable:
        extensions["retryable"] = True
    return orjson.dumps([{"message": error.message, "extensions": extensions}])


def error_body(error: HttpError) -> bytes:
    """The same as a whole response body."""
    return b'{"errors":' + errors_json(error) + b"}"


GRAPHQL_FORMAT = ErrorFormat("application/json; charset=utf-8", error_body)


def _with_location(error: GraphQLError) -> dict[str, Any]:
    """The message, with `locations` and `path` if there are any. The first locations of a field that is repeated."""
    formatted: dict[str, Any] = {"message": shortened(with_json_null(error.message))}
    if error.locations:
        places = error.locations[:MAX_LOCATIONS]
        formatted["locations"] = [{"line": place.line, "column": place.column} for place in places]
    if error.path is not None:
        formatted["path"] = list(error.path)
    return formatted
