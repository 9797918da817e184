"""Top-level errors: what a client sees of them, and what only the log does."""

import logging
from collections.abc import Sequence
from typing import Any

from graphql import GraphQLError, GraphQLSyntaxError

from gateway.errors import MEANINGS, ErrorCode, GatewayError, internal_message
from gateway.http.request_id import REQUEST_ID
from gateway.reads.compiler import UnboundArgument

log = logging.getLogger(__name__)

VALIDATION_FAILED = "GRAPHQL_VALIDATION_FAILED"
PARSE_FAILED = "GRAPHQL_PARSE_FAILED"
BAD_USER_INPUT = MEANINGS[ErrorCode.INVALID].extensions_code
LIMIT_EXCEEDED = MEANINGS[ErrorCode.LIMIT_EXCEEDED].extensions_code


class RequestError(Exception):
    """The request cannot be run at all: an answer without `data`."""

    def __init__(self, errors: Sequence[GraphQLError], code: str = BAD_USER_INPUT) -> None:
        super().__init__()
        self.shown = [refused(error, code) for error in errors]


def refused(error: GraphQLError, code: str = BAD_USER_INPUT) -> dict[str, Any]:
    """What GraphQL found wrong with a request before anything ran, as JSON: never a bug, whatever a scalar raised."""
    return _placed(error) | {"extensions": {"code": PARSE_FAILED if isinstance(error, GraphQLSyntaxError) else code}}


def present(error: GraphQLError) -> dict[str, Any]:
    """What went wrong with a field, as JSON."""
    cause: BaseException | None = error.original_error
    if isinstance(cause, UnboundArgument):
        cause = cause.error
    if cause is None or isinstance(cause, GraphQLError):
        return refused(error)
    shown = _placed(error)
    if isinstance(cause, GatewayError):
        meaning = MEANINGS[cause.code]
        shown["message"] = cause.message
        shown["extensions"] = {"code": meaning.extensions_code}
        if meaning.retryable:
            shown["extensions"]["retryable"] = True
    else:
        request_id = REQUEST_ID.get()
        log.error("a field failed, request id %s", request_id, exc_info=cause)
        shown["message"] = internal_message(request_id)
        shown["extensions"] = {"code": MEANINGS[ErrorCode.INTERNAL].extensions_code}
    return shown


def _placed(error: GraphQLError) -> dict[str, Any]:
    shown: dict[str, Any] = {"message": error.message}
    if error.locations:
        shown["locations"] = [{"line": place.line, "column": place.column} for place in error.locations]
    if error.path is not None:
        shown["path"] = list(error.path)
    return shown
