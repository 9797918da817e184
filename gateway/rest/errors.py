"""What the API says no with: ManageIQ's error envelope, by status, kind, message and class."""

from typing import Self

import orjson

from gateway.access.credentials import Headers, asked_for
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
    """The request is not served. The message is written for the caller."""

    def __init__(self, status: int, kind: str, message: str, klass: str, headers: Headers | None = None) -> None:
        super().__init__(message)
        self.headers = headers or []
        self.status = status
        self.kind = kind
        self.message = message
        self.klass = klass

    @classmethod
    def of(cls, error: GatewayError) -> Self:
        """The same refusal in ManageIQ's words, with what its status asks for."""
        meaning, klass = MEANINGS[error.code], _CLASSES.get(error.code, _BAD_REQUEST)
        return cls(meaning.http_status, meaning.rest_kind, error.message, klass, asked_for(error, basic=True))

    def body(self) -> bytes:
        return orjson.dumps({"error": {"kind": self.kind, "message": self.message, "klass": self.klass}})


def bad_request(message: str, klass: str = _BAD_REQUEST) -> RestError:
    return RestError(400, "bad_request", message, klass)


def forbidden(message: str) -> RestError:
    return RestError(403, "forbidden", message, "Api::ForbiddenError")


def not_found(class_name: str, id: int | str) -> RestError:
    """There is no such row, or not for this caller, or not below this parent."""
    return RestError(404, "not_found", f"Couldn't find {class_name} with 'id'={id}", "ActiveRecord::RecordNotFound")


def no_route(method: str, path: str) -> RestError:
    return RestError(404, "not_found", f'No route matches [{method}] "{path}"', "ActionController::RoutingError")


def internal(request_id: str) -> RestError:
    """A bug, masked: the log has the rest under the same id."""
    return RestError(500, "internal_server_error", internal_message(request_id), _CLASSES[ErrorCode.INTERNAL])
