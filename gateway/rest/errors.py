"""Errors of the REST API in ManageIQ's envelope: status, kind, message and class."""

import orjson

from gateway.errors import ErrorCode
from gateway.http.errors import ErrorFormat, HttpError

# The kind and the class of an error, by its status. ManageIQ has no 409: what is one here is a bad request there.
KINDS = {
    400: ("bad_request", "Api::BadRequestError"),
    401: ("unauthorized", "Api::BaseController::Authentication::AuthenticationError"),
    403: ("forbidden", "Api::ForbiddenError"),
    404: ("not_found", "ActiveRecord::RecordNotFound"),
    405: ("method_not_allowed", "Api::BadRequestError"),
    406: ("not_acceptable", "Api::BadRequestError"),
    408: ("request_timeout", "Api::RequestTimeoutError"),
    409: ("bad_request", "Api::BadRequestError"),
    413: ("payload_too_large", "Api::PayloadTooLargeError"),
    414: ("uri_too_long", "Api::BadRequestError"),
    415: ("unsupported_media_type", "Api::UnsupportedMediaTypeError"),
    421: ("misdirected_request", "Api::BadRequestError"),
    429: ("too_many_requests", "Api::TooManyRequestsError"),
    431: ("request_header_fields_too_large", "Api::BadRequestError"),
    500: ("internal_server_error", "Api::InternalServerError"),
    502: ("bad_gateway", "Api::BadRequestError"),
    503: ("service_unavailable", "Api::ServiceUnavailableError"),
    504: ("gateway_timeout", "Api::InternalServerError"),
}


class RestError(HttpError):
    """An HttpError that REST's own code raises. `klass` replaces the class that goes with the status."""

    def __init__(
        self, status: int, message: str, code: ErrorCode = ErrorCode.INVALID, *, klass: str | None = None
    ) -> None:
        super().__init__(status, message, code)
        self.klass = klass


def error_body(error: HttpError) -> bytes:
    """The JSON body of an error response."""
    kind, klass = KINDS[error.status]
    if isinstance(error, RestError):
        klass = error.klass or klass
    return orjson.dumps({"error": {"kind": kind, "message": error.message, "klass": klass}})


REST_FORMAT = ErrorFormat("application/json; charset=utf-8", error_body)


def bad_request(message: str, klass: str | None = None) -> RestError:
    """The request is invalid."""
    return RestError(400, message, klass=klass)


def forbidden(message: str) -> RestError:
    """The caller lacks a right."""
    return RestError(403, message, ErrorCode.FORBIDDEN)


def not_found(class_name: str, id: int | str) -> RestError:
    """The row does not exist, or the caller may not see it, or it belongs to another parent."""
    return RestError(404, f"Couldn't find {class_name} with 'id'={id}", ErrorCode.NOT_FOUND)


def no_route(method: str, path: str) -> RestError:
    """The path, or the method on this path, does not exist."""
    message = f'No route matches [{method}] "{path}"'
    return RestError(404, message, ErrorCode.NOT_FOUND, klass="ActionController::RoutingError")
