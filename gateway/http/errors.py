"""HttpError: the response to a request that was rejected before it reached GraphQL; its body has GraphQL's shape."""

import orjson
from starlette.types import Send

from gateway.access.credentials import Headers, error_headers
from gateway.errors import MEANINGS, ErrorCode, GatewayError, internal_message


class HttpError(Exception):
    """A response without GraphQL data: a status, headers, and a body with one error. The client sees `message`."""

    retryable = False

    def __init__(self, status: int, message: str, code: ErrorCode = ErrorCode.INVALID, headers: Headers | None = None):
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.headers = headers or []

    @classmethod
    def of(cls, error: GatewayError) -> "HttpError":
        """Returns the HTTP form of `error`: its status, and the headers that go with it, such as `Retry-After`."""
        meaning = MEANINGS[error.code]
        http_error = cls(meaning.http_status, error.message, error.code, error_headers(error))
        http_error.retryable = meaning.retryable
        return http_error

    @classmethod
    def internal(cls, request_id: str) -> "HttpError":
        """Returns the masked form of a bug. The log has its traceback under the same request id."""
        return cls(500, internal_message(request_id), ErrorCode.INTERNAL)

    def body(self) -> bytes:
        """Returns the JSON body `{"errors": [...]}`."""
        return b'{"errors":' + errors_json(self.message, self.code, retryable=self.retryable) + b"}"

    async def send(self, send: Send, event: str = "http.response") -> None:
        """Sends the whole response in ASGI events with the prefix `event`."""
        body = self.body()
        headers = [
            (b"content-type", b"application/json; charset=utf-8"),
            (b"content-length", b"%d" % len(body)),
            *self.headers,
        ]
        await send({"type": f"{event}.start", "status": self.status, "headers": headers})
        await send({"type": f"{event}.body", "body": body})


def errors_json(message: str, code: ErrorCode, *, retryable: bool = False) -> bytes:
    """Returns a list of one GraphQL error as JSON."""
    extensions: dict[str, str | bool] = {"code": MEANINGS[code].extensions_code}
    if retryable:
        extensions["retryable"] = True
    return orjson.dumps([{"message": message, "extensions": extensions}])
