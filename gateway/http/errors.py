"""HttpError: why a request is rejected, independent of the surface. ErrorFormats: how each surface writes it."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from gateway.access.credentials import Headers, error_headers
from gateway.errors import MEANINGS, ErrorCode, GatewayError, internal_message, shortened
from gateway.http.scope import path_of


class HttpError(Exception):
    """Ends a request with an error response. The client sees `message`, shortened if it is long."""

    def __init__(
        self,
        status: int,
        message: str,
        code: ErrorCode = ErrorCode.INVALID,
        headers: Headers | None = None,
        *,
        retryable: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = shortened(message)
        self.code = code
        self.headers = headers or []
        self.retryable = retryable

    @staticmethod
    def of(error: GatewayError, *, basic: bool = False) -> "HttpError":
        """Returns the HTTP form of `error`: its status, and the headers that go with it, such as `Retry-After`.

        `basic`: a 401 also offers the `Basic` scheme.
        """
        headers = error_headers(error, basic=basic)
        return HttpError(
            MEANINGS[error.code].http_status, error.message, error.code, headers, retryable=error.retryable
        )

    @staticmethod
    def internal(request_id: str) -> "HttpError":
        """Returns the masked form of a bug. The log has its traceback under the same request id."""
        return HttpError(500, internal_message(request_id), ErrorCode.INTERNAL)


class ErrorFormat(NamedTuple):
    """How a surface writes an error: the media type, and the function that makes the body."""

    media_type: str
    body: Callable[[HttpError], bytes]


PLAIN_FORMAT = ErrorFormat("text/plain; charset=utf-8", lambda error: f"{error.message}\n".encode())


class ErrorFormats:
    """The formats of all surfaces, by the first segment of their paths. Other paths have the plain format.

    Middleware rejects requests before their route is known, so it chooses the format by the path. Formats are looked
    up only for errors: requests that succeed pay nothing.
    """

    def __init__(self, formats: Mapping[str, ErrorFormat]) -> None:
        """`formats` has keys such as `/api`."""
        self._formats = formats

    def find(self, path: str, default: ErrorFormat = PLAIN_FORMAT) -> ErrorFormat:
        """Returns the format of the surface that serves `path`, or `default` if none does."""
        return self._formats.get(_first_segment(path), default)

    def serves(self, path: str) -> bool:
        """Whether `path` is one of a surface."""
        return _first_segment(path) in self._formats

    def response(self, scope: Scope, error: HttpError) -> Response:
        """Returns the response to an HTTP request or WebSocket handshake."""
        error_format = self.find(path_of(scope))
        response = Response(error_format.body(error), error.status, media_type=error_format.media_type)
        response.raw_headers += error.headers
        return response

    async def no_route(self, request: Request, _error: Exception) -> Response:
        """Returns the 404 for a path without a route. A handler for `Starlette(exception_handlers=...)`."""
        message = f"No route matches the path {request.scope['path']!r}. `GET /` lists the endpoints."
        return self.response(request.scope, HttpError(404, message, ErrorCode.NOT_FOUND))


def _first_segment(path: str) -> str:
    return "/" + path.lstrip("/").partition("/")[0]  # errors that precede LeadingSlashMiddleware see the path `//api`
