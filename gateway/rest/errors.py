"""Errors of the REST API in ManageIQ's envelope: status, kind, message and class."""

from typing import Self

import orjson

from gateway.access.credentials import Headers, error_headers
from gateway.errors import MEANINGS, ErrorCode, GatewayError, internal_message

_BAD_REQUEST = "Api::BadRequestError"
_CLASSES = {
    ErrorCode.INVALID: _BAD_REQUEST,
    ErrorCode.UNAUTHENTICATED: "Api::BaseController::Authentication::AuthenticationError",
    ErrorCode.FORBIDDEN: "Api::ForbiddenError",
    ErrorCode.NOT_FOUND: "ActiveRecord::RecordNotFound",
    ErrorCode.LIMIT_EXCEEDED: "Api::TooManyRequestsError",
    ErrorCode.OUTCOME_UNKNOWN: "Api::InternalServerError",
    ErrorCode.UNAVAILABLE: "Api::ServiceUnavailableError",
    ErrorCode.INTERNAL: "Api::InternalServerError",
}


class RestError(Exception):
    """Ends a request with an error response. The caller sees `message`."""

    def __init__(self, status: int, kind: str, message: str, klass: str, headers: Headers | None = None) -> None:
        super().__init__(message)
        self.headers = headers or []
        self.status = status
        self.kind = kind
        self.message = message
        self.klass = klass

    @classmethod
    def of(cls, error: GatewayError) -> Self:
        """The error as ManageIQ's clients expect it, with the headers that its status requires."""
        meaning, klass = MEANINGS[error.code], _CLASSES.get(error.code, _BAD_REQUEST)
        return cls(meaning.http_status, meaning.rest_kind, error.message, klass, error_headers(error, basic=True))

    def body(self) -> bytes:
        """The JSON body of the response."""
        return orjson.dumps({"error": {"kind": self.kind, "message": self.message, "klass": self.klass}})


def bad_request(message: str, klass: str = _BAD_REQUEST) -> RestError:
    """The request is invalid."""
    return RestError(400, "bad_request", message, klass)


def forbidden(message: str) -> RestError:
    """The caller lacks a right."""
    return RestError(403, "forbidden", message, "Api::ForbiddenError")


def not_found(class_name: str, id: int | str) -> RestError:
    """The row does not exist, or the caller may not see it, or it belongs to another parent."""
    return RestError(404, "not_found", f"Couldn't find {class_name} with 'id'={id}", "ActiveRecord::RecordNotFound")


def no_route(method: str, path: str) -> RestError:
    """The path, or the method on this path, does not exist."""
    return RestError(404, "not_found", f'No route matches [{method}] "{path}"', "ActionController::RoutingError")


def internal(request_id: str) -> RestError:
    """An internal error, masked. The log has the details under the same request id."""
    return RestError(500, "internal_server_error", internal_message(request_id), _CLASSES[ErrorCode.INTERNAL])
